"""How jobs get room: the queue, what goes for it, and when a job gives up.

How room is found
=================
*Room* is what may be reserved now: what the budget has left, or what the kernel still gives if
that is less (/dev/shm, the cgroup; minus what was reserved and not yet filled). A job has its
whole block charged when it starts, so no job stops half-way for want of budget.

After every event that may have changed something, `start_queued` looks at the queued jobs in
order of arrival. A job

1. starts, if there is room; the pages of a spare that fits it (see `spares`) are room to it;
2. else has other spares given back, then idle blocks unlinked, the least recently used first, as
   many as are missing beside what is being freed already. One that fits leaves its pages. Those
   bytes are promised to it: later jobs do not get them. How the unlinks end (`freed`,
   `unlink_refused`, `still_mapped`, `recycled`) are events that look at the queue again, so the
   job needs no alarm;
3. else has blocks unlinked that only old references keep (see `lends`);
4. else is stuck: the kernel is asked about the blocks with old holds (`STALE_AFTER`), and those
   that nobody maps lose them and become idle.

3 and 4 are last resorts: a stuck job looks for them at once, every `STALE_AFTER` seconds, and
before it gives up. A later job that fits starts before one that is stuck; large jobs wait until
there is room or their time is over.

Two times of a job: at its `deadline` the longest timeout of its waiters ends; `next_check` is
when the next tick must look at it. A tick whose look has effects ends no job, for they may make
room: the next tick comes at once.
"""

from __future__ import annotations

import math
from collections.abc import Container

from arrayd.errors import NoRoom
from arrayd_server.core import error_texts, lends
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.bounds import Bound
from arrayd_server.core.effects import Effect, Fill, Inspect, Make, Probe
from arrayd_server.core.holds import STALE_AFTER, Holds, may_be_stale
from arrayd_server.core.jobs import JobTable
from arrayd_server.core.model import Block, Job, Stage, State

MAX_QUEUE = 1000
"""Jobs that may wait for room: all are looked at whenever there may be some."""


