"""How a block comes to be: probed, waiting for room, filled or written, sealed."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable
from typing import Any

from arrayd.errors import ArraydError
from arrayd_server.core import error_texts, lends
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.effects import Cancel, Effect, Fill, Inspect, Make, Probe, Reply
from arrayd_server.core.holds import STALE_AFTER, Holds, may_be_stale
from arrayd_server.core.model import (
    Asker,
    AwaitedItem,
    Block,
    Draft,
    Job,
    Nonce,
    Stage,
    State,
    name_alias,
)

PROGRESS_EVERY = 0.1
"""Seconds between two progress messages of one load to each of up to a thousand waiters."""

MAX_QUEUE = 1000
"""Jobs that may wait for room: all are looked at whenever there may be some."""

_AT_WORK = (Stage.PROBING, Stage.FILLING)
"""The stages in which workers have to do with a job."""

RESERVED = (Stage.FILLING, Stage.MAKING)
"""The stages in which the pages of a block are being asked for."""


class Jobs:
    """The jobs in flight, and the queue of those that wait for room."""

    def __init__(self, blocks: BlockTable, holds: Holds) -> None:
        self.table: dict[int, Job] = {}
        self.unfilled = 0  # bytes reserved that the kernel may not have given yet
        self._queue: dict[int, Job] = {}  # those that wait for room
        self._of: dict[Nonce, dict[int, Job]] = {}  # those that somebody waits for, or writes
        self._waiting: Counter[Nonce] = Counter()  # items that each session waits for
        self._waited = 0  # the sum
        self._drafts: Counter[str] = Counter()  # the names of blocks to be published
        self._blocks = blocks
        self._holds = holds
        self._by_alias: dict[Hashable, int] = {}
        self._numbers = itertools.count(1)

    def new(self, stage: Stage, identity: Any, now: float, aliases: list[Hashable]) -> Job:
        """Put a job on the table; equal requests will find it by its aliases."""
        job = Job(next(self._numbers), stage, identity, now)
        self.table[job.number] = job
        for alias in aliases:
            self.add_alias(job, alias)
        self.enter(job, stage)
        return job

    def enter(self, job: Job, stage: Stage) -> None:
        """Move a job to a stage, and keep in step what is known of all by looking at few."""
        self._leave(job)
        job.stage, job.next_check = stage, math.inf
        if stage is Stage.QUEUED:
            self._queue[job.number] = job
        if stage in RESERVED:
            self.unfilled += job.unfilled

    def _leave(self, job: Job) -> None:
        self._queue.pop(job.number, None)
        if job.stage in RESERVED:
            self.unfilled -= job.unfilled

    def advance(self, job: Job, rows: int) -> None:
        """Take note of `rows` more rows loaded."""
        before = job.unfilled
        job.done = min(job.done + rows, job.total)
        if job.stage in RESERVED:
            self.unfilled += job.unfilled - before

    def wake_at(self) -> float:
        """When the first job has to give up waiting for room; inf: never."""
        return min((job.next_check for job in self._queue.values()), default=math.inf)

    def add_alias(self, job: Job, alias: Hashable) -> None:
        """Let requests for `alias` join this job."""
        if alias not in self._by_alias:
            self._by_alias[alias] = job.number
            job.aliases.append(alias)

    def find(self, alias: Hashable) -> Job | None:
        """Return the job that will make the block of an alias."""
        return self.table.get(self._by_alias.get(alias, 0))  # the first job is 1

    def join(self, job: Job, to: Asker, waiter: AwaitedItem, now: float) -> None:
        """Let one more wait for a job; the longest timeout says how long it may wait for room."""
        if to not in job.waiters:
            self._count(job, to.nonce, 1)
        job.waiters[to] = waiter
        job.deadline = max(job.deadline, now + waiter.timeout)
        self._of.setdefault(to.nonce, {})[job.number] = job

    def _count(self, job: Job, nonce: Nonce, change: int) -> None:
        """Let so many more (or fewer) of a session's items wait for a job."""
        self._waited += change
        for counter in (self._waiting, job.sessions):
            counter[nonce] += change
            if not counter[nonce]:
                del counter[nonce]

    def in_flight(self, nonce: Nonce) -> tuple[int, int]:
        """Return what a session has asked for and not got, and what all have: jobs and waiters."""
        mine = len(self._of.get(nonce, ())) + self._waiting[nonce]
        return mine, len(self.table) + self._waited

    def of_session(self, nonce: Nonce) -> list[Job]:
        """Return the jobs that a session waits for, or writes."""
        return list(self._of.get(nonce, {}).values())

    def write(self, job: Job, draft: Draft, writer: Asker | None) -> None:
        """Have a job make the block that a client writes; None: it has yet to come back."""
        job.spec, job.size, job.draft = draft.spec, draft.size, draft
        if draft.name is not None:
            self._drafts[draft.name] += 1
        if writer is not None:
            self.set_writer(job, writer)

    def set_writer(self, job: Job, writer: Asker) -> None:
        """Let a client's request be the one that a job of its answers."""
        job.writer = writer
        self._of.setdefault(writer.nonce, {})[job.number] = job

    def of_writer(self, block: Block | None) -> Job | None:
        """Return the job of a block that a client writes."""
        if block is None or block.state is not State.WRITING or block.job is None:
            return None
        return self.table[block.job]

    # ---- room ----------------------------------------------------------------------------

    def queue(self, job: Job, timeout: float, now: float) -> list[Effect]:
        """Start the job as soon as there is room; fail when timeout ends."""
        self.enter(job, Stage.QUEUED)
        job.deadline = max(job.deadline, now + timeout)
        if job.size > self._blocks.budget:
            return self._fail_for_room(job, now)  # no release can help
        effects = self.start_queued(now)
        if len(self._queue) > MAX_QUEUE and job.stage is Stage.QUEUED and job.next_check < math.inf:
            effects += self._fail_for_room(job, now)
        return effects

    def retry(self, job: Job, now: float) -> list[Effect]:
        """Let a job wait for room once more: the kernel, after all, had no pages for its block.

        Somebody else filled /dev/shm meanwhile; what is idle may go for it. Its file is looked
        at again, for what was found is forgotten with the first try.
        """
        assert job.segment is not None
        effects = self._holds.unlink(self._blocks.table[job.segment], force=True)
        job.segment, job.retried = None, True
        if job.draft is not None:
            return effects + self.queue(job, 0.0, now)
        self.enter(job, Stage.PROBING)
        job.done = 0
        if job.linked:
            self.forget_aliases(job)  # its key may be another by now
        return [*effects, Probe(job.number, job.identity)]

    def queued(self) -> list[Job]:
        """Return the jobs that wait for room, in order of arrival."""
        return sorted(self._queue.values(), key=lambda job: job.number)

    def start_queued(self, now: float) -> list[Effect]:
        """Start the queued jobs that fit, and make room for the others where that is possible."""
        if not (queued := self.queued()):
            return []
        effects: list[Effect] = []
        promised = 0  # bytes on their way to jobs that asked earlier
        coming = self._blocks.bytes_being_freed()
        stuck: list[Job] = []
        for job in queued:
            room = self._blocks.available(self.unfilled) - promised
            shortage = max(0, job.size - room - coming)
            if room >= job.size:
                effects += self._start(job, now)
            elif (victims := self._victims(job, shortage, now)) is not None:
                coming += sum(block.size for block in victims)
                promised += job.size
                job.next_check = math.inf  # the kernel's word on what leaves comes back here
                effects += self._evict(victims)
            else:
                stuck.append(job)
        return effects + self._wait(stuck, now)

    def _victims(self, job: Job, shortage: int, now: float) -> list[Block] | None:
        """Return blocks that make room: idle ones and, as the last resort, those only lent."""
        victims = self._blocks.victims(shortage, now)
        if victims is None and _searches(job, now):
            lent = lends.spare(self._blocks.unevictable(now), now)
            victims = self._blocks.victims(shortage, now, lent)
        return victims

    def _wait(self, stuck: list[Job], now: float) -> list[Effect]:
        """Let jobs that nothing makes room for wait, and look for stale holds now and then.

        At once, every `STALE_AFTER` seconds, and before a job gives up.
        """
        search = False
        for job in stuck:
            if _searches(job, now):
                search, job.searched_at = True, now
            job.next_check = min(job.deadline, job.searched_at + STALE_AFTER)
        return self._search(now) if search else []

    def search_again(self, now: float) -> list[Effect]:
        """Look at the queue anew, and for the last resorts too: there are more of these."""
        for job in self._queue.values():
            job.searched_at = -math.inf
        return self.start_queued(now)

    def recheck_queue(self) -> None:
        """Let a tick, due at once, look at the queue: room it counted on does not come."""
        for job in self.queued():
            job.next_check = -math.inf

    def _start(self, job: Job, now: float) -> list[Effect]:
        if job.writer is not None:
            block = self._blocks.reserve(job, State.WRITING, now)
            self.enter(job, Stage.MAKING)
            return [Make(job.number, block.segment)]
        block = self._blocks.reserve(job, State.LOADING, now)
        self.enter(job, Stage.FILLING)
        return [Fill(job.number, block.segment)]

    def _evict(self, victims: list[Block]) -> list[Effect]:
        effects: list[Effect] = []
        for block in victims:
            self._holds.evicted()
            effects += self._holds.unlink(block)
        return effects

    def _search(self, now: float) -> list[Effect]:
        """Look for stale holds: blocks that the kernel may say nobody maps."""
        return [Inspect(b.segment) for b in self._blocks.unevictable(now) if may_be_stale(b, now)]

    def give_up(self, now: float) -> list[Effect]:
        """Fail the jobs whose time is over; `start_queued` has looked for stale holds once more."""
        late = [job for job in self.queued() if now >= job.next_check]
        return [effect for job in late for effect in self._fail_for_room(job, now)]

    def _fail_for_room(self, job: Job, now: float) -> list[Effect]:
        facts = (self._blocks, self._holds.sessions, self.unfilled, now)
        return self.fail(job, error_texts.no_room(job, *facts))

    # ---- ends ----------------------------------------------------------------------------

    def fail(self, job: Job, error: ArraydError) -> list[Effect]:
        """Tell everyone who waits, and end the job."""
        askers = list(job.waiters) + ([job.writer] if job.writer else [])
        replies: list[Effect] = [Reply(to, error) for to in askers]
        return replies + self.end(job)

    def end(self, job: Job, *, force: bool = True) -> list[Effect]:
        """Take a job off the table, and its unfinished block out of the world.

        Without `force` not if somebody maps that: `resume` then goes on with it.
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
        self._leave(job)
        del self.table[job.number]
        for nonce, count in list(job.sessions.items()):
            self._count(job, nonce, -count)
            self._unlink_session(nonce, job)
        if job.writer is not None:
            self._unlink_session(job.writer.nonce, job)
        if job.draft is not None and job.draft.name is not None:
            self._drafts.subtract([job.draft.name])
            if not self._drafts[job.draft.name]:
                del self._drafts[job.draft.name]
        return self.forget_aliases(job)

    def forget_aliases(self, job: Job) -> list[Hashable]:
        """Let no more requests join a job; return how it was found."""
        aliases, job.aliases = job.aliases, []
        for alias in aliases:
            self._by_alias.pop(alias, None)
        return aliases

    def _unlink_session(self, nonce: Nonce, job: Job) -> None:
        """Forget that a session has to do with a job."""
        jobs = self._of.get(nonce, {})
        jobs.pop(job.number, None)
        if not jobs:
            self._of.pop(nonce, None)

    def leave_out(self, job: Job, to: Asker) -> None:
        """Let one no longer wait for a job."""
        del job.waiters[to]
        self._count(job, to.nonce, -1)
        if not job.sessions[to.nonce] and (job.writer is None or job.writer.nonce != to.nonce):
            self._unlink_session(to.nonce, job)

    def merge(self, job: Job, other: Job, now: float) -> list[Effect]:
        """Let those who wait for `job` wait for `other`, which makes the same block."""
        for to, waiter in job.waiters.items():
            self.join(other, to, waiter, now)
        other.detached = other.detached or job.detached
        for alias in self.remove(job):
            self.add_alias(other, alias)
        return []

    def forget(self, nonce: Nonce, request: int | None = None) -> list[Effect]:
        """Drop a session's requests, or one; a load that nobody waits for any more is cancelled."""
        effects: list[Effect] = []
        for job in self.of_session(nonce):
            mine = (to for to in job.waiters if to.nonce == nonce)
            gone = [to for to in mine if request in (None, to.request)]
            for to in gone:
                self.leave_out(job, to)
            writer = job.writer if job.writer and job.writer.nonce == nonce else None
            writer_left = writer is not None and request in (None, writer.request)
            if writer_left or (gone and not job.waiters and not job.detached):
                effects += self.end(job)
        return effects

    def finish(self, job: Job, block: Block, now: float) -> list[Effect]:
        """Grant `block` to all who wait for `job`, which is done."""
        for alias in self.remove(job):
            self._blocks.add_alias(block, alias)
        askers = {**job.waiters, **({job.writer: AwaitedItem()} if job.writer else {})}
        return [self._holds.grant(block, to, waiter, now) for to, waiter in askers.items()]

    def publish(self, job: Job, block: Block, now: float) -> list[Effect]:
        """Give a client's block its name, and the block to those who wait for the name."""
        assert job.draft is not None
        block.name = job.draft.name
        if block.name is None:
            return []
        alias = name_alias(block.name)
        effects = self._displace(alias, now)
        if (awaited := self.find(alias)) is not None:
            return effects + self.finish(awaited, block, now)
        self._blocks.add_alias(block, alias)
        return effects

    def _displace(self, alias: Hashable, now: float) -> list[Effect]:
        """Take a name from the block that has it; without it only its users keep it."""
        old = self._blocks.forget_alias(alias)
        if old is None:
            return []
        old.name, old.keep = None, False
        if old.segment not in self._blocks.idle:
            return []
        self._blocks.unmark_idle(old)
        return self._holds.retire(old, now)

    def adopt(self, block: Block, now: float) -> list[Effect]:
        """Go on with a block of an earlier run; of two with one name the later one has it."""
        if block.state is State.SEALED:
            displaced = [] if block.name is None else self._displace(name_alias(block.name), now)
            self._blocks.index(block)
            return displaced
        block.draft = Draft(block.spec, block.size, block.identity, block.name, block.keep)
        self.resume(block, now)
        return []

    def resume(self, block: Block, now: float) -> None:
        """Go on with the draft of a block that some session still writes."""
        assert block.draft is not None
        job = self.new(Stage.WRITING, block.identity, now, [])
        job.segment = block.segment
        self.write(job, block.draft, None)
        block.state, block.job, block.name, block.draft = State.WRITING, job.number, None, None

    def name_taken(self, name: str) -> bool:
        """Say whether a block has this name, or is being written to have it."""
        return name in self._drafts or self._blocks.find(name_alias(name)) is not None


def _searches(job: Job, now: float) -> bool:
    """Say whether it is time to look for the last resorts."""
    return job.searched_at == -math.inf or job.searched_at < job.next_check <= now
