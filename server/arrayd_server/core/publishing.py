"""Blocks that clients write, and the names that these get."""

from __future__ import annotations

from collections.abc import Hashable

from arrayd.errors import ArraydError
from arrayd_server.core import error_texts, users
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.effects import Effect, Reply, Rewrite, Seal
from arrayd_server.core.holds import Holds
from arrayd_server.core.jobs import JobTable
from arrayd_server.core.model import (
    Asker,
    AwaitedItem,
    Block,
    Draft,
    Job,
    Nonce,
    Place,
    Stage,
    State,
    name_alias,
)


class Publishing:
    """What becomes of a block that a client writes.

    A name is on one block at most: sealing another one under it takes it away from the first.
    """

    def __init__(self, blocks: BlockTable, holds: Holds, jobs: JobTable) -> None:
        self._blocks = blocks
        self._holds = holds
        self._jobs = jobs

    def of_writer(self, block: Block | None) -> Job | None:
        """Return the job of a block that a client writes."""
        if block is None or block.state is not State.WRITING or block.job is None:
            return None
        return self._jobs.table[block.job]

    def name_taken(self, name: str) -> bool:
        """Say whether a block has this name, or is being written to have it."""
        return name in self._jobs.drafted or self._blocks.find(name_alias(name)) is not None

    def grant_to_writer(self, job: Job, now: float) -> list[Effect]:
        """Let the writer of a block have it, once its segment is there."""
        if job.stage is not Stage.WRITING or job.writer is None or job.segment is None:
            return []
        block = self._blocks.table[job.segment]
        return self._holds.grant(block, job.writer, AwaitedItem(), now)

    def seal(self, to: Asker, segment: str, now: float) -> list[Effect]:
        """Have a block sealed, if `to` is its writer."""
        block = self._blocks.table.get(segment)
        if block is None or to.nonce not in block.holders:
            return [Reply(to, error_texts.no_block(segment))]
        job = self.of_writer(block)
        if job is None:
            return self._holds.grant(block, to, AwaitedItem(), now)  # sealed already: repeated
        if job.writer is not None and job.writer.nonce != to.nonce:
            return [Reply(to, error_texts.not_creator(segment))]
        if job.stage is not Stage.WRITING:
            return [] if to == job.writer else [Reply(to, error_texts.sealing(segment))]
        self._jobs.set_writer(job, to)
        self._jobs.enter(job, Stage.SEALING)
        return [Seal(job.number, segment)]

    def unsealable(self, job: Job, error: ArraydError) -> list[Effect]:
        """Let the writer of a block that cannot be sealed go on; empty: it has none."""
        if job.writer is None or job.segment is None:
            return []
        self._jobs.enter(job, Stage.WRITING)
        block = self._blocks.table[job.segment]
        return [Reply(job.writer, error), *self._holds.inspect_unclaimed(block)]

    def written_by(self, nonce: Nonce, segment: str) -> Job | None:
        """Return the job of a block that session `nonce` writes."""
        job = self.of_writer(self._blocks.table.get(segment))
        writes = job is not None and job.writer is not None and job.writer.nonce == nonce
        return job if writes else None

    def publish(self, job: Job, block: Block, now: float) -> list[Effect]:
        """Give a client's block its name, and the block to those who wait for the name."""
        assert job.draft is not None
        block.name, block.share = job.draft.name, job.draft.share
        if block.name is None:
            return []
        alias = name_alias(block.name)
        effects = self._displace(alias, now)
        if (awaited := self._jobs.find(alias)) is not None:
            effects += self._refuse_others(awaited, block, now)
            return effects + self._jobs.finish(awaited, Place(block), now)
        self._blocks.add_alias(Place(block), alias)
        return effects

    def _refuse_others(self, awaited: Job, block: Block, now: float) -> list[Effect]:
        """Answer those who wait for a name with which nothing is shared with them."""
        peers = {to: self._holds.sessions[to.nonce].peer for to in awaited.waiters}
        others = [to for to, peer in peers.items() if not users.may_use(block, peer)]
        return self._jobs.refuse(awaited, others, error_texts.no_such_name(str(block.name)), now)

    def rewrite_older(self, job: Job) -> list[Effect]:
        """Have the name removed from the metadata of the block that a job is to take it from.

        This comes before the new block is granted: a daemon that is killed after the grant
        leaves one block of that name, not two.
        """
        if job.draft is None or job.draft.name is None:
            return []
        older = self._blocks.find(name_alias(job.draft.name))
        return [] if older is None else [Rewrite(older.segment)]

    def _displace(self, alias: Hashable, now: float) -> list[Effect]:
        """Take a name from the block that has it; without it only its users keep it."""
        old = self._blocks.forget_alias(alias)
        if old is None:
            return []
        old.name, old.keep = None, False
        self._blocks.accounts.update(old)
        return self._holds.reconsider(old, now)

    def adopt(self, block: Block, now: float) -> list[Effect]:
        """Go on with a block of an earlier run; of two with one name the later one has it."""
        if block.state is State.SEALED:
            displaced = [] if block.name is None else self._displace(name_alias(block.name), now)
            self._blocks.index(block)
            return displaced
        block.draft = Draft(
            block.spec, block.size, block.identity, block.name, block.keep, share=block.share
        )
        self.resume(block, now)
        return []

    def resume(self, block: Block, now: float) -> None:
        """Go on with the draft of a block that some session may still write: a new job."""
        assert block.draft is not None
        job = self._jobs.new(Stage.WRITING, block.identity, now, [])
        job.segment = block.segment
        self._jobs.set_draft(job, block.draft)
        block.job, block.name, block.draft = job.number, None, None