class Admission:
    """The queue of the jobs that wait for room."""

    def __init__(self, blocks: BlockTable, holds: Holds, jobs: JobTable) -> None:
        self._blocks = blocks
        self._holds = holds
        self._jobs = jobs
        self._spares = holds.spares
        self._shrinks = False  # to a budget that was made smaller

    def admit(self, job: Job, timeout: float, now: float) -> list[Effect]:
        """Start a queued job as soon as there is room; fail it if there is none in time."""
        job.deadline = max(job.deadline, now + timeout)
        effects = self._refuse_pins(job, now)
        if job.number not in self._jobs.table:
            return effects
        going = self._holds.quotas.make(job, now)
        if isinstance(going, NoRoom):
            return effects + self._over_quota(job, going, timeout, now)
        effects += self._evict(going, None, "quota")
        if job.size > self._blocks.budget:
            return effects + self._fail_for_room(job, now)  # no release can help
        effects += self.start_queued(now)
        stuck = job.stage is Stage.QUEUED and job.next_check < math.inf
        if stuck and len(self._jobs.queue) > MAX_QUEUE:
            effects += self._fail_for_room(job, now)
        return effects

    def admit_together(self, job: Job, now: float) -> list[Effect]:
        """Start a job of members, or let it wait for what is on its way; else scatter them."""
        going = self._holds.quotas.make(job, now)
        if isinstance(going, NoRoom):  # each by itself may fit into its user's quota
            return self._jobs.scatter(job, now)
        effects = self._evict(going, None, "quota") + self.start_queued(now)
        if job.stage is Stage.QUEUED and job.next_check < math.inf:
            effects += self._jobs.scatter(job, now)
        return effects

    def change_budget(self, budget: int, bound: Bound, now: float) -> list[Effect]:
        """Let the budget be another from now on.

        What is beyond a smaller one goes as soon as nobody uses it: spares, then idle blocks by
        their last use. Until then it may stay, and nothing new comes.
        """
        blocks = self._blocks
        blocks.budget, blocks.bound, blocks.excused_bytes = budget, bound, blocks.charged
        self._shrinks = True
        effects = self._spares.give_back() if blocks.spare_bytes > budget // 2 else []
        for job in self._jobs.queued():
            if job.size > budget:
                effects += self._fail_for_room(job, now)
        return effects + self.start_queued(now)

    def _refuse_pins(self, job: Job, now: float) -> list[Effect]:
        """Answer those who may not pin what a job makes; without any other waiter it ends."""
        effects: list[Effect] = []
        for to, refusal in self._holds.quotas.pins(job, now).items():
            effects += self._jobs.refuse(job, [to], refusal, now)
        wanted = job.waiters or job.detached or job.writer
        return effects if wanted or not effects else effects + self._jobs.end(job)

    def _over_quota(self, job: Job, refusal: NoRoom, timeout: float, now: float) -> list[Effect]:
        """Refuse those of a user who may have no more; a load goes on for the others who wait.

        It begins anew as one of them has asked for it: the block is to name no path of another's.
        """
        users = {to: self._holds.sessions[to.nonce].peer.user for to in job.waiters}
        first = next((to for to, user in users.items() if user != job.user), None)
        if first is None:
            return self._jobs.fail(job, refusal, now)
        refused = [to for to, user in users.items() if user == job.user]
        effects = self._jobs.refuse(job, refused, refusal, now)
        self._jobs.assign(job, users[first])
        asked = job.waiters[first].asked
        if asked is None:
            return effects + self.admit(job, timeout, now)
        job.identity = asked
        return effects + self._probe_again(job)

    def retry(self, job: Job, now: float) -> list[Effect]:
        """Let a job begin anew: there was room, but the kernel had no pages for its block.

        Some other program has filled /dev/shm meanwhile, and idle blocks may go to make up for
        it. A load is probed again, for the loaders forget what they found when a load fails.
        """
        assert job.segment is not None
        effects = self._holds.unlink(self._blocks.table[job.segment], force=True)
        job.segment, job.retried = None, True
        if job.draft is not None:
            self._jobs.enter(job, Stage.QUEUED)
            return effects + self.admit(job, 0.0, now)
        effects += self._probe_again(job)
        job.done = job.given = 0
        return effects

    def _probe_again(self, job: Job) -> list[Effect]:
        self._jobs.enter(job, Stage.PROBING)
        if job.linked:
            self._jobs.forget_aliases(job)  # its key may be another by now
        return [Probe(job.number, job.identity)]

    def tick(self, now: float) -> list[Effect]:
        """Give back the spares whose time is over; look at the queue."""
        return self._spares.expire(now) + self.start_queued(now)

    def wake_at(self) -> float:
        """When `tick` has something to do; inf: there is no such time."""
        checks = [job.next_check for job in self._jobs.queue.values()]
        return min(*checks, self._spares.wake_at(), math.inf)

    def start_queued(self, now: float) -> list[Effect]:
        """Start the queued jobs that fit, and make room for the others where that is possible."""
        effects = self._shrink(now) if self._shrinks else []
        if not (queued := self._jobs.queued()):
            return effects
        promised = 0  # bytes on their way to jobs that asked earlier
        coming = self._blocks.bytes_being_freed()
        stuck: list[Job] = []
        wanted: set[str] = set()  # spares that an earlier job waits with
        for job in queued:
            spare = self._spares.fitting(job, wanted)
            given = 0 if spare is None else spare.size
            room = self._blocks.available(self._jobs.unfilled) - promised + given
            shortage = max(0, job.size - room - coming)
            left = wanted if spare is None else wanted | {spare.segment}
            if room >= job.size:
                effects += self._start(job, spare, now)
            elif (victims := self._victims(job, shortage, left, now)) is not None:
                wanted = left
                coming += sum(block.size for block in victims)
                promised += max(0, job.size - given)
                job.next_check = math.inf  # not timed: how the unlinks end is an event
                heir = None if given else self._spares.heir(job, victims)
                effects += self._evict(victims, heir, "room")
            else:
                stuck.append(job)
        return effects + self._wait(stuck, now)

    def _shrink(self, now: float) -> list[Effect]:
        """Have what is beyond a budget that was made smaller unlinked, as far as nobody uses it."""
        surplus = self._blocks.charged - self._blocks.bytes_being_freed() - self._blocks.budget
        self._shrinks = surplus > 0
        return self._evict(list(self._blocks.evictable(surplus, now)), None, "budget")

    def _victims(
        self, job: Job, shortage: int, wanted: Container[str], now: float
    ) -> list[Block] | None:
        """Return blocks to unlink for a job: spares not `wanted`, idle ones, at last lent ones."""
        victims = self._blocks.victims(shortage, now, (), wanted)
        if victims is None and _last_resort_due(job, now):
            lent = lends.spare(self._blocks.unevictable(now), now)
            victims = self._blocks.victims(shortage, now, lent, wanted)
        return victims

    def _wait(self, stuck: list[Job], now: float) -> list[Effect]:
        """Let jobs wait that nothing makes room for; look for stale holds if that is due."""
        search = False
        for job in stuck:
            if _last_resort_due(job, now):
                search, job.searched_at = True, now
            job.next_check = min(job.deadline, job.searched_at + STALE_AFTER)
        return self._search(now) if search else []

    def _search(self, now: float) -> list[Effect]:
        """Ask the kernel about the blocks with old holds: nobody may map them any more."""
        return [Inspect(b.segment) for b in self._blocks.unevictable(now) if may_be_stale(b, now)]

    def search_again(self, now: float) -> list[Effect]:
        """Look at the queue again, as if no job had looked for the last resorts yet."""
        for job in self._jobs.queue.values():
            job.searched_at = -math.inf
        return self.start_queued(now)

    def recheck_queue(self) -> None:
        """Have a tick, due at once, look at the queue: room that it counted on does not come."""
        for job in self._jobs.queued():
            job.next_check = -math.inf

    def recycled(self, segment: str, now: float) -> list[Effect]:
        """Pages of an unlinked block are a spare's: a load may take them."""
        block = self._blocks.table.get(segment)
        if block is None or block.state is not State.UNLINKED or block.heir is None:
            return []
        self._blocks.add_spare(block, now)
        return self.start_queued(now)

    def _start(self, job: Job, spare: Block | None, now: float) -> list[Effect]:
        if job.writer is not None:
            block = self._blocks.reserve(job, State.WRITING, now)
            self._jobs.enter(job, Stage.MAKING)
            return [Make(job.number, block.segment)]
        block = self._blocks.reserve(job, State.LOADING, now, spare)
        self._holds.count_recycled(spare is not None)
        self._jobs.enter(job, Stage.FILLING)
        return [Fill(job.number, block.segment)]

    def _evict(self, victims: list[Block], heir: Block | None, reason: str) -> list[Effect]:
        """Have blocks unlinked, for that reason; `heir` leaves its pages."""
        effects: list[Effect] = []
        for block in victims:
            if block.state is State.SPARE:
                effects.append(self._spares.unlink(block))
                continue
            effects += self._holds.evict(block, reason, recycle=block is heir)
        return effects

    def give_up(self, now: float) -> list[Effect]:
        """Fail the jobs whose time is over; `start_queued` has looked for stale holds once more."""
        late = [job for job in self._jobs.queued() if now >= job.next_check]
        return [effect for job in late for effect in self._fail_for_room(job, now)]

    def _fail_for_room(self, job: Job, now: float) -> list[Effect]:
        if job.members:
            return self._jobs.scatter(job, now)
        facts = (self._blocks, self._holds.sessions, self._jobs.unfilled, now)
        return self._jobs.fail(job, error_texts.no_room(job, *facts), now)


def _last_resort_due(job: Job, now: float) -> bool:
    """Return whether a job is to look for the last resorts: at first, then when a check is due.

    A check that comes very late looks as well: there may be more old holds and references.
    """
    due = job.searched_at < job.next_check or now - job.searched_at >= STALE_AFTER
    return job.searched_at == -math.inf or (job.next_check <= now and due)
