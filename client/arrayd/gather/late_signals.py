"""Ctrl-C amid h5py: what a signal handler raises there may be lost.

h5py frees its objects, and so calls Python, in the middle of its calls; what is raised there is
printed and ignored. Nearly all time of a write goes by in such a call, so a Ctrl-C would be lost
more often than not. Here the handlers run when the call is over.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def late_signals() -> Iterator[Callable[[], None]]:
    """Let the handlers of SIGINT and SIGTERM run at the end, or when what this gives is called."""
    if threading.current_thread() is not threading.main_thread():  # no handler runs in this one
        yield lambda: None
        return
    noted: list[int] = []
    found = {number: signal.getsignal(number) for number in _SIGNALS}
    earlier = {number: handler for number, handler in found.items() if callable(handler)}

    def act() -> None:
        while noted:
            number = signal.Signals(noted.pop(0))
            earlier[number](number, None)

    try:
        for number in earlier:
            signal.signal(number, lambda number, _: noted.append(number))
        yield act
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        act()
