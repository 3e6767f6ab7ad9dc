"""How a block comes to be: probed, waiting for room, filled or written, sealed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable
from typing import Any

from arrayd.errors import ArraydError
from arrayd_server.core import explain
from arrayd_server.core.effects import Cancel, Effect, Fill, Inspect, Make, Reply
from arrayd_server.core.holds import STALE_AFTER, Holds
from arrayd_server.core.records import (
    Asker,
    Block,
    Draft,
    Job,
    Stage,
    State,
    Waiter,
    name_alias,
)
from arrayd_server.core.shelf import Shelf

PROGRESS_EVERY = 0.1
"""Seconds between two progress messages of one load."""


class Jobs:
    """The jobs in flight, and the queue of those that wait for room."""

    def __init__(self, shelf: Shelf, holds: Holds, load_timeout: float) -> None:
        self.table: dict[int, Job] = {}
        self.load_timeout = load_timeout
        self._shelf = shelf
        self._holds = holds
        self._by_alias: dict[Hashable, int] = {}
        self._numbers = itertools.count(1)

    def new(self, stage: Stage, source: Any, now: float, aliases: list[Hashable]) -> Job:
        """Put a job on the table; equal requests will find it by its aliases."""
        job = Job(next(self._numbers), stage, source, now)
        self.table[job.number] = job
        for alias in aliases:
            self.add_alias(job, alias)
        if stage is Stage.PROBING:
            job.deadline = now + self.load_timeout
        return job

    def add_alias(self, job: Job, alias: Hashable) -> None:
        """Let requests for `alias` join this job."""
        if alias not in self._by_alias:
            self._by_alias[alias] = job.number
            job.aliases.append(alias)

    def find(self, alias: Hashable) -> Job | None:
        """Return the job that will make the block of an alias."""
        number = self._by_alias.get(alias)
        return None if number is None else self.table[number]

    def join(self, job: Job, to: Asker, waiter: Waiter, now: float) -> None:
        """Let one more wait for a job; the most patient says how long it may wait for room."""
        job.waiters[to] = waiter
        job.patient_until = max(job.patient_until, now + waiter.patience)

    def of_writer(self, block: Block | None) -> Job | None:
        """Return the job of a block that a client writes."""
        if block is None or block.state is not State.WRITING or block.job is None:
            return None
        return self.table[block.job]

    # ---- room ----------------------------------------------------------------------------

    def queue(self, job: Job, patience: float, now: float) -> list[Effect]:
        """Start the job as soon as there is room; fail when patience ends."""
        job.stage = Stage.QUEUED
        job.patient_until = max(job.patient_until, now + patience)
        if job.size > self._shelf.budget:
            return self._fail_for_room(job, now)  # no release can help
        return self.pump(now)

    def queued(self) -> list[Job]:
        """Return the jobs that wait for room, in order of arrival."""
        return [job for job in self.table.values() if job.stage is Stage.QUEUED]

    def pump(self, now: float) -> list[Effect]:
        """Start the queued jobs that fit, and make room for the others where that is possible."""
        effects: list[Effect] = []
        promised = 0  # bytes on their way to jobs that asked earlier
        for job in self.queued():
            room = self._shelf.room(self._unfilled()) - promised
            shortage = job.size - room - self._shelf.coming()
            victims = self._shelf.victims(shortage, now)
            if room >= job.size:
                effects += self._start(job, now)
            elif shortage <= 0 or victims:
                promised += job.size
                job.deadline = math.inf  # the kernel's word on what leaves comes back here
                effects += self._evict(victims)
            else:
                if job.searched == -math.inf or job.searched < job.deadline <= now:
                    effects += self._search(job, now)
                job.deadline = self._next_look(job, now)
        return effects

    def reconsider(self) -> None:
        """Let a tick, due at once, look at the queue: room it counted on does not come."""
        for job in self.queued():
            job.deadline = -math.inf

    def _unfilled(self) -> int:
        """Bytes that are reserved but that the kernel may not have given yet."""
        return sum(
            job.size - (job.size * job.done // job.total if job.total else 0)
            for job in self.table.values()
            if job.stage in (Stage.FILLING, Stage.MAKING)
        )

    def _start(self, job: Job, now: float) -> list[Effect]:
        if job.writer is not None:
            block = self._shelf.reserve(job, State.WRITING, now)
            job.stage, job.deadline = Stage.MAKING, math.inf
            return [Make(job.number, block.segment)]
        block = self._shelf.reserve(job, State.LOADING, now)
        job.stage, job.deadline = Stage.FILLING, now + self.load_timeout
        return [Fill(job.number, block.segment)]

    def _evict(self, victims: list[Block]) -> list[Effect]:
        effects: list[Effect] = []
        for block in victims:
            self._holds.evicted()
            effects += self._holds.unlink(block)
        return effects

    def _search(self, job: Job, now: float) -> list[Effect]:
        """Look for stale holds: blocks that the kernel may say nobody maps."""
        job.searched = now
        return [Inspect(b.segment) for b in self._shelf.held(now) if _may_be_stale(b, now)]

    def give_up(self, now: float) -> list[Effect]:
        """Fail the jobs whose patience has ended; `pump` has had a last look for stale holds."""
        effects: list[Effect] = []
        for job in self.queued():
            if now >= job.deadline:
                effects += self._fail_for_room(job, now)
        return effects

    def _next_look(self, job: Job, now: float) -> float:
        """When a job that waits for room ends its patience, or the next hold may be stale."""
        ages = (h.since + STALE_AFTER for b in self._shelf.held(now) for h in b.holders.values())
        return min([job.patient_until, *(t for t in ages if t > now)])

    def _fail_for_room(self, job: Job, now: float) -> list[Effect]:
        sessions = self._holds.sessions
        return self.fail(job, explain.no_room(job, self._shelf, sessions, self._unfilled(), now))

    # ---- ends ----------------------------------------------------------------------------

    def fail(self, job: Job, error: ArraydError) -> list[Effect]:
        """Tell everyone who waits, and end the job."""
        askers = list(job.waiters) + ([job.writer] if job.writer else [])
        replies: list[Effect] = [Reply(to, error) for to in askers]
        return replies + self.end(job)

    def end(self, job: Job) -> list[Effect]:
        """Take a job off the table, and its unfinished block out of the world."""
        self.remove(job)
        effects: list[Effect] = []
        if job.stage in (Stage.PROBING, Stage.FILLING):
            effects.append(Cancel(job.number))
        if job.segment is not None:
            effects += self._holds.unlink(self._shelf.blocks[job.segment], force=True)
        return effects

    def remove(self, job: Job) -> None:
        """Take a job off the table; its block, if it has one, lives on."""
        del self.table[job.number]
        for alias in job.aliases:
            self._by_alias.pop(alias, None)

    def merge(self, job: Job, other: Job, now: float) -> list[Effect]:
        """Let those who wait for `job` wait for `other`, which makes the same block."""
        for to, waiter in job.waiters.items():
            self.join(other, to, waiter, now)
        other.detached = other.detached or job.detached
        self.remove(job)
        for alias in job.aliases:
            self.add_alias(other, alias)
        return []

    def forget(self, leaves: Callable[[Asker], bool]) -> list[Effect]:
        """Drop the askers that leave; a load that nobody waits for any more is cancelled."""
        effects: list[Effect] = []
        for job in list(self.table.values()):
            gone = [to for to in job.waiters if leaves(to)]
            for to in gone:
                del job.waiters[to]
            writer_left = job.writer is not None and leaves(job.writer)
            if writer_left or (gone and not job.waiters and not job.detached):
                effects += self.end(job)
        return effects

    def finish(self, job: Job, block: Block, now: float) -> list[Effect]:
        """Grant `block` to all who wait for `job`, which is done."""
        self.remove(job)
        for alias in job.aliases:
            self._shelf.add_alias(block, alias)
        askers = {**job.waiters, **({job.writer: Waiter()} if job.writer else {})}
        return [self._holds.grant(block, to, waiter, now) for to, waiter in askers.items()]

    def publish(self, job: Job, block: Block, now: float) -> list[Effect]:
        """Give a client's block its name, and the block to those who wait for the name."""
        assert job.draft is not None
        block.name = job.draft.name
        if block.name is None:
            return []
        alias = name_alias(block.name)
        effects: list[Effect] = []
        old = self._shelf.forget_alias(alias)
        if old is not None:
            old.name, old.keep = None, False
            if old.segment in self._shelf.idle:
                del self._shelf.idle[old.segment]
                effects += self._holds.rest(old, now)
        awaited = self.find(alias)
        if awaited is not None:
            return effects + self.finish(awaited, block, now)
        self._shelf.add_alias(block, alias)
        return effects

    def adopt(self, block: Block, now: float) -> None:
        """Go on with a block that a client was writing when an earlier run ended."""
        job = self.new(Stage.WRITING, block.source, now, [])
        job.spec, job.size, job.segment = block.spec, block.size, block.segment
        job.draft = Draft(block.spec, block.size, block.source, block.name, block.keep)
        block.name, block.job = None, job.number

    def name_taken(self, name: str) -> bool:
        """Say whether a block has this name, or is being written to have it."""
        drafts = (job.draft for job in self.table.values())
        resident = self._shelf.find(name_alias(name)) is not None
        return resident or any(d is not None and d.name == name for d in drafts)


def _may_be_stale(block: Block, now: float) -> bool:
    return block.state is State.SEALED and any(
        now - hold.since >= STALE_AFTER for hold in block.holders.values()
    )
