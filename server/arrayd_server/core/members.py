"""Blocks with members: the small files of one request, loaded together into one block.

A block of its own costs a segment, two links, a mapping in each client and a line of status, and
its load costs two messages to a worker: many times what it takes to read 4 KiB. So the files of a
request that are small lie together in one block, each at an offset, and are read by few messages.

- The block is the unit of all that `registry` counts: charge, hold, lend, pin, eviction, adoption.
  Who has the array of one member holds the block.
- A *member* is what requests find. Its aliases lead to it, it has a spec and a loss of its own,
  and if its file changes it alone is outdated: the block goes when all of them are.
- A job with members is made QUEUED where the sizes of the files tell how much room is enough, as
  those of ``.npy`` files do. Else it is PROBING, until workers have said how big each array is.
- Only what is as expected is loaded so. Any member that is not (a broken or changed file, another
  format, a load that hangs) is loaded *alone*, by a job of its own that begins with a probe,
  and so is each of a job that fails or has to wait for room. So one file never spoils another's
  load, and each error is that of the file alone.
- What is loaded alone takes its aliases over: not every client understands a grant of a member.
- Each user other than the daemon's has blocks with members of its own. Its files are found under
  aliases of that user (`own_alias`), so nobody else ever gets such a block, and with it files that
  nobody has looked at for them. All that is in it its user could read when it was loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arrayd.wire.grant import Spec
from arrayd_server.core.admission import Admission
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.effects import Effect, Measure, Reply, ReportProgress, Seal
from arrayd_server.core.holds import Holds
from arrayd_server.core.jobs import JobTable, Waiters
from arrayd_server.core.model import (
    Asker,
    AwaitedItem,
    BlockMember,
    Job,
    LoadedMember,
    Place,
    Stage,
    own_alias,
)

Places = Mapping[int, tuple[int, int]]
"""Where members go, by their position: offset and room in bytes."""


class Members:
    """The load of several small files into one block."""

    def __init__(
        self, blocks: BlockTable, holds: Holds, jobs: JobTable, admission: Admission
    ) -> None:
        self._blocks = blocks
        self._holds = holds
        self._jobs = jobs
        self._admission = admission

    def load(
        self,
        identity: Any,
        size: int | None,
        waiters: Sequence[tuple[Asker, AwaitedItem]],
        now: float,
    ) -> list[Effect]:
        """Begin to load the members that these wait for, if there is room at once.

        Without a `size`, which is that of their block, it is first found out how big each is.
        """
        peer = self._holds.sessions[waiters[0][0].nonce].peer
        refusal = self._holds.quotas.load(peer, identity, now)
        if refusal is not None:
            return [Reply(to, refusal) for to, _ in waiters]
        members = list({id(w.member): w.member for _, w in waiters if w.member}.values())
        stage = Stage.PROBING if size is None else Stage.QUEUED
        job = self._jobs.new(stage, identity, now, [], load=True)
        job.members = members
        self._jobs.assign(job, peer.user)
        self._jobs.add_members(job)
        self._jobs.join_new(job, waiters, now)
        if size is None:
            return [Measure(job.number, members)]
        job.spec, job.size, job.total = _bytes(members), size, len(members)
        return self._admission.admit_together(job, now)

    def measured(self, job: Job, places: Places, size: int, now: float) -> list[Effect]:
        """Let a job wait for room for those of its members that have a place; load others alone.

        `size` is that of their block.
        """
        effects: list[Effect] = []
        waiting, members = self._jobs.waiters_of(job), job.members
        job.members = [members[position] for position in sorted(places)]
        for position, member in enumerate(members):
            if position in places:
                member.offset, member.room = places[position]
            else:
                effects += self._jobs.load_alone(job, member, waiting.pop(id(member), {}), now)
        if not job.members or not (job.waiters or job.detached):
            return effects + self._jobs.end(job)
        job.spec, job.size, job.total = _bytes(job.members), size, len(job.members)
        self._jobs.enter(job, Stage.QUEUED)
        return effects + self._admission.admit_together(job, now)

    def loaded(self, job: Job, found: Mapping[int, LoadedMember], now: float) -> list[Effect]:
        """Go on with what was found of the members, by their position; load the others alone."""
        effects: list[Effect] = []
        keys: dict[Any, BlockMember] = {}
        waiting = self._jobs.waiters_of(job)
        for position, member in enumerate(job.members):
            one = found.get(position)
            if one is None:
                effects += self._jobs.load_alone(job, member, waiting.pop(id(member), {}), now)
            else:
                effects += self._holds.outdate(member.edition, now)
                effects += self._take(job, member, one, waiting.pop(id(member), {}), keys, now)
        if not keys or not (job.waiters or job.detached):
            return effects + self._jobs.end(job)
        self._jobs.enter(job, Stage.SEALING)
        assert job.segment is not None
        return [*effects, Seal(job.number, job.segment)]

    def _take(
        self,
        job: Job,
        member: BlockMember,
        one: LoadedMember,
        waiters: Waiters,
        keys: dict[Any, BlockMember],
        now: float,
    ) -> list[Effect]:
        """Take a member for loaded, unless the same is in memory, or on its way, already."""
        key = own_alias(one.key, job.user)
        place, other = self._blocks.locate(key), self._jobs.find(key)
        if place is not None:
            self._jobs.drop_member(job, member, waiters)
            place.part.outdated = False
            self._blocks.add_alias(place, member.alias)
            granted = [self._grant(place, to, waiter, now) for to, waiter in waiters.items()]
            return [effect for effects in granted for effect in effects]
        if other is not None:
            self._jobs.drop_member(job, member, waiters)
            self._jobs.add_alias(other, member.alias)
            for to, waiter in waiters.items():
                waiter.member = None
                self._jobs.join(other, to, waiter, now)
            return []
        twin = keys.setdefault(key, member)
        twin.aliases.append(member.alias)
        for waiter in waiters.values():
            waiter.member = twin
        if twin is member:
            member.spec, member.lost = one.spec, one.lost
            member.aliases.append(key)
        rows = one.spec.shape[0] if one.spec.shape else 1
        return [ReportProgress(to, rows, rows) for to, w in waiters.items() if w.progress]

    def _grant(self, place: Place, to: Asker, waiter: AwaitedItem, now: float) -> list[Effect]:
        waiter.member = place.member
        return self._holds.grant(place.block, to, waiter, now)


def _bytes(members: Sequence[BlockMember]) -> Spec:
    """Return the spec of all the bytes in which members lie."""
    return Spec((max(member.offset + member.room for member in members),), "|u1", "C", 1)
