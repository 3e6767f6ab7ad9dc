"""The leak guard: a test that leaves something behind fails, and the message names it.

Looked at are names in /dev/shm, processes (orphans too), descriptors and threads.
What ends by itself within `GRACE` seconds was not left behind. `conftest.py` imports
the two fixtures; `test_guard.py` plants each kind of leak.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq

from tests.support import private_shm

GRACE = 2.0
"""Seconds in which deaths, closes and unlinks that are under way may finish."""

GRACE_IN_COMPANY = 180.0
"""Where another worker's tests use the same /dev/shm: seconds in which each of them ends."""

MARK = f"ARRAYD_GUARD_{os.getpid()}"
"""In the environment of every process that comes, however indirectly, from this session."""

os.environ[MARK] = "1"

# Python and loky start these once and keep them until the interpreter ends.
_HELPERS = re.compile(r"resource_tracker|forkserver")
_TRACKERS = (
    "multiprocessing.resource_tracker",
    "joblib.externals.loky.backend.resource_tracker",
)


kept: set[int] = set()
"""The daemon that lives longer than a test (`shared_daemon.py`): that its loaders end is looked at
when it has ended."""


@dataclass(frozen=True)
class Snapshot:
    """What there is at one moment."""

    names: frozenset[str]
    pids: frozenset[int]
    descriptors: frozenset[tuple[int, str]]
    threads: frozenset[threading.Thread]

    @classmethod
    def take(cls) -> Snapshot:
        """Return what there is now."""
        return cls(_names(), _pids(), _descriptors(), frozenset(threading.enumerate()))

    def leaks(self) -> list[str]:
        """Return a line for each thing that came since this snapshot and is still there."""
        now = Snapshot.take()
        # By number, for a connection that was made anew is not one more.
        opened = now.descriptors - self.descriptors
        grown = len(now.descriptors) > len(self.descriptors)
        return [
            *(f"/dev/shm/{name}" for name in sorted(now.names - self.names)),
            *(
                f"process {pid}: {cmd}"
                for pid in sorted(now.pids - self.pids)
                if (cmd := _ours(pid))
            ),
            *(f"descriptor {fd}: {target}" for fd, target in sorted(opened) if grown),
            *(f"thread {thread}" for thread in now.threads - self.threads if _counts(thread)),
        ]

    def check(self) -> None:
        """Fail the running test unless all is as it was, at the latest after `GRACE`."""
        start = time.monotonic()
        while leaks := self.leaks():
            gc.collect()  # an exception a test looked at keeps its frames alive in a cycle
            if time.monotonic() > start + GRACE:
                leaks = [leak for leak in leaks if not _foreign(leak)]
                late = time.monotonic() > start + GRACE_IN_COMPANY
                if late or not leaks or not private_shm.in_company:
                    break
            time.sleep(0.01)
        if leaks:
            pytest.fail("left behind:\n  " + "\n  ".join(leaks), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def session_leaves_nothing(daemon_forks: None) -> Iterator[None]:
    """Fail the last test if the session as a whole left something behind."""
    # pyzmq's default context and its threads' descriptors live as long as the process.
    zmq.Context.instance().socket(zmq.DEALER).close()
    before = Snapshot.take()
    yield
    before.check()


@pytest.fixture(autouse=True)
def leaves_nothing(session_leaves_nothing: None, module_daemon: object) -> Iterator[None]:
    """Fail a test that leaves something behind; a daemon of its module was there before."""
    before = Snapshot.take()
    yield
    before.check()


def _names() -> frozenset[str]:
    return frozenset(name for name in os.listdir("/dev/shm") if name.startswith("arrayd"))


def _pids() -> frozenset[int]:
    return frozenset(int(name) for name in os.listdir("/proc") if name.isdecimal())


def _ours(pid: int) -> str:
    """Return the command line of `pid` if it comes from this session, else an empty string."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone, or another user's
        return ""
    parent = int(stat.rpartition(")")[2].split()[1])
    ours = parent == os.getpid() or f"{MARK}=".encode() in environ
    if {pid, parent} & kept or _HELPERS.search(command) or not ours:
        return ""
    return command.strip() or "(not waited for)"


def _descriptors() -> frozenset[tuple[int, str]]:
    kept = {sys.modules[name]._resource_tracker._fd for name in _TRACKERS if name in sys.modules}
    found = set()
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
        except FileNotFoundError:  # the one that listed the directory
            continue
    return frozenset((fd, target) for fd, target in found if fd not in kept)


def _counts(thread: threading.Thread) -> bool:
    # tqdm's monitor starts with the first bar and stays.
    return thread.is_alive() and type(thread).__name__ != "TMonitor"


def _foreign(leak: str) -> bool:
    """Whether `leak` is a name in /dev/shm that a process outside this session works with.

    Another daemon, or another run of these tests, may be busy on the same machine. It has
    its segments open or mapped, or the lock of their scope.
    """
    if not leak.startswith("/dev/shm/"):
        return False
    parts = leak.split("-")  # arrayd-SCOPE-RUN-N, a segment, or arrayd-UID-SCOPE, its directory
    scope = parts[2] if len(parts) == 3 else parts[1]
    strangers = (pid for pid in _pids() - {os.getpid()} if not _ours(pid))
    paths = (path for pid in strangers for path in _open_files(pid) if "/dev/shm/arrayd-" in path)
    return any(f"-{scope}" in path for path in paths)


def _open_files(pid: int) -> Iterator[str]:
    """Yield the files that a process has open or mapped, as far as we may see."""
    with contextlib.suppress(OSError):  # gone, or another user's
        yield from Path(f"/proc/{pid}/maps").read_text().splitlines()
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                yield os.readlink(f"/proc/{pid}/fd/{fd}")
