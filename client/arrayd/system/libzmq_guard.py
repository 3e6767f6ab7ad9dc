"""What a session takes from the system, proven before libzmq takes it.

libzmq aborts the whole program where it cannot have a descriptor or a thread, and where
somebody closes its descriptors. So we look first, and raise what can be caught.
"""

from __future__ import annotations

import _thread
import mmap
import operator
import os
import resource
import time
from collections.abc import Callable

from arrayd.errors import NoRoom
from arrayd.system.signal_safe import descriptors, open_atomically

DESCRIPTORS = 16
"""Descriptors that must be free for a session: it takes 11, other threads a few meanwhile."""

THREADS = 3
"""Threads that a session starts: two of libzmq's, and the flusher."""

MARGIN = 4 << 20
"""Bytes of address space for their first steps: the C library aborts a program in which a
thread has a stack and no memory for its thread-local data."""

_EXIT = 0.2
"""Seconds in which a thread that has done its work is gone."""


def check_descriptors(count: int) -> None:
    """Raise unless so many descriptors are free.

    Raises
    ------
    NoRoom
        They are not.
    """
    with descriptors() as taken:
        try:
            first = open_atomically(taken, os.memfd_create, "arrayd", os.MFD_CLOEXEC)
            taken.extend(map(os.dup, [first] * (count - 1)))
        except OSError as error:
            raise NoRoom(f"No session with the daemon: {no_descriptors(error)}") from None


def no_descriptors(error: OSError) -> str:
    """Return what to say and do when a descriptor cannot be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"descriptors are used up ({error.strerror}; {_open_descriptors()} are open in this "
        f"process, of at most {soft}). Close files, or raise the limit: `ulimit -n {hard}`."
    )


def _open_descriptors() -> int | str:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # that takes a descriptor, too
        return "all"


def check_threads(count: int) -> None:
    """Raise unless so many threads can be started.

    Raises
    ------
    NoRoom
        They cannot.
    """
    gate, ends = _thread.allocate_lock(), list[_thread.LockType]()
    gate.acquire()
    others = _threads()
    try:
        while len(ends) < count:
            ends.append(_start(gate))
        trial = _threads() - others
        mmap.mmap(-1, MARGIN, flags=mmap.MAP_PRIVATE).close()
    except (RuntimeError, OSError) as error:
        raise no_threads(count, error) from None
    finally:
        gate.release()
        for end in ends:
            end.acquire()
    _wait_until_gone(trial)


def _threads() -> set[str]:
    try:
        return set(os.listdir("/proc/self/task"))
    except OSError:  # no /proc
        return set()


def _wait_until_gone(threads: set[str]) -> None:
    """Wait until they are the system's no more: so long their stacks and places are taken.

    What another thread of this program has started meanwhile, and we took for ours, costs
    `_EXIT`, and no more.
    """
    end = time.monotonic() + _EXIT
    while threads & _threads() and time.monotonic() < end:
        time.sleep(0.0001)


def _start(gate: _thread.LockType) -> _thread.LockType:
    """Start a thread that waits at a gate; return a lock that it releases at its end.

    It runs no Python: a thread that has memory for its stack, and none for a frame of
    Python's, would die without a word to whoever waits for it.
    """
    end = _thread.allocate_lock()
    end.acquire()
    steps: list[Callable[[], object]] = [gate.acquire, gate.release, end.release]
    _thread.start_new_thread(operator.countOf, (map(operator.call, steps), None))
    return end


def no_threads(count: int, error: Exception) -> NoRoom:
    """Return the error for so many threads that cannot be had."""
    return NoRoom(
        f"No session with the daemon: this process cannot have {count} more threads "
        f"({error}). Look at its limits of memory and tasks: `ulimit -v`, `ulimit -u`, "
        "and pids.max of its cgroup."
    )


class DescriptorCanary:
    """A descriptor that shows, by being gone, that somebody has closed them all.

    Programs that become daemons do so (``os.closerange``), with no word to those whose
    descriptors they were. A number that is used again is another file: the canary's own has
    an inode that nothing else has.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._inode: tuple[int, int] | None = None
        opened: list[int] = []
        try:
            open_atomically(opened, os.memfd_create, "arrayd-canary", os.MFD_CLOEXEC)
        finally:
            if opened:
                self._fd = opened[0]
        self._inode = self._identity()

    def intact(self) -> bool:
        """Say whether our descriptors are still ours."""
        return self._fd >= 0 and self._identity() == self._inode

    def close(self) -> None:
        """Close it, if it is still ours to close."""
        fd, self._fd, ours = self._fd, -1, self._inode is None or self.intact()
        if fd >= 0 and ours:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def _identity(self) -> tuple[int, int] | None:
        try:
            info = os.fstat(self._fd)
        except OSError:
            return None
        return info.st_dev, info.st_ino
