"""What a Ctrl-C, or a signal handler that calls arrayd, may cut off between any two steps."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def work_off(waiting: deque[T], work: Callable[[T], None]) -> None:
    """Do the work, which may be done twice, for what waits; each leaves only when it is done."""
    while waiting:
        one = waiting[0]
        work(one)
        with contextlib.suppress(ValueError):  # a signal handler has been here meanwhile
            waiting.remove(one)


class Wakeup:
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
