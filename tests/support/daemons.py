"""Daemons for tests, watched by the registry's `check()`.

`conftest.py` imports `start_daemon`; the fixture `daemon` is in `shared_daemon.py`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from arrayd_server.segments.scope import Scope
from tests.support.daemon_forks import DaemonForks, ForkedProcess

forks: DaemonForks | None = None
"""What daemons are forked from in a test session; without it, in a script, all are started."""

PATIENCE = 20.0
"""Seconds in which a daemon starts or ends, even on a busy machine."""

WITHOUT_POWERS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
"""Wraps a daemon of root's that may not read what root's user may not."""


@dataclass
class Daemon:
    """A daemon process on an endpoint in a directory of its own.

    Parameters
    ----------
    directory
        Short, for a socket's path has at most 107 bytes. Holds the socket and the log.
    flags
        Options of ``python -m arrayd_server`` besides ``--check`` and ``--endpoint``.
    wrapper
        A command that becomes the daemon's by exec: ``setpriv …``, ``unshare -m …``. Without one
        the daemon is forked: see `daemon_forks`.
    variables
        More of its environment.
    """

    directory: Path
    flags: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | ForkedProcess | None = field(default=None, repr=False)
    told: int = field(default=0, repr=False)

    @property
    def endpoint(self) -> str:
        """Return where it listens."""
        return f"ipc://{self.directory}/sock"

    @property
    def pid(self) -> int:
        """Return its process id; the daemon runs."""
        assert self.process is not None, "the daemon does not run"
        return self.process.pid

    @property
    def log(self) -> str:
        """Return all that it wrote, over all its runs, since `forget_log`."""
        return (self.directory / "log").read_bytes()[self.told :].decode()

    def forget_log(self) -> None:
        """Let the log begin here."""
        self.told = (self.directory / "log").stat().st_size

    @property
    def segments(self) -> list[str]:
        """Return the names of its segments in /dev/shm, as clients see them."""
        family = Scope(self.endpoint).family
        return sorted(name for name in os.listdir("/dev/shm") if name.startswith(family))

    def start(self) -> None:
        """Start it (again), and wait until it serves."""
        assert self.process is None, "the daemon runs already"
        # Not where an earlier one still tells its status.
        notify = self.directory / f"notify-{secrets.token_hex(4)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(notify))
            self.process = self.launched(NOTIFY_SOCKET=str(notify))
            self._wait(ready)
        notify.unlink()

    def launched(self, **variables: str) -> subprocess.Popen[bytes] | ForkedProcess:
        """Start it, with more variables in its environment, without waiting until it serves."""
        arguments = ["--check", "--endpoint", self.endpoint, *self.flags]
        environment = {**os.environ, **self.variables, **variables}
        with (self.directory / "log").open("ab") as log:
            if forks is not None and not self.wrapper:
                return forks.start(arguments, environment, log.fileno())
            return subprocess.Popen(
                [*self.wrapper, sys.executable, "-m", "arrayd_server", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it as that signal does, and assert that it ended well and its rules held."""
        code = self.end(number)
        assert code == 0, f"the daemon ended with {code}:\n{self.log}"
        assert "Traceback" not in self.log, f"the daemon failed:\n{self.log}"

    def kill(self) -> None:
        """End it as a crash would."""
        self.end(signal.SIGKILL)

    def end(self, number: int) -> int:
        """Send a signal, and return the exit code."""
        assert self.process is not None, "the daemon does not run"
        process, self.process = self.process, None
        process.send_signal(number)
        try:
            return process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"signal {number} does not end the daemon:\n{self.log}")

    def leftovers(self) -> list[str]:
        """Return what it has in /dev/shm: segments and its private directory."""
        scope = Scope(self.endpoint)
        own = [os.path.basename(scope.directory)] if os.path.exists(scope.directory) else []
        return self.segments + own

    def _wait(self, ready: socket.socket) -> None:
        pidfd = os.pidfd_open(self.pid)
        try:
            while ready.fileno() in select.select([ready.fileno(), pidfd], [], [], PATIENCE)[0]:
                if ready.recv(4096).startswith(b"READY=1"):
                    return
        finally:
            os.close(pidfd)
        self.end(signal.SIGKILL)
        pytest.fail(f"the daemon does not start:\n{self.log}")

    def discard(self) -> None:
        """Remove by force all that may be left; for the end of a test that failed."""
        if self.process is not None:
            self.end(signal.SIGKILL)
        scope = Scope(self.endpoint)
        shutil.rmtree(scope.directory, ignore_errors=True)
        for name in self.segments:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"/dev/shm/{name}")


@pytest.fixture(scope="session")
def daemon_forks() -> Iterator[None]:
    """Have the daemons of this session forked."""
    global forks  # noqa: PLW0603  scripts start daemons too, without a fixture
    forks = DaemonForks()
    yield
    forks.close()
    forks = None


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Give a directory whose name leaves room for a socket; pytest's may not."""
    with tempfile.TemporaryDirectory(prefix="ad", dir="/tmp") as name:
        yield Path(name)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Callable[..., Daemon]]:
    """Give ``start(*flags)``: daemons that have ended well, leaving nothing, at the end."""
    daemons: list[Daemon] = []

    def start(*flags: str, wrapper: tuple[str, ...] = ()) -> Daemon:
        directory = folder / str(len(daemons))
        directory.mkdir(mode=0o700)
        daemons.append(Daemon(directory, flags, wrapper))
        daemons[-1].start()
        return daemons[-1]

    try:
        yield start
        for one in daemons:
            if one.process is not None:
                one.stop()
            assert one.leftovers() == [], one.log
            assert "Traceback" not in one.log, one.log
    finally:
        for one in daemons:
            one.discard()


@pytest.fixture
def start_daemon(short_directory: Path) -> Iterator[Callable[..., Daemon]]:
    """Give ``start_daemon(*flags)``: daemons that have ended well, leaving nothing, after the test.

    A test may stop, kill and start them as it likes. Segments that its own processes still
    map when they end are left, and fail it: release them first.
    """
    with running(short_directory) as start:
        yield start
