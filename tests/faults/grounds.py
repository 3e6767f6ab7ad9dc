"""Where faults of the environment are set up: a /dev/shm of its own, and halts at failpoints."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arrayd.common import failpoints
from tests.support.daemons import Daemon
from tests.support.processes import wait_until

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and mounts need root")

MIB = 1 << 20

_HOLDER = 'mount -t tmpfs -o "$0" tmpfs /dev/shm && echo ready && exec cat'


class Ground:
    """A mount namespace with a small /dev/shm, for daemons and puppets (`wrapper`).

    Parameters
    ----------
    options
        Of the tmpfs: ``size=16M``, ``nr_inodes=20``.
    """

    def __init__(self, options: str) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", _HOLDER, options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.wrapper = ("nsenter", "-t", str(self._holder.pid), "-m")
        self.shm = Path(f"/proc/{self._holder.pid}/root/dev/shm")
        self._filler = self.shm / "filler"

    @property
    def free(self) -> int:
        """Return the free bytes."""
        facts = os.statvfs(self.shm)
        return facts.f_bavail * facts.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Let somebody else have all but `leave` bytes."""
        fd = os.open(self._filler, os.O_RDWR | os.O_CREAT)
        try:
            while (more := self.free - leave) > 0:
                os.posix_fallocate(fd, os.fstat(fd).st_size, more)
        finally:
            os.close(fd)

    def fill_inodes(self) -> None:
        """Let somebody else have all inodes: each link of a file takes one."""
        self._filler.touch()
        with contextlib.suppress(OSError):
            for number in range(10_000):
                os.link(self._filler, f"{self._filler}{number}")

    def empty(self) -> None:
        """Let that somebody go."""
        for path in self.shm.glob("filler*"):
            path.unlink()

    def names(self) -> list[str]:
        """Return all there is."""
        return sorted(os.listdir(self.shm))

    def close(self) -> None:
        """Give the namespace up."""
        self._holder.communicate()


@pytest.fixture
def ground() -> Iterator[Callable[[str], Ground]]:
    """Give ``ground(options)``; it must be left empty."""
    grounds: list[Ground] = []

    def lay(options: str) -> Ground:
        grounds.append(Ground(options))
        return grounds[-1]

    yield lay
    for one in grounds:
        one.close()


def is_stopped(pid: int) -> bool:
    """Say whether a process is stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextlib.contextmanager
def halted(folder: Path, point: str) -> Iterator[int]:
    """Wait until a process has come to a point that was armed with ``stop``; then let it go on."""

    def halts() -> list[int]:
        numbers = [path.suffix[1:] for path in folder.glob(f"{point}.*")]
        return [int(pid) for pid in numbers if pid != "0" and is_stopped(int(pid))]

    wait_until(halts, f"somebody stops at {point}")
    (pid,) = halts()
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Let a process stand still meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: is_stopped(pid), "it stands still")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the directory in which failpoints of daemons started later are armed."""
    folder = tmp_path / "points"
    folder.mkdir()
    monkeypatch.setenv(failpoints.VARIABLE, str(folder))
    return folder


def alive(daemon: Daemon) -> bool:
    """Say whether the daemon's process runs."""
    return daemon.process is not None and daemon.process.poll() is None
