"""How a block is made, and becomes final: the begin and the end of `arrayd.create`.

The daemon seals a block as soon as the kernel says that nobody can write to it. Where only workers
are in the way that have inherited it by accident, and never touched it (see `writers.py`), nothing
that they will do is meant for it: then a copy is sealed, which they cannot write to. Whoever else
can still write might lose what it writes: `NotSealed`, and the array keeps its values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from arrayd.array import SharedArray
from arrayd.common import failpoints
from arrayd.errors import ArraydError, DaemonLost, NoRoom, NotSealed
from arrayd.session.fetch import TRIES
from arrayd.session.session import Session, unwrap_as
from arrayd.system import writers
from arrayd.system.mapping import SegmentMapping, Vanished
from arrayd.system.writers import Writer
from arrayd.wire.grant import Grant

if TYPE_CHECKING:
    import numpy.typing as npt


def draft(session: Session, timeout: float | None, fields: dict[str, Any]) -> SharedArray:
    """Return a new block, to be written; `fields` are those of the create request.

    Raises
    ------
    NameTaken, NoRoom
        It cannot be made.
    AccessDenied
        This process may not write to shared memory.
    """
    for _ in range(TRIES):
        with session.blocks.attaching():
            answer = session.ask("create", timeout, wait=timeout, **fields)[0]
            grant = unwrap_as(Grant, answer)
            try:
                return session.blocks.attach(grant, "w")
            except Vanished:  # with the daemon that made it, which was stopped just then
                session.tell("abort", segment=grant.segment)
            except ArraydError:
                session.tell("abort", segment=grant.segment)
                raise
    raise DaemonLost(f"The block vanished {TRIES} times before it could be mapped.")


def seal(session: Session, out: SharedArray, fields: dict[str, Any]) -> None:
    """Make a block of this process final; `fields` are those of its create request.

    Raises
    ------
    NotSealed
        Another process can still write to it.
    """
    held, pages = out._held, out._mapping
    assert held is not None
    assert pages is not None
    out.flags.writeable = False
    _cut_off(session, pages)
    try:
        session.blocks.sealed(held, _sealed(session, pages))
    except NotSealed as refusal:
        others = writers.find(pages.segment)
        if not others or not all(writer.by_accident for writer in others):
            raise _explained(refusal, others) from None
        _seal_copy(session, out, fields, refusal)


def _cut_off(session: Session, pages: SegmentMapping) -> None:
    """Let our own mapping be one that cannot write to the segment."""
    try:
        pages.seal()
    except Vanished:  # somebody removed its name: the daemon links it back, or says it is gone
        session.renew(pages.segment)
        pages.seal()


def _sealed(session: Session, pages: SegmentMapping) -> Grant:
    failpoints.hit("client.sealing")
    answer = session.ask("seal", None, segment=pages.segment)[0]
    failpoints.hit("client.sealed")
    return unwrap_as(Grant, answer)


def _seal_copy(
    session: Session, out: SharedArray, fields: dict[str, Any], refusal: NotSealed
) -> None:
    """Seal a block with the same contents instead; `out` and its views lie in that from now on."""
    held, pages = out._held, out._mapping
    assert held is not None
    assert pages is not None
    try:
        copy = draft(session, None, {**fields, "replace": True})  # its name is ours already
    except NoRoom as error:
        raise NotSealed(f"{refusal} There is no room for a copy either: {error}") from None
    new, theirs = copy._held, copy._mapping
    assert new is not None
    assert theirs is not None
    try:
        _bytes(theirs)[:] = _bytes(pages)
        _cut_off(session, theirs)
        session.blocks.sealed(new, _sealed(session, theirs))
        old = pages.segment
        pages.move(theirs)
        session.blocks.moved(held, new)
    except BaseException:
        session.tell("abort", segment=theirs.segment)
        raise
    session.tell("abort", segment=old)


def _bytes(pages: SegmentMapping) -> npt.NDArray[np.uint8]:
    flat: Any = pages
    return np.asarray(flat)


def _explained(refusal: NotSealed, others: list[Writer]) -> NotSealed:
    """Return the daemon's refusal with what this process can tell: who, and what to do."""
    who = ", ".join(f"{writer.pid} ({writer.program})" for writer in others[:5])
    forked = (
        " A process that was forked meanwhile has the array too: end it, or fork before "
        "arrayd.create, or start it by spawn or forkserver."
    )
    return NotSealed(
        f"{refusal}{f' It is mapped by {who}.' if who else ''}{forked} What was written is still "
        "in the array: keep it by arrayd.put(array, name=…).",
        **{**refusal.details, "pids": [writer.pid for writer in others]},
    )
