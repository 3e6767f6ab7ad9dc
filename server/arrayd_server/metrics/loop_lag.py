"""How late the daemon's loop is: a timer that comes every half second says by how much."""

from __future__ import annotations

import asyncio

EVERY = 0.5
"""Seconds between two timers."""

WINDOW = 15.0
"""The maximum is of the last one to two times so many seconds, whoever asks and how often."""


class LoopLag:
    """Measures it, until `close`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._now = self._before = 0.0  # the maximum of this window, and of the one before
        self._ends = loop.time() + WINDOW
        self._due = loop.time() + EVERY
        self._timer = loop.call_at(self._due, self._tick)

    @property
    def seconds(self) -> float:
        """The longest that the timer was late lately."""
        return max(self._now, self._before)

    def close(self) -> None:
        """Measure no more."""
        self._timer.cancel()

    def _tick(self) -> None:
        now = self._loop.time()
        self.note(now - self._due, now)
        self._due = now + EVERY
        self._timer = self._loop.call_at(self._due, self._tick)

    def note(self, late: float, now: float) -> None:
        """Take note that the timer was that late."""
        if now >= self._ends:
            self._before, self._now, self._ends = self._now, 0.0, now + WINDOW
        self._now = max(self._now, late)
