"""One call of `get_many` that has to ask the daemon: ask, attach, ask again where need be."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from arrayd.array import SharedArray, cut
from arrayd.common import failpoints
from arrayd.errors import (
    ArraydError,
    DaemonLost,
    NoRoom,
    SourceChanged,
    SourceNotFound,
    SpecMismatch,
)
from arrayd.session.call import Answer, Answers, Taker
from arrayd.session.request import FileRequest
from arrayd.session.session import Session, timed_out, unwrap_as
from arrayd.system.mapping import Vanished
from arrayd.wire.grant import Grant

if TYPE_CHECKING:
    from arrayd.results.progress import Reporter

TRIES = 5
"""Times that a block may vanish, or a file change, between two looks at it."""

Result = SharedArray | ArraydError

Numbered = Iterable[tuple[int, FileRequest]]
"""Requests, each with its number in a call."""


class Terms(NamedTuple):
    """How a call wants its arrays: see `arrayd.get`; `deadline` (monotonic) ends `timeout`."""

    mode: str = "r"
    pin: float = 0.0
    timeout: float | None = None
    deadline: float | None = None
    report: Reporter | None = None

    def of(self, numbers: Sequence[int]) -> Terms:
        """Return those of a part of the call: in progress its items have these numbers."""
        report = self.report
        if report is None:
            return self
        return self._replace(report=lambda item, *done: report(numbers[item], *done))


class Fetching:
    """The call, and the session that it is made in."""

    def __init__(self, session: Session, terms: Terms) -> None:
        self._session = session
        self._terms = terms

    def current(self, requests: Numbered) -> list[Result]:
        """Return arrays or errors; asks again for files that change between two looks.

        Ours, and the daemon's. The first requests are sent while the others are still made.
        """
        asked: dict[int, FileRequest] = {}
        results = self._allowed(requests, asked)
        for _ in range(TRIES):
            failed = [i for i, one in results.items() if _is_other_file(one)]
            changed = {i: request for i in failed if (request := asked[i].anew()) != asked[i]}
            if not changed:
                break
            asked |= changed
            results |= self._allowed(changed.items(), {})
        return [results[i] for i in asked]

    def once(self, requests: Sequence[FileRequest]) -> list[Result]:
        """Return arrays or errors, for files as the requests have them."""
        results = self._allowed(enumerate(requests), {})
        return [results[i] for i in range(len(requests))]

    def _allowed(self, requests: Numbered, asked: dict[int, FileRequest]) -> dict[int, Result]:
        """Ask for these, and put them into `asked`; and again for those that were refused.

        That is, for those that were one load too many for their user: the daemon answers these at
        once, while others of this very call are loaded. They are asked for as long as that gets
        some of them, about twice as many at a time as it got the last time: of each file of a long
        list the daemon is asked a few times, not hundreds of times.
        """
        results = self._lasting(requests, asked)
        refused = deque(i for i in asked if _is_one_too_many(results[i]))
        got = len(asked) - len(refused)
        while refused and got:
            if self._is_late():
                late = {i: timed_out(asked[i].source, self._terms.timeout) for i in refused}
                results |= late
                break
            some = [refused.popleft() for _ in range(min(2 * got, len(refused)))]
            results |= self._lasting([(i, asked[i]) for i in some], {})
            left = [i for i in some if _is_one_too_many(results[i])]
            refused.extendleft(reversed(left))
            got = len(some) - len(left)
        return results

    def _is_late(self) -> bool:
        deadline = self._terms.deadline
        return deadline is not None and time.monotonic() >= deadline

    def _lasting(self, requests: Numbered, asked: dict[int, FileRequest]) -> dict[int, Result]:
        """Do so; and again for those that vanish before they are attached."""
        results = self._attached(requests, asked)
        for _ in range(TRIES - 1):
            left = {i: request for i, request in asked.items() if i not in results}
            if not left:
                break
            results |= self._attached(left.items(), {})
        lost = DaemonLost(f"The block vanished {TRIES} times before it could be mapped.")
        return {i: results.get(i, lost) for i in asked}

    def _attached(self, requests: Numbered, asked: dict[int, FileRequest]) -> dict[int, Result]:
        """Ask, and attach what is granted while the rest is loaded; leave out what vanishes."""
        numbers, results = list[int](), dict[int, Result]()

        def items() -> Iterator[dict[str, Any]]:
            for number, request in requests:
                numbers.append(number)
                asked[number] = request
                yield request.to_wire()

        def ask(wire: Iterator[dict[str, Any]], these: Sequence[int]) -> Answers:
            def take(item: int, answer: Answer) -> None:
                with contextlib.suppress(Vanished):
                    results[these[item]] = self._take(asked[these[item]], answer)

            return self._ask_for(wire, these, take)

        wire = items()
        with self._session.blocks.attaching():
            came = ask(wire, numbers)
            deque(wire, 0)
            sent, late = numbers[: came.asked], numbers[came.asked :]
            missing = [number for item, number in enumerate(sent) if item not in came.found]
            if late:
                # They were looked at when the time was over. What is in memory is granted all the
                # same, as it is at the end of any other wait: they are asked for once, without one.
                came = ask((asked[number].to_wire() for number in late), late)
                missing += [number for item, number in enumerate(late) if item not in came.found]
        for number in missing:
            results[number] = timed_out(asked[number].source, self._terms.timeout, self._session)
        return results

    def _ask_for(
        self, items: Iterator[dict[str, Any]], numbers: Sequence[int], take: Taker
    ) -> Answers:
        terms = self._terms.of(numbers)
        wait = None if terms.deadline is None else max(0.0, terms.deadline - time.monotonic())
        return self._session.ask_until(
            "get",
            wait,
            report=terms.report,
            take=take,
            items=items,
            pin=terms.pin,
            wait=wait,
            progress=terms.report is not None,
        )

    def _take(self, request: FileRequest, answer: Answer) -> Result:
        """Attach what was granted."""
        try:
            grant = unwrap_as(Grant, answer)
        except ArraydError as error:
            return bare(error)
        known = None if request.stat is None else request
        failpoints.hit("client.granted")
        whole = self._session.blocks.attach(grant, self._terms.mode, known)
        try:
            return cut(whole, grant, request.source)
        except SpecMismatch as error:
            return bare(error)


def redeemed(session: Session, segment: str, token: bytes, mode: str) -> SharedArray:
    """Return the whole block that a reference means.

    Raises
    ------
    NoSuchBlock
        It is gone.
    """
    for _ in range(TRIES):
        with session.blocks.attaching():
            grant = unwrap_as(Grant, session.ask("redeem", None, segment=segment, token=token)[0])
            failpoints.hit("client.redeemed")
            try:
                final = grant.sealed and mode == "w"
                shared = session.blocks.attach(grant, "r" if final else mode)
            except Vanished:
                continue
        # From now on our own mapping bars the seal; it may have come just before.
        if mode != "w" or grant.sealed or not session.renew(segment).sealed:
            return shared
    raise DaemonLost(f"{segment} vanished {TRIES} times before it could be mapped.")


def bare(error: ArraydError) -> ArraydError:
    """Return an error that is a result: its traceback would keep the other arrays alive."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def _is_one_too_many(result: Result) -> bool:
    """Say whether it was refused for the loads that its user has in flight."""
    return isinstance(result, NoRoom) and result.details.get("limit") == "loads"


def _is_other_file(result: Result) -> bool:
    """Say whether the daemon saw another file than we, and so read nothing."""
    if isinstance(result, SourceChanged):
        return result.details.get("read") is False
    return isinstance(result, SourceNotFound)
