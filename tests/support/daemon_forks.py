"""Daemons that are forked from a process that has imported what they need.

A daemon that is started by exec takes half a second of a CPU to import its modules; the tests start
a thousand, and do not test that each time. So each test session has one process that has done it
(``python -m tests.support.daemon_forks``), and forks when it is asked to. The new process is the
session's own child, as `arrayd_server.loading.fork_program` makes them; it has the arguments,
environment, folder and streams that it is given, and runs `arrayd_server.program.main`. What it
shows of itself in /proc (``cmdline``, ``environ``) is that of the process it comes from. A daemon
with a `wrapper` is started by exec, and so is any that a client, a command or systemd starts.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from arrayd.common import failpoints
from arrayd_server import program
from arrayd_server.loading.fork_program import fork_for_parent

ROOT = Path(__file__).resolve().parents[2]

MAX_REQUEST = 1 << 18
"""Bytes of a request; most of it is the environment."""

ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Of the process that forks: one with several threads could not."""


class ForkedProcess:
    """A child of ours that somebody else has forked: what of `subprocess.Popen` the tests use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._reaping = threading.Lock()

    def poll(self) -> int | None:
        """Return its exit code, or minus the number of a signal; None: it runs."""
        with self._reaping:
            if self.returncode is None and (found := os.waitpid(self.pid, os.WNOHANG))[0]:
                self.returncode = os.waitstatus_to_exitcode(found[1])
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises
        ------
        subprocess.TimeoutExpired
            It has not ended in `timeout` seconds.
        """
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # another thread has just reaped it
                pidfd = os.pidfd_open(self.pid)
                try:
                    ended = select.select([pidfd], [], [], timeout)[0]
                finally:
                    os.close(pidfd)
                if not ended:
                    assert timeout is not None
                    raise subprocess.TimeoutExpired("arrayd_server", timeout)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        with self._reaping:
            if self.returncode is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)


class DaemonForks:
    """The process that daemons are forked from, from its start to `close`."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=ROOT,
                env={**os.environ, **ONE_THREAD},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: int
    ) -> ForkedProcess:
        """Start a daemon in our folder; `log` is where its output goes."""
        asked = {"arguments": arguments, "environment": environment, "folder": os.getcwd()}
        with self._asking:
            socket.send_fds(self._sock, [json.dumps(asked).encode()], [log])
            return ForkedProcess(int(self._sock.recv(32)))

    def close(self) -> None:
        """Let it end."""
        self._sock.close()
        self._process.wait()


def _serve(requests: socket.socket) -> bool:
    """Fork for each request; return False when there are no more, and True in a new process."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST, 1)
        if not data:
            return False
        (log,) = descriptors
        pid = fork_for_parent()
        if pid == 0:
            _become(json.loads(data), log)
            return True
        requests.send(str(pid).encode())
        os.close(log)


def _become(asked: Mapping[str, object], log: int) -> None:
    arguments, environment = asked["arguments"], asked["environment"]
    assert isinstance(arguments, list)
    assert isinstance(environment, dict)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    os.chdir(str(asked["folder"]))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    if os.environ.get(failpoints.VARIABLE):
        importlib.reload(failpoints)  # it looks at the environment when it is imported


def main() -> int:
    """Fork as long as somebody may ask; return the exit code, in a daemon that of the daemon."""
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        forked = _serve(requests)
    return program.main() if forked else 0


if __name__ == "__main__":
    sys.exit(main())
