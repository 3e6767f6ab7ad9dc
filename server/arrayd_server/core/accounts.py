"""The sums by which quotas are held: what each user has, and the members of each group together.

A block counts for the user for whom it was made and for all who may open it (`Block.readers`), and
for each of their groups once, however many of the members hold it. It counts as long as it has
pages that cannot be taken back: not when it is unlinked and nobody maps it.

Each sum is kept up to date where a block changes (`update`), so no request looks at all blocks;
`invariants.check` counts anew. Which groups a user is in its sessions say: all that they have said
since it last had neither a session, nor a block, nor a load.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from arrayd_server.core.model import Block, Job, Peer, State
from arrayd_server.core.pins import PinnedBytes
from arrayd_server.core.quotas import Owner, Quotas

_NOBODY: frozenset[Owner] = frozenset()


@dataclass(slots=True)
class OwnedSum:
    """What counts in one quota."""

    bytes: int = 0
    blocks: int = 0


class Accounts:
    """What counts in whose quota."""

    def __init__(self) -> None:
        self.quotas = Quotas()
        self.sums: dict[Owner, OwnedSum] = {}
        self.above: set[Owner] = set()  # their soft limits
        self.pins = PinnedBytes()
        self.sessions: Counter[int] = Counter()  # open ones, by uid
        #: in flight, by `Job.user`
        self.loads: dict[int | None, dict[int, Job]] = {}
        self.queue: dict[int, Job] = {}  # the jobs that wait for room: they will have it
        #: by `Block.user`, the least recently used first
        self.idle: dict[int | None, dict[str, Block]] = {}
        self._counted: dict[str, frozenset[Owner]] = {}  # a block, and where
        self._groups: dict[int, frozenset[int]] = {}
        self._owners: dict[int, tuple[Owner, ...]] = {}
        self._members: dict[Owner, set[int]] = {}

    # ---- who is who ----------------------------------------------------------------------

    def uid(self, user: int | None) -> int | None:
        """Return the uid of a `Block.user`; None: it is the daemon's own, which has no quota."""
        return self.quotas.own if user is None else user

    def owners(self, user: int | None) -> tuple[Owner, ...]:
        """Return in whose quotas counts what is made for a user."""
        uid = self.uid(user)
        return () if uid is None else self._owners_of(uid)

    def _owners_of(self, uid: int) -> tuple[Owner, ...]:
        known = self._owners.get(uid)
        return (Owner(False, uid),) if known is None else known

    def owners_of(self, peer: Peer) -> tuple[Owner, ...]:
        """Return in whose quotas a session of a process counts, be it not open yet."""
        known = self._groups.get(peer.uid, frozenset())
        return self.quotas.owners(peer.uid, known | peer.groups)

    def members(self, owner: Owner) -> set[int | None]:
        """Return the users who share a quota, as blocks and jobs name them."""
        if owner.group:
            return {*self._members.get(owner, ())}
        return {None if owner.id == self.quotas.own else owner.id}

    def opened(self, peer: Peer, blocks: Iterable[Block]) -> None:
        """Count a session; what counts for its user may count for more groups now."""
        uid = peer.uid
        self._groups[uid] = self._groups.get(uid, frozenset()) | peer.groups
        self.sessions[uid] += 1
        if self._learn(uid) and Owner(False, uid) in self.sums:
            for block in blocks:
                if block.user == uid or uid in block.readers:
                    self.update(block)

    def closed(self, peer: Peer) -> None:
        """Count a session no more."""
        self.sessions[peer.uid] -= 1
        if not self.sessions[peer.uid]:
            del self.sessions[peer.uid]
        self._forget(peer.uid)

    def _is_known(self, uid: int) -> bool:
        owner = Owner(False, uid)
        return uid in self.sessions or owner in self.sums or self.in_flight(owner) > 0

    def _learn(self, uid: int) -> bool:
        """Note in whose quotas a user counts; say whether that has changed."""
        owners = self.quotas.owners(uid, self._groups.get(uid, frozenset()))
        if owners == self._owners_of(uid):
            return False
        for owner in self._owners_of(uid):
            self._members.get(owner, set()).discard(uid)
        self._owners[uid] = owners
        for owner in owners:
            if owner.group:
                self._members.setdefault(owner, set()).add(uid)
        return True

    def _forget(self, uid: int) -> None:
        """Forget the groups of a user who has nothing here any more."""
        if not self._is_known(uid):
            self._groups.pop(uid, None)
            for owner in self._owners.pop(uid, ()):
                self._members.get(owner, set()).discard(uid)

    def change(self, quotas: Quotas, blocks: Iterable[Block]) -> None:
        """Go by other quotas from now on: what there is counts in them."""
        self.quotas = quotas
        for uid in self._groups:
            self._learn(uid)
        for block in blocks:
            self.update(block)
        self.above = {owner for owner in self.sums if self.surplus(owner) > 0}

    # ---- blocks --------------------------------------------------------------------------

    def update(self, block: Block) -> None:
        """Count a block where it counts now."""
        there = is_charged(block)
        self._count(block, self.where(block) if there else _NOBODY)
        self.pins.update(block, there=there)

    def forget(self, block: Block) -> None:
        """Count a block no more: it has gone."""
        self._count(block, _NOBODY)
        self.pins.update(block, there=False)

    def where(self, block: Block) -> frozenset[Owner]:
        """Return in whose quotas a block counts."""
        owners = self.owners(block.user)
        if not block.readers:
            return frozenset(owners)
        return frozenset(owners).union(*map(self._owners_of, block.readers))

    def counts(self, block: Block, owner: Owner) -> bool:
        """Say whether a block is in that sum."""
        return owner in self._counted.get(block.segment, _NOBODY)

    def _count(self, block: Block, now: frozenset[Owner]) -> None:
        before = self._counted.pop(block.segment, _NOBODY)
        if now:
            self._counted[block.segment] = now
        if now == before:
            return
        for owner in now - before:
            found = self.sums.setdefault(owner, OwnedSum())
            found.bytes += block.size
            found.blocks += 1
            self._note(owner)
        for owner in before - now:
            found = self.sums[owner]
            found.bytes -= block.size
            found.blocks -= 1
            self._note(owner)
            if not found.blocks:
                del self.sums[owner]
                if not owner.group:
                    self._forget(owner.id)

    def _note(self, owner: Owner) -> None:
        if self.surplus(owner) > 0:
            self.above.add(owner)
        else:
            self.above.discard(owner)

    def surplus(self, owner: Owner) -> int:
        """Return the bytes by which a sum is above its soft limit; 0: it is not, or has none."""
        soft = self.quotas.of(owner).soft_bytes
        return 0 if soft is None else max(0, self.has(owner).bytes - soft)

    def mark_idle(self, block: Block) -> None:
        """Put a block on the idle list of its user, as the one used last."""
        self.idle.setdefault(block.user, {})[block.segment] = block

    def unmark_idle(self, block: Block) -> None:
        """Take a block off the idle list of its user."""
        mine = self.idle[block.user]
        del mine[block.segment]
        if not mine:
            del self.idle[block.user]

    # ---- loads ---------------------------------------------------------------------------

    def begin(self, load: Job) -> None:
        """Count a load."""
        self.loads.setdefault(load.user, {})[load.number] = load

    def end(self, job: Job) -> bool:
        """Count a job no more, if it is a load; say whether it is."""
        mine = self.loads.get(job.user, {})
        if mine.pop(job.number, None) is None:
            return False
        if not mine:
            del self.loads[job.user]
            uid = self.uid(job.user)
            if uid is not None:
                self._forget(uid)
        return True

    # ---- sums ----------------------------------------------------------------------------

    def has(self, owner: Owner) -> OwnedSum:
        """Return what counts in a quota."""
        return self.sums.get(owner) or OwnedSum()

    def waiting(self, owner: Owner, but: Job | None = None) -> OwnedSum:
        """Return what the jobs that wait for room, all but one, will have of a quota."""
        users = self.members(owner)
        jobs = [job for job in self.queue.values() if job is not but and job.user in users]
        return OwnedSum(sum(job.size for job in jobs), len(jobs))

    def limits_sessions(self, peer: Peer) -> bool:
        """Say whether a quota limits the sessions of a user."""
        return self.quotas.of(Owner(False, peer.uid)).sessions is not None

    def open_sessions(self, owner: Owner) -> int:
        """Return how many sessions a user has, or the members of a group."""
        return sum(self.sessions[uid] for uid in self._uids(owner))

    def in_flight(self, owner: Owner) -> int:
        """Return how many loads there are for a user, or for the members of a group."""
        return sum(len(self.loads.get(user, ())) for user in self.members(owner))

    def pinned(self, owner: Owner, now: float) -> int:
        """Return the bytes of its blocks that are pinned or kept."""
        return sum(self.pins.of(user, now) for user in self.members(owner))

    def _uids(self, owner: Owner) -> Iterable[int]:
        return self._members.get(owner, ()) if owner.group else (owner.id,)

    def idle_of(self, owner: Owner) -> Iterator[Block]:
        """Yield the idle blocks made for a user, or the members of a group, by their last use."""
        return self._merged(self.members(owner))

    def _merged(self, users: Iterable[int | None]) -> Iterator[Block]:
        lists = [self.idle[user].values() for user in users if user in self.idle]
        return heapq.merge(*lists, key=lambda block: block.used)

    def above_soft(self, may_go: Callable[[Block], bool]) -> Iterator[Block]:
        """Yield the idle blocks that go first: of who is above a soft limit, until nobody is."""
        above = {owner: self.surplus(owner) for owner in self.above}
        users = {user for owner in above for user in self.members(owner)}
        for block in self._merged(users):
            if not above:
                return
            counted = [owner for owner in above if self.counts(block, owner)]
            if not counted or not may_go(block):
                continue
            yield block
            for owner in counted:
                above[owner] -= block.size
                if above[owner] <= 0:
                    del above[owner]


def is_charged(block: Block) -> bool:
    """Say whether a block has pages that cannot be taken back for others."""
    unlinked = block.state is State.UNLINKED and not block.mapped
    return block.state is not State.SPARE and not unlinked
