"""What a daemon says a file holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from arrayd.errors import ArraydError
from arrayd.session.call import Answer
from arrayd.session.fetch import bare
from arrayd.session.request import FileRequest
from arrayd.session.session import Session, unwrap, unwrap_as

if TYPE_CHECKING:
    from arrayd.results.info import Info


def described(session: Session, request: FileRequest, deadline: float | None) -> Info | ArraydError:
    """Ask what a file holds; once more, if it changed meanwhile.

    Parameters
    ----------
    deadline
        When to give up (monotonic); None: never.

    Raises
    ------
    LoadTimeout
        It has come.
    """
    label = f"what {request.source} holds"
    answer = session.ask("info", _left(deadline), label=label, **request.to_wire())[0]
    if "err" in answer and (current := request.anew()) != request:
        answer = session.ask("info", _left(deadline), label=label, **current.to_wire())[0]
    # Imported here, for importing arrayd must stay cheap; after the daemon has answered, for at
    # the end of the interpreter that fails first, with an error of arrayd's.
    from arrayd.results.info import Info, InfoAnswer

    error = error_in(answer)
    return Info.of(str(request.source), unwrap_as(InfoAnswer, answer)) if error is None else error


def error_in(answer: Answer) -> ArraydError | None:
    """Return the error that an answer is; None: it is none."""
    try:
        unwrap(answer)
    except ArraydError as error:
        return bare(error)
    return None


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
