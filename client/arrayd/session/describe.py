"""What a daemon says a file holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from arrayd.errors import ArraydError
from arrayd.session.call import Answer
from arrayd.session.fetch import bare
from arrayd.session.request import FileRequest
from arrayd.session.session import Session, timed_out, unwrap, unwrap_as

if TYPE_CHECKING:
    from arrayd.results.info import Info


def described(
    session: Session, request: FileRequest, timeout: float | None, deadline: float | None
) -> Info | ArraydError:
    """Ask what a file holds; once more, if it changed meanwhile.

    Parameters
    ----------
    timeout, deadline
        What the caller allows, in seconds, and when that ends (monotonic); None: never.

    Raises
    ------
    LoadTimeout
        It has ended.
    """

    def ask(request: FileRequest) -> Answer:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        for answer in session.ask_until("info", left, **request.to_wire()).found.values():
            return answer
        raise timed_out(f"what {request.source} holds", timeout, session)

    answer = ask(request)
    if "err" in answer and (current := request.anew()) != request:
        answer = ask(current)
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
