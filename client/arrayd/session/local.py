"""What a process finds without asking a daemon: what it holds, and what an index leads to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from arrayd.array import SharedArray, cut
from arrayd.common import failpoints
from arrayd.errors import ArraydError
from arrayd.session.fetch import Result, Terms, bare
from arrayd.session.own_daemon import OwnDaemon
from arrayd.session.request import FileRequest, SourceLike
from arrayd.session.session import Session
from arrayd.system.mapping import Vanished


def to_ask(
    session: Session,
    own: OwnDaemon,
    sources: Sequence[SourceLike],
    options: Mapping[str, Any],
    terms: Terms,
    results: list[FileRequest | Result],
) -> Iterator[FileRequest]:
    """Append what is known of each source to `results`; yield the requests, which are to be asked.

    Each is looked for as it is wanted: the daemon has the first before the last is looked at.
    """
    for source in sources:
        found = (
            _request(source, options)
            if terms.pin
            else known(session, own, source, options, terms.mode, terms.deadline)
        )
        results.append(found)
        if isinstance(found, FileRequest):
            yield found


def _request(source: SourceLike, options: Mapping[str, Any]) -> FileRequest | ArraydError:
    try:
        return FileRequest.of(source, options)
    except ArraydError as error:
        return bare(error)


def known(
    session: Session,
    own: OwnDaemon,
    source: SourceLike,
    options: Mapping[str, Any],
    mode: str,
    deadline: float | None,
) -> FileRequest | Result:
    """Return what this process has, or finds without a round trip; else the request.

    Parameters
    ----------
    session, own
        A client's, and the user's own daemon beside its daemon.
    deadline
        When the call ends (monotonic); None: never.
    """
    found = session.blocks.shortcuts.follow(source, options) if mode == "r" else None
    return found if found is not None else unheld(session, own, source, options, mode, deadline)


def unheld(
    session: Session,
    own: OwnDaemon,
    source: SourceLike,
    options: Mapping[str, Any],
    mode: str,
    deadline: float | None = None,
) -> FileRequest | Result:
    """Return the same, where the client's own session has no shortcut."""
    if own.session is not None and mode == "r":
        array = own.session.blocks.shortcuts.follow(source, options)
        if array is not None:
            return array
    try:
        request = FileRequest.of(source, options)
        if request.stat is None:
            return request
        key, words = request.key(), (source, options)
        try:
            found = _found(session, request, key, mode, words)
            if found is None and (other := own.having(request, key, deadline)) is not None:
                found = _found(other, request, key, mode, words)
        except Vanished:  # ask
            return request
    except ArraydError as error:
        return bare(error)
    return request if found is None else found


def _found(
    session: Session,
    request: FileRequest,
    key: bytes,
    mode: str,
    words: tuple[SourceLike, Mapping[str, Any]],
) -> SharedArray | None:
    held = session.blocks.local(request, key, mode, words)
    return held if held is not None else _indexed(session, request, key, mode)


def _indexed(session: Session, request: FileRequest, key: bytes, mode: str) -> SharedArray | None:
    """Return the array that the daemon's index leads to; None: ask.

    Raises
    ------
    Vanished
        The index is out of date.
    SpecMismatch
        The block has not the rows that are asked for.
    """
    index = session.index
    if index is None:
        return None
    grant = index.find_for(request, key)
    if grant is None:
        return None
    failpoints.hit("client.indexed")
    whole = session.blocks.attach_indexed(grant, mode, request, key)
    return cut(whole, grant, request.source)
