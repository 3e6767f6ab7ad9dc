"""A request on its way, and the thread that waits for its answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from arrayd.results.progress import Reporter
from arrayd.system.signal_safe import Wakeup
from arrayd.wire import protocol

WINDOW = 4
"""Requests of one call that are under way at a time.

With `protocol.MAX_ITEMS` each they keep all loaders of a daemon busy, and it remembers no
more of a list of a million files than of one of a few hundred.
"""

Answer = Mapping[str, Any]


class OutOfTime(Exception):
    """The deadline of a request has come."""


@dataclass
class Call:
    """What the requests of one call have in common.

    Parameters
    ----------
    revives
        It may have a daemon started.
    reports
        Progress that was not told yet: item, rows done, rows in all.
    woken
        Wakes the thread that made the call.
    """

    revives: bool = False
    reports: deque[tuple[int, int, int]] = field(default_factory=deque)
    woken: Wakeup = field(default_factory=Wakeup)


@dataclass(eq=False)
class Waiter:
    """One request and the answers that have come.

    Parameters
    ----------
    call
        The call that it is a part of.
    first
        Which item of the call is its first.
    count
        Answers that it gets.
    """

    call: Call
    number: int
    frame: bytes
    first: int
    count: int
    answers: dict[int, Answer] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """All answers are there."""
        return len(self.answers) >= self.count


@dataclass
class Flight:
    """A call as its own thread sees it; its waiters do not, so they go with it.

    Parameters
    ----------
    deadline
        When it gives up (monotonic); None: never.
    report
        Is told of progress.
    open
        The waiters that had not all their answers when it last looked.
    """

    call: Call
    deadline: float | None
    report: Reporter | None
    open: list[Waiter] = field(default_factory=list)

    def left(self) -> int:
        """Return how many of its requests are unanswered."""
        self.open = [waiter for waiter in self.open if not waiter.done]
        return len(self.open)

    def tell(self) -> None:
        """Pass on what progress there is."""
        while self.call.reports:
            item, done, total = self.call.reports.popleft()
            if self.report is not None:
                self.report(item, done, total)


def requests(
    nonce: bytes, numbers: Iterator[int], call: Call, op: str, count: int, fields: dict[str, Any]
) -> Iterator[Waiter]:
    """Make a request of a call, or several of one with many items."""
    items = fields.get("items")
    for first in range(0, count, protocol.MAX_ITEMS):
        number, last = next(numbers), min(first + protocol.MAX_ITEMS, count)
        if items is not None:
            fields["items"] = items[first:last]
        frame = protocol.request(nonce, number, op, **fields)
        yield Waiter(call, number, frame, first, last - first)
