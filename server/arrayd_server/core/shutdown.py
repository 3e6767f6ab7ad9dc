"""What becomes of the blocks when the daemon ends."""

from __future__ import annotations

from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.effects import Unlink
from arrayd_server.core.model import State

_USELESS = (State.LOADING, State.SPARE)
"""What the next run could not use."""


def last_unlinks(blocks: BlockTable, *, hand_over: bool) -> list[Unlink]:
    """Return what the daemon removes before it ends; no event comes of it.

    Loads that are not done, and spares, are of no use to the next run. The other blocks it adopts
    after a hand-over; else what nobody maps goes.
    """
    table = list(blocks.table.values())
    unlinks = [Unlink(b.segment, force=True) for b in table if b.state in _USELESS]
    if not hand_over:
        unlinks += [Unlink(block.segment) for block in table if block.usable]
    return unlinks
