"""One call of `get_many` that has to ask the daemon: ask, attach, ask again where need be."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arrayd.array import SharedArray
from arrayd.common import failpoints
from arrayd.errors import (
    ArraydError,
    DaemonLost,
    SourceChanged,
    SourceNotFound,
    SpecMismatch,
)
from arrayd.session.call import Answer
from arrayd.session.request import Wish, cut
from arrayd.session.session import late, told
from arrayd.system.mapping import Vanished
from arrayd.wire.grant import Grant

if TYPE_CHECKING:
    from arrayd.results.progress import Reporter
    from arrayd.session.session import Session

TRIES = 5
"""Times that a block may vanish, or a file change, between two looks at it."""

Result = SharedArray | ArraydError


@dataclass(frozen=True, slots=True)
class Terms:
    """How a call wants its arrays: see `arrayd.get`; `deadline` (monotonic) ends `timeout`."""

    mode: str = "r"
    pin: float = 0.0
    timeout: float | None = None
    deadline: float | None = None
    report: Reporter | None = None


class Fetching:
    """The call, and the session that it is made in."""

    def __init__(self, session: Session, terms: Terms) -> None:
        self._session = session
        self._terms = terms

    def current(self, wishes: list[Wish]) -> list[Result]:
        """Return arrays or errors; asks again for files that change between two looks.

        Ours, and the daemon's.
        """
        results = self.once(wishes)
        for _ in range(TRIES):
            failed = [i for i, one in enumerate(results) if _is_other_file(one)]
            changed = {i: wish for i in failed if (wish := wishes[i].anew()) != wishes[i]}
            if not changed:
                break
            for i, result in zip(changed, self.once(list(changed.values())), strict=True):
                wishes[i], results[i] = changed[i], result
        return results

    def once(self, wishes: list[Wish]) -> list[Result]:
        """Ask for the wishes; ask again for those that vanish before they are attached."""
        results: dict[int, Result] = {}
        for _ in range(TRIES):
            left = [i for i in range(len(wishes)) if i not in results]
            if not left:
                break
            with self._session.holdings.attaching():
                answers = self._ask_for([wishes[i] for i in left])
                for position, i in enumerate(left):
                    with contextlib.suppress(Vanished):
                        results[i] = self._take(wishes[i], answers.get(position))
        lost = DaemonLost(f"The block vanished {TRIES} times before it could be mapped.")
        return [results.get(i, lost) for i in range(len(wishes))]

    def _ask_for(self, wishes: list[Wish]) -> dict[int, Answer]:
        terms = self._terms
        wait = None if terms.deadline is None else max(0.0, terms.deadline - time.monotonic())
        return self._session._ask_until(
            "get",
            wait,
            count=len(wishes),
            report=terms.report,
            items=[wish.to_wire() for wish in wishes],
            pin=terms.pin,
            wait=wait,
            progress=terms.report is not None,
        )

    def _take(self, wish: Wish, answer: Answer | None) -> Result:
        """Attach what was granted; None: no answer came in time."""
        if answer is None:
            return late(wish.source, self._terms.timeout)
        try:
            grant = told(Grant, answer)
        except ArraydError as error:
            return bare(error)
        request = None if wish.stat is None else (wish.source, wish.stat)
        failpoints.hit("client.granted")
        whole = self._session.holdings.attach(grant, self._terms.mode, request)
        try:
            return cut(whole, grant, wish.source)
        except SpecMismatch as error:
            return bare(error)


def bare(error: ArraydError) -> ArraydError:
    """Return an error that is a result: its traceback would keep the other arrays alive."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def _is_other_file(result: Result) -> bool:
    """Say whether the daemon saw another file than we, and so read nothing."""
    if isinstance(result, SourceChanged):
        return result.details.get("read") is False
    return isinstance(result, SourceNotFound)
