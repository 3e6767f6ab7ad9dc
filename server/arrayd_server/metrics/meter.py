"""`Meter`: counts requests, errors and loads as they happen. Plain numbers, on the daemon's loop.

A label comes from what clients and files say, so each has a bound on its different values: what
is beyond it is counted as `OTHER`.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from time import monotonic

from arrayd.errors import ArraydError, NoRoom
from arrayd.wire.requests import Request
from arrayd_server.core.effects import Answer, AskAgain, IntroduceYourself, Reply, ReportProgress
from arrayd_server.core.model import Nonce

OTHER = "other"
"""The label of what has none of its own."""

MAX_FORMATS, MAX_CODES = 7, 25
"""Formats of files, and kinds of errors, that have labels of their own."""

TOO_MANY_LOADS = "NoRoom-loads"
"""The code of a NoRoom that is for a quota of loads."""

MAX_PENDING = 10_000
"""Requests whose duration is measured at a time; more are counted when they come, as `OTHER`."""

TIMED = ("get", "info", "create", "seal", "stream.wait")
"""The verbs whose duration is told apart: they may take long."""

REQUEST_BOUNDS = (0.0003, 0.003, 0.03, 0.3, 3.0, 30.0)
LOAD_BOUNDS = (0.01, 0.1, 1.0, 10.0, 100.0)

OK, ERROR, DROPPED = "ok", "error", "dropped"
"""What becomes of a request."""


@dataclass(slots=True)
class Distribution:
    """A histogram: how many values are up to each bound, how many there are, and their sum."""

    bounds: Sequence[float]
    total: float = 0.0
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, int]]:
        """Return the bounds as Prometheus writes them, each with how many values are up to it."""
        names = [*map(str, self.bounds), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))

    def copy(self) -> Distribution:
        """Return it as it is now."""
        return Distribution(self.bounds, self.total, list(self.counts))


@dataclass(slots=True)
class _Pending:
    """A request that has not had all its answers."""

    verb: str
    began: float
    left: int
    failed: bool = False


@dataclass(slots=True)
class Counts:
    """All that is counted, by labels."""

    requests: Counter[tuple[str, ...]] = field(default_factory=Counter)
    request_seconds: dict[str, Distribution] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    loads: Counter[tuple[str, ...]] = field(default_factory=Counter)
    load_bytes: Counter[str] = field(default_factory=Counter)
    load_seconds: dict[str, Distribution] = field(default_factory=dict)

    def copy(self) -> Counts:
        """Return them as they are now: another thread may read them while the daemon goes on."""
        return Counts(
            self.requests.copy(),
            {verb: one.copy() for verb, one in self.request_seconds.items()},
            self.errors.copy(),
            self.loads.copy(),
            self.load_bytes.copy(),
            {name: one.copy() for name, one in self.load_seconds.items()},
        )


class Meter:
    """What the daemon tells of each request, answer and load."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._pending: dict[tuple[Nonce, int], _Pending] = {}
        self._formats: set[str] = set()

    # ---- requests ------------------------------------------------------------------------

    def request(self, request: Request, *, answered: bool) -> None:
        """Count a request that begins; it has answers, or it is over with that."""
        if request.op == "cancel":
            self._end((request.nonce, request.fields["request"]), DROPPED)
        if not answered:
            self.counts.requests[request.op, OK] += 1
            return
        key = (request.nonce, request.id)
        if key in self._pending:  # repeated: its connection was lost
            return
        if len(self._pending) >= MAX_PENDING:
            self.counts.requests[request.op, OTHER] += 1
            return
        left = len(request.fields.get("items", (1,)))
        if not left:
            self.counts.requests[request.op, OK] += 1
            return
        self._pending[key] = _Pending(request.op, monotonic(), left)

    def answered(self, nonce: Nonce, number: int, answer: Answer) -> None:
        """Count an answer: with the last one its request is over."""
        if isinstance(answer, ArraydError):
            code = _code(answer)
            known = code in self.counts.errors or len(self.counts.errors) < MAX_CODES
            self.counts.errors[code if known else OTHER] += 1
        pending = self._pending.get((nonce, number))
        if pending is None:
            return
        pending.failed |= isinstance(answer, ArraydError)
        pending.left -= 1
        if isinstance(answer, AskAgain | IntroduceYourself):
            self._end((nonce, number), DROPPED)
        elif pending.left <= 0:
            self._end((nonce, number), ERROR if pending.failed else OK)

    def watching(
        self, answer: Callable[[Sequence[Reply | ReportProgress]], None]
    ) -> Callable[[Sequence[Reply | ReportProgress]], None]:
        """Return `answer`, with all that goes through it counted."""

        def counted(effects: Sequence[Reply | ReportProgress]) -> None:
            for effect in effects:
                if isinstance(effect, Reply):
                    self.answered(effect.to.nonce, effect.to.request, effect.body)
            answer(effects)

        return counted

    def forget_ended(self, sessions: Container[Nonce]) -> None:
        """Count the requests of all but these sessions as dropped: nobody waits for an answer."""
        for key in [key for key in self._pending if key[0] not in sessions]:
            self._end(key, DROPPED)

    def _end(self, key: tuple[Nonce, int], outcome: str) -> None:
        pending = self._pending.pop(key, None)
        if pending is None:
            return
        self.counts.requests[pending.verb, outcome] += 1
        if outcome != DROPPED:
            verb = pending.verb if pending.verb in TIMED else OTHER
            found = self.counts.request_seconds.setdefault(verb, Distribution(REQUEST_BOUNDS))
            found.add(monotonic() - pending.began)

    # ---- loads ---------------------------------------------------------------------------

    def load_ended(self, name: str, outcome: str, count: int, nbytes: int, seconds: float) -> None:
        """Count `count` loads of a format that have ended together.

        Parameters
        ----------
        name
            Of the format.
        outcome
            ``ok``, ``error`` or ``cancelled``.
        nbytes
            Of the arrays.
        seconds
            That it took.
        """
        if len(self._formats) < MAX_FORMATS:
            self._formats.add(name)
        label = name if name in self._formats else OTHER
        self.counts.loads[label, outcome] += count
        if outcome == OK:
            self.counts.load_bytes[label] += nbytes
            found = self.counts.load_seconds.setdefault(label, Distribution(LOAD_BOUNDS))
            found.add(seconds)


def _code(error: ArraydError) -> str:
    """Return as what an error counts.

    Clients ask again for what was one load too many for a quota, so that is no lack of room yet.
    """
    too_many = isinstance(error, NoRoom) and error.details.get("limit") == "loads"
    return TOO_MANY_LOADS if too_many else type(error).__name__
