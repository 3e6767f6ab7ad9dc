"""Processes of the daemon that read users' files: how one is started, spoken to, and ends.

It comes from the `fork_server`, or from exec where that cannot; never from a fork of the daemon.
What it does at first says `process_start`. It dies with the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arrayd.common import failpoints
from arrayd.wire.codec import pack
from arrayd_server.loading import fork_server
from arrayd_server.loading.execute import execute
from arrayd_server.loading.fork_program import PID_BYTES
from arrayd_server.loading.fork_server import ForkServer


class OwnProcess:
    """A process that reads users' files, from its start until it has been reaped.

    Parameters
    ----------
    forks
        Where it comes from, if it can.
    program
        What ``python`` runs: ``-m MODULE``, or else it is not forked.
    memory
        Bytes that it may use.
    on_readable
        Called with it when there is something to read from `sock`, or its end.
    on_exit
        Called once: with it and its exit code, or minus the number of the signal, when it is dead
        after `detach`; with an OSError when it could not be started after all.

    Raises
    ------
    OSError
        The system has no process or descriptor for it.
    """

    def __init__(
        self,
        forks: ForkServer,
        program: Sequence[str],
        memory: int,
        *,
        on_readable: Callable[[Any], None],
        on_exit: Callable[[Any, int | OSError], None],
    ) -> None:
        failpoints.hit("daemon.spawning")
        self.pid = 0  # it is not there yet
        self.memory = memory
        self._pidfd = -1
        self._loop = forks.loop
        self._forks = forks
        self._program = program
        self._on_readable = on_readable
        self._on_exit = on_exit
        self._unsent = bytearray()  # one that is stopped must not block the daemon
        self._killed = self.detached = False
        self._patience: asyncio.TimerHandle | None = None
        sock = forks.fork(program[1], memory) if program[:-1] == ("-m",) else None
        if sock is None:
            self._execute()
        else:
            self.sock = sock
            self._patience = self._loop.call_later(fork_server.ANSWER_TIMEOUT, forks.kill)
            self._loop.add_reader(sock, self._on_number)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send now, or when the socket has room."""
        self._unsent += pack(message)
        if self.pid:
            self._flush()

    def kill(self) -> None:
        """Send it SIGKILL, at once or as soon as it is there."""
        self._killed = True
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):  # it is dead
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def detach(self) -> None:
        """Neither read from it nor send to it any more; wait for its death."""
        self.detached = True
        if self.pid:
            self._loop.remove_reader(self.sock)
            self._loop.remove_writer(self.sock)
            self.sock.close()
            self._loop.add_reader(self._pidfd, self._on_death)

    def reap(self, until: float) -> bool:
        """Wait for the death of one that was killed and detached; False: it survives that.

        Parameters
        ----------
        until
            Until when, by `time.monotonic`. ``on_exit`` is not called.
        """
        if not self.pid:
            self.sock.settimeout(max(0.001, until - time.monotonic()))
            self._on_exit = lambda *_: None
            self._on_number()
        if self._pidfd < 0:
            return True
        self._loop.remove_reader(self._pidfd)
        poll = select.poll()  # select(2) knows no descriptors beyond 1023
        poll.register(self._pidfd, select.POLLIN)
        dead = bool(poll.poll(max(0.0, until - time.monotonic()) * 1e3))
        if dead:
            self._wait()
        self._close_pidfd()
        return dead

    # ---- the start -----------------------------------------------------------------------

    def _on_number(self) -> None:
        """Take the number of the forked process; without one, start it by exec."""
        try:
            data = self.sock.recv(PID_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._loop.remove_reader(self.sock)
        if self._patience is not None:
            self._patience.cancel()
        try:
            if len(data) == PID_BYTES:
                self._begin(int.from_bytes(data, "little"))
                return
            self.sock.close()
            if not self._killed and not self.detached:
                self._execute()
                return
        except OSError as error:
            self._on_exit(self, error)
        else:
            self._on_exit(self, -signal.SIGKILL)

    def _execute(self) -> None:
        process, self.sock = execute(self._program, self.memory)
        process.returncode = 0  # we reap it, not `subprocess`
        self._begin(process.pid)

    def _begin(self, pid: int) -> None:
        """Listen to the process, which is there now; send what it is to be sent."""
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            self.sock.close()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self.pid = pid
        if self._killed:
            self.kill()
        if self.detached:
            self.detach()
            return
        self._loop.add_reader(self.sock, self._on_readable, self)
        self._flush()

    def _flush(self) -> None:
        try:
            del self._unsent[: self.sock.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # it has closed its end; reading ours will notice
            self._unsent.clear()
            self.kill()
        if self._unsent:
            self._loop.add_writer(self.sock, self._flush)
        else:
            self._loop.remove_writer(self.sock)

    # ---- the end -------------------------------------------------------------------------

    def _on_death(self) -> None:
        self._loop.remove_reader(self._pidfd)
        code = self._wait()
        self._close_pidfd()
        self._on_exit(self, code)

    def _close_pidfd(self) -> None:
        os.close(self._pidfd)
        self._pidfd = -1

    def _wait(self) -> int:
        """Reap it, which is dead; return how it ended."""
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except ChildProcessError:  # whoever started the daemon ignored SIGCHLD
            return 0
        assert result is not None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def cause(code: int) -> str:
    """Return in words how a process ended; see ``on_exit``."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
