"""The jobs in flight, and who waits for which.

How a block is made
===================
A job makes one block. Its stages, and when it moves from one to the next, are a table in
`lifecycle`. There are three ways:

- A *load*: PROBING (a worker says how big the array is) → QUEUED (until there is room, see
  `admission`) → FILLING (workers write the rows) → SEALING.
- A load of several small files into one block begins QUEUED if their sizes tell how large that has
  to be; see `members`.
- A *publication*: QUEUED → MAKING (a segment is made) → WRITING (the client that asked for it
  fills it) → SEALING. See `publishing`.

A job that is AWAITING makes nothing: it stands for a name that nothing is published under, and
ends when another job publishes that.

Who asks for what a job will make joins it instead of beginning another. A job is found by its
*aliases*: a request's own, and after the probe the key of the contents, by which requests in
other words find it. If the key turns out to be that of another job, the two merge; if it is that
of a block in memory, that is granted at once. A job goes on while somebody waits for it, writes
its block, or has asked for it in advance (`detached`); then it ends, and so does its unfinished
block. Who has asked in advance for as long as its session lasts is a waiter that gets nothing
(`AwaitedItem.ahead`).

What would need a look at all jobs is kept as an index and updated where a job changes: the
queue, the bytes still to come, the jobs and items of each session, the names to be published.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from arrayd.errors import ArraydError
from arrayd_server.core import lifecycle
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.effects import Cancel, Effect, Probe, Reply, ReportProgress
from arrayd_server.core.failed_loads import FailedLoads
from arrayd_server.core.holds import Holds
from arrayd_server.core.model import (
    Asker,
    AwaitedItem,
    BlockMember,
    Draft,
    Job,
    Nonce,
    Place,
    Stage,
)

PROGRESS_EVERY = 0.1
"""Seconds between two progress messages of one load to each of up to a thousand waiters."""

_AT_WORK = (Stage.PROBING, Stage.FILLING)
"""The stages in which workers have to do with a job."""

Waiters = dict[Asker, AwaitedItem]

RESERVED = (Stage.FILLING, Stage.MAKING)
"""The stages in which the pages of a block are being asked for."""


class JobTable:
    """All jobs, by number, alias and session."""

    def __init__(self, blocks: BlockTable, holds: Holds) -> None:
        self.table: dict[int, Job] = {}
        self.queue = blocks.accounts.queue  # those that wait for room
        self.unfilled = 0  # bytes reserved that the kernel may not have given yet
        #: the jobs that each session waits for, or writes
        self.by_session: dict[Nonce, dict[int, Job]] = {}
        self.awaited: Counter[Nonce] = Counter()  # items that each session waits for
        self.all_awaited = 0  # the sum
        self.drafted: Counter[str] = Counter()  # the names of blocks to be published
        self.failures = FailedLoads()
        self._blocks = blocks
        self._holds = holds
        self._by_alias: dict[Hashable, tuple[Job, BlockMember | None]] = {}
        self._numbers = itertools.count(1)

    def new(
        self,
        stage: Stage,
        identity: Any,
        now: float,
        aliases: list[Hashable],
        *,
        load: bool = False,
    ) -> Job:
        """Put a job on the table; equal requests will find it by its aliases.

        What begins with a probe is a load; what does not may be one.
        """
        lifecycle.check_step(None, stage)
        job = Job(next(self._numbers), stage, identity, now)
        self.table[job.number] = job
        for alias in aliases:
            self.take_alias(job, alias)
        self._index_stage(job)
        if load or stage is Stage.PROBING:
            self._blocks.accounts.begin(job)
        return job

    def assign(self, job: Job, user: int | None) -> None:
        """Let a job be for a user: its block, and the load, count in that user's quota."""
        is_load = self._blocks.accounts.end(job)
        job.user = user
        if is_load:
            self._blocks.accounts.begin(job)

    def at(self, number: int, *stages: Stage) -> Job | None:
        """Return a job if it is at one of these stages."""
        job = self.table.get(number)
        return job if job is not None and job.stage in stages else None

    def enter(self, job: Job, stage: Stage) -> None:
        """Move a job to `stage`, and update the indexes, so that no event looks at all jobs."""
        self._unindex_stage(job)
        lifecycle.set_stage(job, stage)
        job.next_check = math.inf
        self._index_stage(job)

    def _index_stage(self, job: Job) -> None:
        if job.stage is Stage.QUEUED:
            self.queue[job.number] = job
        if job.stage in RESERVED:
            self.unfilled += job.unfilled

    def _unindex_stage(self, job: Job) -> None:
        self.queue.pop(job.number, None)
        if job.stage in RESERVED:
            self.unfilled -= job.unfilled

    def advance(self, job: Job, rows: int, now: float) -> list[Effect]:
        """Count `rows` more rows as loaded, and report that now and then."""
        before = job.unfilled
        job.done = min(job.done + rows, job.total)
        if job.stage in RESERVED:
            self.unfilled += job.unfilled - before
        pause = PROGRESS_EVERY * max(1.0, len(job.waiters) / 1000)
        if job.members or (now - job.reported_at < pause and job.done < job.total):
            return []  # `done` of its members are loaded: that is nothing to one who wants one
        job.reported_at = now
        return [
            ReportProgress(to, job.done, job.total) for to, w in job.waiters.items() if w.progress
        ]

    def queued(self) -> list[Job]:
        """Return the jobs that wait for room, in order of arrival."""
        return sorted(self.queue.values(), key=lambda job: job.number)

    def add_alias(self, job: Job, alias: Hashable) -> None:
        """Let requests for `alias` join this job."""
        if alias not in self._by_alias:
            self._by_alias[alias] = job, None
            job.aliases.append(alias)

    def add_members(self, job: Job) -> None:
        """Let requests for the members of a job join it."""
        for member in job.members:
            self._by_alias[member.alias] = job, member
            job.aliases.append(member.alias)

    def take_alias(self, job: Job, alias: Hashable) -> None:
        """Let requests for `alias` join this job from now on, not one that loads it as a member."""
        other, member = self._by_alias.get(alias, (None, None))
        if other is not None and member is not None:
            self.forget_alias(other, alias)
        self.add_alias(job, alias)

    def forget_alias(self, job: Job, alias: Hashable) -> None:
        """Let requests for `alias` join a job no more, if they did."""
        if alias in job.aliases:
            job.aliases.remove(alias)
            del self._by_alias[alias]

    def find(self, alias: Hashable) -> Job | None:
        """Return the job that will make the block of an alias."""
        return self._by_alias.get(alias, (None, None))[0]

    def locate(self, alias: Hashable) -> tuple[Job, BlockMember | None] | None:
        """Return the job that will make the block of an alias, and which of its members it is."""
        return self._by_alias.get(alias)

    def join(self, job: Job, to: Asker, waiter: AwaitedItem, now: float) -> None:
        """Let `to` wait for a job, too; the longest timeout says how long it may wait for room."""
        if to not in job.waiters:
            self._count(job, to.nonce, 1)
        job.waiters[to] = waiter
        job.deadline = max(job.deadline, now + waiter.timeout)
        self.by_session.setdefault(to.nonce, {})[job.number] = job

    def join_new(self, job: Job, waiters: Sequence[tuple[Asker, AwaitedItem]], now: float) -> None:
        """Let the items of a request wait for a job that nobody waits for yet."""
        nonce = waiters[0][0].nonce
        job.waiters.update(waiters)
        self._count(job, nonce, len(job.waiters))
        job.deadline = now + max(waiter.timeout for _, waiter in waiters)
        self.by_session.setdefault(nonce, {})[job.number] = job

    def _count(self, job: Job, nonce: Nonce, change: int) -> None:
        """Let so many more (or fewer) of a session's items wait for a job."""
        self.all_awaited += change
        for counter in (self.awaited, job.sessions):
            counter[nonce] += change
            if not counter[nonce]:
                del counter[nonce]

    def in_flight(self, nonce: Nonce) -> tuple[int, int]:
        """Return what a session has asked for and not got, and what all have: jobs and waiters."""
        mine = len(self.by_session.get(nonce, ())) + self.awaited[nonce]
        return mine, len(self.table) + self.all_awaited

    def of_session(self, nonce: Nonce) -> list[Job]:
        """Return the jobs that a session waits for, or writes."""
        return list(self.by_session.get(nonce, {}).values())

    def set_draft(self, job: Job, draft: Draft) -> None:
        """Let a job make the block that a client writes."""
        job.spec, job.size, job.draft = draft.spec, draft.size, draft
        if draft.name is not None:
            self.drafted[draft.name] += 1

    def set_writer(self, job: Job, writer: Asker) -> None:
        """Let a request of the client that writes a block be the one that its job answers."""
        job.writer = writer
        self.by_session.setdefault(writer.nonce, {})[job.number] = job

    def merge(self, job: Job, other: Job, now: float) -> list[Effect]:
        """Let those who wait for `job` wait for `other`, which makes the same block."""
        for to, waiter in job.waiters.items():
            self.join(other, to, waiter, now)
        other.detached = other.detached or job.detached
        for alias in self.remove(job):
            self.add_alias(other, alias)
        return []

    def remove_waiter(self, job: Job, to: Asker) -> None:
        """Let `to` no longer wait for a job."""
        del job.waiters[to]
        self._count(job, to.nonce, -1)
        if not job.sessions[to.nonce] and (job.writer is None or job.writer.nonce != to.nonce):
            self._unlink_session(to.nonce, job)

    def forget(self, nonce: Nonce, request: int | None = None) -> list[Effect]:
        """Drop a session's requests, or one; a load that nobody waits for any more is cancelled."""
        effects: list[Effect] = []
        for job in self.of_session(nonce):
            mine = (to for to in job.waiters if to.nonce == nonce)
            gone = [to for to in mine if request in (None, to.request)]
            for to in gone:
                self.remove_waiter(job, to)
            writer = job.writer if job.writer and job.writer.nonce == nonce else None
            writer_left = writer is not None and request in (None, writer.request)
            if writer_left or (gone and not job.waiters and not job.detached):
                effects += self.end(job)
        return effects

    def refuse(self, job: Job, askers: list[Asker], error: ArraydError, now: float) -> list[Effect]:
        """Answer some of those who wait with an error; the job goes on for the others."""
        if askers:
            self.failures.note(job, askers, error, self._holds.sessions, now)
        replies = self._replies(job, askers, error)
        for to in askers:
            self.remove_waiter(job, to)
        return replies

    def fail(self, job: Job, error: ArraydError, now: float) -> list[Effect]:
        """Answer everyone who waits with an error, and end the job."""
        askers = list(job.waiters) + ([job.writer] if job.writer else [])
        self.failures.note(job, askers, error, self._holds.sessions, now)
        return self._replies(job, askers, error) + self.end(job)

    def _replies(self, job: Job, askers: list[Asker], error: ArraydError) -> list[Effect]:
        """Tell askers an error, each in the words in which it has asked: see `users.shown`."""
        replies: list[Effect] = []
        for to in askers:
            waiter = job.waiters.get(to, AwaitedItem())
            asked = waiter.asked
            retold = error if asked is None else asked.retold(error, job.identity)
            replies += [] if waiter.ahead else [Reply(to, retold)]
        return replies

    def finish(self, job: Job, place: Place, now: float) -> list[Effect]:
        """Grant what is at `place` to all who wait for `job`, which is done."""
        block = place.block
        for alias in self.remove(job):
            if not job.members:
                self._blocks.add_alias(place, alias)
        if job.members:
            self._blocks.keep_loaded(block)
            assert block.members, "rule 9: a block of no member"
            self._blocks.index(block)
        askers = {**job.waiters, **({job.writer: AwaitedItem()} if job.writer else {})}
        for waiter in askers.values():
            waiter.member = place.member or waiter.member
        granted = [self._holds.grant(block, to, waiter, now) for to, waiter in askers.items()]
        return [effect for effects in granted for effect in effects]

    def waiters_of(self, job: Job) -> dict[int, Waiters]:
        """Return who waits for each member of a job, by the `id` of that."""
        found: dict[int, Waiters] = {}
        for to, waiter in job.waiters.items():
            found.setdefault(id(waiter.member), {})[to] = waiter
        return found

    def drop_member(self, job: Job, member: BlockMember, waiters: Waiters) -> None:
        """Let a job no longer load a member for those who wait for it."""
        for to in waiters:
            self.remove_waiter(job, to)
        self.forget_alias(job, member.alias)

    def load_alone(
        self, job: Job, member: BlockMember, waiters: Waiters, now: float
    ) -> list[Effect]:
        """Let who waits for a member of a job wait for a job that loads it alone."""
        self.drop_member(job, member, waiters)
        return self._probe(job, member, waiters, now)

    def scatter(self, job: Job, now: float) -> list[Effect]:
        """End a job; each of its members that is wanted is loaded alone."""
        waiting = self.waiters_of(job)
        effects = self.end(job)
        for member in job.members:
            effects += self._probe(job, member, waiting.get(id(member), {}), now)
        return effects

    def _probe(
        self, together: Job, member: BlockMember, waiters: Waiters, now: float
    ) -> list[Effect]:
        if not waiters and not together.detached:
            return []
        effects: list[Effect] = []
        job = self.find(member.alias)
        if job is None:
            job = self.new(Stage.PROBING, member.identity, now, [member.alias])
            job.edition = member.edition
            self.assign(job, together.user)
            effects.append(Probe(job.number, job.identity))
        job.detached = job.detached or together.detached  # a prefetch may have meant this one
        for to, waiter in waiters.items():
            waiter.member, waiter.late = None, False  # its probe is still to begin
            self.join(job, to, waiter, now)
        return effects

    def end(self, job: Job, *, force: bool = True) -> list[Effect]:
        """Take a job off the table, and have its unfinished block unlinked.

        Without `force` that is refused if somebody maps it: `resume` then goes on with it.
        """
        self.remove(job)
        effects: list[Effect] = []
        if job.stage in (*_AT_WORK, Stage.QUEUED) and job.draft is None:
            effects.append(Cancel(job.number))
        if job.segment is not None:
            block = self._blocks.table[job.segment]
            block.draft = None if force else job.draft
            effects += self._holds.unlink(block, force=force)
        return effects

    def remove(self, job: Job) -> list[Hashable]:
        """Take a job off the table; its block, if it has one, lives on. Return its aliases."""
        lifecycle.check_step(job.stage, None)
        self._unindex_stage(job)
        self._blocks.accounts.end(job)
        del self.table[job.number]
        for nonce, count in list(job.sessions.items()):
            self._count(job, nonce, -count)
            self._unlink_session(nonce, job)
        if job.writer is not None:
            self._unlink_session(job.writer.nonce, job)
        if job.draft is not None and job.draft.name is not None:
            self.drafted.subtract([job.draft.name])
            if not self.drafted[job.draft.name]:
                del self.drafted[job.draft.name]
        return self.forget_aliases(job)

    def forget_aliases(self, job: Job) -> list[Hashable]:
        """Let no more requests join a job; return how it was found."""
        aliases, job.aliases = job.aliases, []
        for alias in aliases:
            self._by_alias.pop(alias, None)
        return aliases

    def _unlink_session(self, nonce: Nonce, job: Job) -> None:
        """Forget that a session has to do with a job."""
        jobs = self.by_session.get(nonce, {})
        jobs.pop(job.number, None)
        if not jobs:
            self.by_session.pop(nonce, None)
