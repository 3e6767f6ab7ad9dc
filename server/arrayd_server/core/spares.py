"""Spare pages: those of a block that went, kept under a new name for the next load.

To have fresh pages takes a load longer than to copy what comes into them; pages that are there
already take half the time. So a block that goes without anybody having asked for its memory may
leave its pages to a *spare*: a segment that nobody can ask for, with the same pages (`Recycle`). A
load of about the same size takes the spare, its name included, for its own segment. What it does
not overwrite, the shell clears.

A spare is charged like a block (rule 1). It is given back when no load has come for it in
`Spares.seconds`, when memory runs short for others (`give_back`), and before any block is evicted
for a load that cannot use it. All spares together are at most half of the budget. A block that
somebody evicts by request leaves none: that is to have its memory back.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable

from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.effects import Effect, Recycle, Unlink
from arrayd_server.core.model import Block, Job, State

LEAST = 1 << 20
"""Bytes of the smallest block that leaves a spare: below, the calls cost more than the pages."""

MOST_CUT = 8 << 20
"""Bytes that a spare may be larger than its new block; the loop waits while they are freed."""


class Spares:
    """The rules of what becomes of pages that nobody has.

    Parameters
    ----------
    blocks
        All blocks; the spares are among them.
    """

    def __init__(self, blocks: BlockTable) -> None:
        self.seconds = 0.0  # that a spare is kept; 0: there are none
        self.least = LEAST
        self._blocks = blocks

    def fits(self, pages: int, job: Job) -> bool:
        """Say whether pages of so many bytes are of use to a job: most of them, and for most of it.

        A block that a client writes takes none, for it need not write all of it; nor does one of
        many small files, between which there are gaps; nor one for another user, which must not
        see what they held, whatever becomes of its load.
        """
        loads = job.writer is None and not job.members and job.user is None
        load = self.seconds > 0 and loads and pages >= self.least
        return load and pages // 2 <= job.size and job.size // 2 <= pages <= job.size + MOST_CUT

    def fitting(self, job: Job, wanted: Container[str]) -> Block | None:
        """Return the spare that is best for a job, none of those `wanted`; None: there is none."""
        fit = (s for s in self._blocks.spares.values() if self.fits(s.size, job))
        free = (spare for spare in fit if spare.segment not in wanted)
        return min(free, key=lambda spare: abs(spare.size - job.size), default=None)

    def heir(self, job: Job, victims: Iterable[Block]) -> Block | None:
        """Return which of the blocks that go for a job is to leave it its pages, if any is."""
        sealed = (b for b in victims if b.state is State.SEALED and not b.exposed)
        fit = (b for b in sealed if self.fits(b.size, job))
        return next(fit, None)

    def worth(self, block: Block) -> bool:
        """Say whether a block that goes by itself is to leave its pages to whoever comes."""
        room = self._blocks.budget // 2 - self._blocks.spare_bytes
        return self.seconds > 0 and not block.exposed and self.least <= block.size <= room

    def recycle(self, block: Block) -> Effect:
        """Let an unlinked block leave its pages."""
        block.heir = self._blocks.new_number()
        return Recycle(block.segment, self._blocks.name(block.heir))

    def unlink(self, spare: Block) -> Effect:
        """Give one spare back."""
        self._blocks.mark_unlinked(spare)
        return Unlink(spare.segment, force=True)

    def give_back(self) -> list[Effect]:
        """Give all spares back: others need the memory."""
        return [self.unlink(spare) for spare in list(self._blocks.spares.values())]

    def expire(self, now: float) -> list[Effect]:
        """Give those back that no load has come for."""
        spares = list(self._blocks.spares.values())
        return [self.unlink(spare) for spare in spares if spare.since + self.seconds <= now]

    def wake_at(self) -> float:
        """When `expire` next has something to do; inf: never."""
        oldest = next(iter(self._blocks.spares.values()), None)
        return math.inf if oldest is None else oldest.since + self.seconds
