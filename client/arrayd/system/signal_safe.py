"""What a Ctrl-C, or a signal handler that calls arrayd, may cut off between any two steps.

CPython looks for signals where a function begins, after a call, and where a loop goes back;
so code without a call, as well as one call of a function in C, is done wholly or not at all.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def descriptors() -> Iterator[list[int]]:
    """Give a list for descriptors, which are closed at the end."""
    opened: list[int] = []
    closing = map(os.close, opened)  # made here, for one call in C is all that closes them
    try:
        yield opened
    finally:
        deque(closing, 0)


def open_atomically(opened: list[int], function: Callable[..., int], *arguments: object) -> int:
    """Open a descriptor and note it, in one step: what has no name yet would stay open."""
    opened.extend(map(function, *([argument] for argument in arguments)))
    return opened[-1]


def drain(waiting: deque[T], work: Callable[[T], None]) -> None:
    """Do the work, which may be done twice, for what waits; each leaves only when it is done."""
    while waiting:
        one = waiting[0]
        work(one)
        with contextlib.suppress(ValueError):  # a signal handler has been here meanwhile
            waiting.remove(one)


class OneShotEvent:
    """Wakes a thread that waits; set while nobody waits, it wakes the next that does.

    `threading.Event` is written in Python around a lock: a Ctrl-C amid its `set` or `wait`
    leaves that locked, and the next who sets it hangs for ever. This is one lock, which is C.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Wake it."""
        with contextlib.suppress(RuntimeError):  # it is set
            self._lock.release()

    def wait(self, seconds: float) -> None:
        """Wait until it is set, and clear it."""
        self._lock.acquire(timeout=seconds)

    def clear(self) -> None:
        """Forget that it was set."""
        self._lock.acquire(blocking=False)


class TryLock:
    """A lock that is had at once or not at all; by one thread more than once, in handlers."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.depth = 0  # calls of `take` that the thread which has it is in

    def take(self, work: Callable[[], object], last: Callable[[], object]) -> bool:
        """Do the work unless another thread is at it, `last` at the end; say if it was done."""
        taken: list[bool] = []
        try:
            taken.extend(map(self.lock.acquire, (False,)))  # in one step
            if True in taken:
                self._within(work, last)
            return True in taken
        finally:
            if True in taken:  # what is called first is the release: nothing comes between
                self.lock.release()

    def _within(self, work: Callable[[], object], last: Callable[[], object]) -> None:
        depth = self.depth
        self.depth = depth + 1
        try:
            work()
        finally:
            self.depth = depth
            if not depth:
                last()
