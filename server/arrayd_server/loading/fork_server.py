"""The fork server, as the daemon sees it: start it, ask it for processes, do without it.

Theory of operation
-------------------
A process that reads users' files is a Python with numpy and a hundred modules of ours, which take
half a second to import and 20 MB to keep. The *fork server* (as in `multiprocessing`) has imported
them, and does nothing else: a fork of it takes milliseconds, and shares its pages.

*Nothing is inherited.* The daemon must not be forked, for a child would have its descriptors and
mappings of segments, where the lease test does not see them. The fork server is started by exec,
and has one descriptor: its socket. It has one thread, reads no file of a user, and maps no segment.

*Whose children.* It forks with CLONE_PARENT (clone(2)): a new process is a child of the daemon, as
if the daemon had started it. So the daemon hears of its death, and reaps it, and it dies with the
daemon; the death of the fork server is no harm to those it has forked.

*A request* is the name of a module and an amount of memory, with one end of a socket pair. The new
process writes its number there, and then runs the module's ``main()``. The number of a child that
is not reaped stays its own, so the daemon takes a pidfd by it. The daemon waits for nothing: until
the number is there, it keeps what it has to send. If the fork server has died, or may not fork, the
other end is closed unused, and the process is started by exec. If there is no answer in
`ANSWER_TIMEOUT`, the fork server is killed, which comes to the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
import subprocess
import time
from collections.abc import Sequence

from arrayd_server.loading import early_start

log = logging.getLogger(__name__)

ANSWER_TIMEOUT = 10.0
"""Seconds in which a process must be there, the start of the fork server included."""

RETRY_AFTER = 60.0
"""Seconds from the end of a fork server until there is another: it may end each time."""

CLOSE_TIMEOUT = 2.0
"""Seconds that `ForkServer.close` waits for its death."""


class ForkServer:
    """The fork server of a daemon. It runs from `start`, or from the first `fork` on.

    That of a private daemon was begun before (`early_start`), and is taken over.

    Parameters
    ----------
    modules
        A process that it forks runs ``main()`` of one of them. It imports the first at once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, modules: Sequence[str]) -> None:
        self.loop = loop
        self._modules = modules
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._requests: socket.socket
        self._not_before = 0.0

    @property
    def pid(self) -> int:
        """Its process; 0: there is none."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, unless it runs or cannot."""
        if self._process is not None or time.monotonic() < self._not_before:
            return
        if os.uname().machine not in early_start.CLONE:
            return
        try:
            process, requests = early_start.taken(self._modules) or early_start.begun(self._modules)
        except OSError as error:
            log.warning("no fork server can be started: %s", error.strerror)
            return
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except OSError as error:
            log.warning("no fork server can be started: %s", error.strerror)
            requests.close()
            process.kill()
            process.wait()
            return
        self._process, self._requests = process, requests
        self.loop.add_reader(self._pidfd, self._on_end)

    def fork(self, module: str, memory: int) -> socket.socket | None:
        """Ask for a process that runs a module and may use `memory` bytes.

        Returns
        -------
        socket
            Which does not block. The process will write its number there, in `PID_BYTES`; or
            there is none, and no more comes. None: there is no fork server.

        Raises
        ------
        OSError
            The system has no descriptor for it.
        """
        if module not in self._modules:
            return None
        self.start()
        if self._process is None:
            return None
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                request = f"{module} {memory}".encode()
                socket.send_fds(self._requests, [request], [theirs.fileno()])
            except OSError:  # it is dead, or does not read
                ours.close()
                return None
        return ours

    def kill(self) -> None:
        """End it; processes that it has forked go on."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End it, and wait for that; there is no other one afterwards."""
        self._not_before = math.inf
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_TIMEOUT)
            self._forget()

    def _on_end(self) -> None:
        assert self._process is not None
        log.warning("fork server %d ended (status %d)", self._process.pid, self._process.wait())
        self._forget()
        self._not_before = time.monotonic() + RETRY_AFTER

    def _forget(self) -> None:
        self.loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._requests.close()
        self._process = None
