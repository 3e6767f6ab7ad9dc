"""A call on its way: the requests it is split into, and what its own thread waits for.

`PendingCall` lives on the stack of the thread that calls, and is all that keeps the
`PendingRequest`s alive: the connection knows them weakly. So a Ctrl-C that ends the call, at
whatever point, leaves none of them behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from arrayd.errors import DaemonLost
from arrayd.system.signal_safe import OneShotEvent
from arrayd.wire import protocol

if TYPE_CHECKING:
    from arrayd.results.progress import Reporter

MAX_IN_FLIGHT = 4
"""Requests of one call that are under way at a time.

With `protocol.MAX_ITEMS` each they keep all loaders of a daemon busy, and it remembers no
more of a list of a million files than of one of a few hundred.
"""

Answer = Mapping[str, Any]

Taker = Callable[[int, Answer], None]
"""Called with an item of a call, and its answer."""


class Answers(NamedTuple):
    """What has come of a call.

    Parameters
    ----------
    found
        The answers that came, by the number of their item.
    asked
        How many items were asked for; of a long list maybe not all, when the deadline has passed.
    complete
        All were asked for, and answered.
    """

    found: Mapping[int, Answer]
    asked: int
    complete: bool


class DeadlinePassed(Exception):
    """The deadline of a request has come."""


class CallState:
    """What the requests of one call share, and other threads may touch.

    Parameters
    ----------
    revives
        Whether the call may start a daemon.
    takes
        Whether its answers are passed on as they come.
    ends
        Whether the daemon may end before it answers: the call is not repeated to another one.
    """

    def __init__(self, *, revives: bool = False, takes: bool = False, ends: bool = False) -> None:
        self.revives, self.takes, self.ends = revives, takes, ends
        self.lost = False  # the daemon has ended
        self.woken = OneShotEvent()  # wakes the thread that made the call
        # To be passed on by that thread: item, rows done, rows in all; and item, answer.
        self.reports: deque[tuple[int, int, int]] = deque()
        self.arrived: deque[tuple[int, Answer]] = deque()

    @property
    def has_news(self) -> bool:
        """Whether there is something for the call's thread to pass on."""
        return bool(self.reports or self.arrived)

    def reported(self, item: int, done: int, total: int) -> None:
        """Have progress passed on."""
        self.reports.append((item, done, total))
        self.woken.set()

    def answered(self, item: int, answer: Answer) -> None:
        """Have an answer passed on, if that is wanted."""
        if self.takes:
            self.arrived.append((item, answer))
            self.woken.set()


class PendingRequest:
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

    def __init__(self, call: CallState, number: int, frame: bytes, first: int, count: int) -> None:
        self.call, self.number, self.frame = call, number, frame
        self.first, self.count = first, count
        self.answers: dict[int, Answer] = {}

    @property
    def done(self) -> bool:
        """All answers are there."""
        return len(self.answers) >= self.count

    def answered(self, index: int, answer: Answer) -> None:
        """Note the answer to an item, which had none; with the last one, wake the caller."""
        self.answers[index] = answer
        self.call.answered(self.first + index, answer)
        if self.done:
            self.call.woken.set()


class PendingCall:
    """The caller's side of a call; no request refers back to it, so all die with its frame.

    Parameters
    ----------
    deadline
        When it gives up (seconds, monotonic); None: never.
    report
        Called with progress: item, rows done, rows in all.
    take
        Called with each answer soon after it has come, while others are waited for.
    """

    def __init__(
        self,
        state: CallState,
        deadline: float | None,
        report: Reporter | None,
        take: Taker | None,
    ) -> None:
        self.state, self.deadline, self.report, self.take = state, deadline, report, take
        self.made: list[PendingRequest] = []
        self.open: list[PendingRequest] = []  # of these, at the latest `left`, without an answer

    def add(self, request: PendingRequest) -> None:
        """Note a request of it."""
        self.made.append(request)
        self.open.append(request)

    def answers(self, *, complete: bool) -> Answers:
        """Return what has come."""
        found = {one.first + i: answer for one in self.made for i, answer in one.answers.items()}
        return Answers(found, sum(one.count for one in self.made), complete)

    def left(self) -> int:
        """Return how many of its requests are unanswered.

        Raises
        ------
        DaemonLost
            The daemon has ended, and no other one is to answer them.
        """
        self.open = [one for one in self.open if len(one.answers) < one.count]
        if self.open and self.state.lost:
            raise DaemonLost("The daemon has ended, before its answer was here.")
        return len(self.open)

    def pass_on(self) -> None:
        """Call `report` and `take` with what has come."""
        while self.state.reports:
            item, done, total = self.state.reports.popleft()
            if self.report is not None:
                self.report(item, done, total)
        while self.state.arrived:
            item, answer = self.state.arrived.popleft()
            if self.take is not None:
                self.take(item, answer)


def requests(
    nonce: bytes,
    numbers: Iterator[int],
    call: CallState,
    op: str,
    fields: dict[str, Any],
) -> Iterator[PendingRequest]:
    """Make a request of a call, or several of one with many `items`: each as soon as it can be.

    So the daemon has the first of a long list while the others are still looked at.
    """
    if "items" not in fields:
        number = next(numbers)
        yield PendingRequest(call, number, protocol.request(nonce, number, op, **fields), 0, 1)
        return
    items, first = iter(fields.pop("items")), 0
    while some := list(islice(items, protocol.MAX_ITEMS)):
        number = next(numbers)
        frame = protocol.request(nonce, number, op, items=some, **fields)
        yield PendingRequest(call, number, frame, first, len(some))
        first += len(some)
