"""Grants: what a client is told of a block, so that it can attach it."""

from __future__ import annotations

from typing import cast

from arrayd.wire.grant import Grant
from arrayd_server.core.model import Place, State


def grant_of(place: Place, seq: int, *, window: bool = False) -> Grant:
    """Return the grant of a block or a member: what a client needs to attach it.

    Of a block with members as a whole, which a reference names, it grants all their bytes.
    """
    block, member = place
    part, spec = (block, block.spec) if member is None else (member, member.spec)
    assert spec is not None, "a member that is not there was granted"
    return Grant(
        segment=block.segment,
        spec=spec,
        seq=seq,
        source=str(part.identity),
        sealed=block.state is State.SEALED,
        window=window,
        lost=part.lost,
        key=cast(bytes, block.aliases[0]) if block.linked else b"",
        offset=0 if member is None else member.offset,
        extent=block.spec.nbytes if block.members else 0,
    )
