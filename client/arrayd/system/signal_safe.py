"""Helpers that stay correct if KeyboardInterrupt is raised at any bytecode.

Theory of operation
-------------------
CPython looks for signals where a function begins, after a call, and where a loop goes back; there
Ctrl-C raises, and there a signal handler that itself calls arrayd runs. In between it does not:
code without a call, as well as *one* call of a function written in C, is done wholly or not at
all. All rules follow from that:

* What is acquired is recorded in the same C call (``extend(map(open, …))``): a descriptor without
  a name would stay open.
* Work is taken off a queue only when it is done, so it may be done twice, and must bear that.
* `finally` may be cut off as well, so what it does is one C call, or may be done again later.
* `threading.Event` and `Condition` are Python around a lock, and may be left locked: only
  `threading.Lock` and `RLock`, which are C, are used.
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
    """Give a list for descriptors, and close those in it at the end."""
    opened: list[int] = []
    closing = map(os.close, opened)  # made here: at the end one call in C closes them all
    try:
        yield opened
    finally:
        deque(closing, 0)


def open_atomically(opened: list[int], function: Callable[..., int], *arguments: object) -> int:
    """Open a descriptor and append it to `opened`, in one step."""
    opened.extend(map(function, *([argument] for argument in arguments)))
    return opened[-1]


def drain(waiting: deque[T], work: Callable[[T], None]) -> None:
    """Do the work for each item of a queue; an item leaves it only when its work is done.

    An item that a Ctrl-C cut off is worked on again at the next call.
    """
    while waiting:
        one = waiting[0]
        work(one)
        with contextlib.suppress(ValueError):  # a signal handler has been here meanwhile
            waiting.remove(one)


class OneShotEvent:
    """Wakes the one thread that waits; set while none does, it wakes the next that does.

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
    """A re-entrant lock that nobody waits for: `take` does its work at once, or not at all.

    The thread that has it gets it again: in a signal handler that calls arrayd amid the work.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.depth = 0  # nested calls of `take` by the thread that has it

    def take(self, work: Callable[[], object], last: Callable[[], object]) -> bool:
        """Do the work, unless another thread has the lock; return whether it was done.

        `last` is called at the end of the outermost call.
        """
        taken: list[bool] = []
        try:
            taken.extend(map(self.lock.acquire, (False,)))  # in one step
            if True in taken:
                self._within(work, last)
            return True in taken
        finally:
            if True in taken:  # the release is the first call here, so nothing comes before it
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
