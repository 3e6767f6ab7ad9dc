"""Who has what: sessions, grants, releases, and what happens to a block nobody has."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from arrayd.errors import ArraydError, NoRoom
from arrayd_server.core import error_texts, lends, users
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.counters import Counters
from arrayd_server.core.effects import Effect, Inspect, IntroduceYourself, Reply, Unlink, Welcome
from arrayd_server.core.grants import grant_of
from arrayd_server.core.model import (
    Asker,
    AwaitedItem,
    Block,
    Claims,
    Edition,
    Hold,
    Lend,
    Nonce,
    Peer,
    Place,
    Release,
    Session,
    State,
)
from arrayd_server.core.quota_checks import QuotaChecks
from arrayd_server.core.spares import Spares

STALE_AFTER = 5.0
"""Seconds after which a hold whose block nobody maps may be dropped for room (rule 2)."""


class Holds:
    """The relation *session holds block*, kept at both ends (rule 5)."""

    def __init__(self, blocks: BlockTable, counters: Counters) -> None:
        self.sessions: dict[Nonce, Session] = {}
        self._blocks = blocks
        self._counters = counters
        self.spares = Spares(blocks)
        self.quotas = QuotaChecks(blocks, self.sessions)
        self.evicted: Counter[str] = Counter()  # blocks, by what they had to go for
        self._expiry_heap: list[tuple[float, str]] = []  # when, and of which block
        self._expiry_of: dict[str, float] = {}  # of a block's times on it the one that counts

    def admit(self, nonce: Nonce, pid: int, uid: int) -> IntroduceYourself | ArraydError | None:
        """Return why a session's request from a process goes no further; None: it does."""
        session = self.sessions.get(nonce)
        if session is None:
            return IntroduceYourself()
        same = (session.peer.pid, session.peer.uid) == (pid, uid)
        return None if same else error_texts.not_your_session(session, pid)

    def open(self, nonce: Nonce, peer: Peer, now: float) -> Session:
        """Return the session that says hello: one of before, or a new one."""
        if nonce not in self.sessions:
            self.sessions[nonce] = Session(nonce, peer, now)
            if not peer.own:
                self._blocks.accounts.opened(peer, self._blocks.table.values())
        return self.sessions[nonce]

    def holdable(self, segment: str) -> bool:
        """Say whether a block of this name can be held: sealed, or being written."""
        block = self._blocks.table.get(segment)
        return block is not None and block.usable

    def may_grant(self, place: Place, nonces: Iterable[Nonce]) -> bool:
        """Say whether all these sessions understand the grant of what is at `place`.

        A member is granted to the user alone for whom its block was made: see `members`.
        """
        if place.member is None:
            return True
        peers = [self.sessions[nonce].peer for nonce in nonces]
        return all(peer.members and peer.user == place.block.user for peer in peers)

    def hold(self, session: Session, block: Block, now: float) -> int:
        """Make `session` hold `block`, or renew its hold; return the grant's number."""
        session.seq += 1
        hold = session.holds.get(block.segment)
        if hold is None:
            hold = session.holds[block.segment] = Hold(session.seq, now, session.peer.own)
            block.holders[session.nonce] = hold
        hold.seq, hold.since = session.seq, now
        if users.let_in(block, session.peer):
            self._blocks.accounts.update(block)
        self._blocks.unmark_idle(block)
        block.used = now
        return session.seq

    def claim(self, session: Session, claims: Claims, now: float) -> None:
        """Make `session` hold what it has attached by itself, and count that as use.

        What has gone meanwhile it may read on, but not hold. Another user than the daemon's sees no
        index, so it has nothing to claim.
        """
        if session.peer.foreign:
            return
        hits = max(0, claims.count - session.claims)
        session.claims += hits
        self._counters.requests += hits
        self._counters.hits += hits
        for segment, number in claims.holds:
            block = self._sealed(segment)
            if block is not None:
                hold = session.holds.get(segment)
                if hold is None:
                    hold = session.holds[segment] = Hold(0, now, session.peer.own)
                    block.holders[session.nonce] = hold
                hold.claim, hold.since = max(hold.claim, number), now
                self._blocks.unmark_idle(block)
                block.used = now
        for segment in claims.used:
            block = self._sealed(segment)
            if block is not None:
                block.used = now
                if segment in self._blocks.idle:  # as the one used last
                    self._blocks.unmark_idle(block)
                    self._blocks.mark_idle(block)

    def _sealed(self, segment: str) -> Block | None:
        block = self._blocks.table.get(segment)
        return block if block is not None and block.state is State.SEALED else None

    def restate(
        self, session: Session, to: Asker, holds: Iterable[str], latest: int, now: float
    ) -> list[Effect]:
        """Take what a session says it holds for what it holds; answer with the new numbers.

        They go on from `latest`, the highest number that the client knows, which may be of an
        earlier run of the daemon: a late release of a grant of then has a lower number, and
        ends no hold of now (rule 7).
        """
        session.seq = max(session.seq, latest)
        stated = {segment for segment in holds if self._statable(session, segment)}
        effects: list[Effect] = []
        for segment in sorted(session.holds.keys() - stated):
            effects += self.drop(session, segment, now)
        seqs = {s: self.hold(session, self._blocks.table[s], now) for s in sorted(stated)}
        return [Reply(to, Welcome(seqs)), *effects]

    def _statable(self, session: Session, segment: str) -> bool:
        """Say whether a session may hold what it says it holds."""
        return self.holdable(segment) and users.is_in(self._blocks.table[segment], session.peer)

    def grant(self, block: Block, to: Asker, waiter: AwaitedItem, now: float) -> list[Effect]:
        """Let the session of `to` hold a block, and tell it so; or that its user may not."""
        if waiter.ahead:
            return []
        session = self.sessions[to.nonce]
        peer = session.peer
        going = self.quotas.grant(block, peer, waiter, now)
        if isinstance(going, NoRoom):
            return [Reply(to, going)]
        effects = [effect for one in going for effect in self.evict(one, "quota")] if going else []
        seq = self.hold(session, block, now)
        self.pin(block, to, waiter, now)
        place = Place(block, waiter.member)
        grant = grant_of(place, seq, window=waiter.whole_source)
        if peer.foreign and place.member is None:  # a member has the words of its own user
            hold = block.holders[to.nonce]
            hold.asked = waiter.asked or hold.asked
            grant = replace(grant, source=str(users.shown(block, peer, [hold]) or ""))
        effects.append(Reply(to, grant))
        return effects

    def pin(self, block: Block, to: Asker, waiter: AwaitedItem, now: float) -> None:
        """Keep a block warm for as long as `waiter` asks, if it is its user's to keep."""
        if waiter.pin > 0 and users.owns(block, self.sessions[to.nonce].peer):
            block.pinned_until = max(block.pinned_until, now + waiter.pin)
            self._blocks.accounts.update(block)

    def drop(self, session: Session, segment: str, now: float) -> list[Effect]:
        """End a hold."""
        block = self._blocks.table[segment]
        del session.holds[segment]
        del block.holders[session.nonce]
        block.used = now
        left = (self.sessions[nonce].peer for nonce in block.holders)
        let_out = users.let_out(block, session.peer, left)
        if let_out:
            self._blocks.accounts.update(block)
        return let_out + self.inspect_unclaimed(block)

    def release(self, session: Session, holds: Iterable[Release], now: float) -> list[Effect]:
        """End the holds of these segments, but none granted or claimed after the numbers given."""
        effects: list[Effect] = []
        for segment, seq, claim in holds:
            hold = session.holds.get(segment)
            if hold is None:
                continue
            if seq >= hold.seq:
                hold.seq = 0
            if claim >= hold.claim:
                hold.claim = 0
            if not hold.seq and not hold.claim:
                effects += self.drop(session, segment, now)
        return effects

    def end(self, session: Session, now: float) -> list[Effect]:
        """End a session and its holds; others may still have the references that it sent."""
        drops = [self.drop(session, segment, now) for segment in list(session.holds)]
        self.orphan(session, now)
        del self.sessions[session.nonce]
        if not session.peer.own:
            self._blocks.accounts.closed(session.peer)
        return [effect for effects in drops for effect in effects]

    def drop_stale(self, block: Block, now: float) -> bool:
        """End the old holds of a block that nobody maps (rule 2); say whether there were any."""
        before = len(block.holders)
        for nonce, hold in list(block.holders.items()):
            if _is_stale(hold, now):
                del block.holders[nonce]
                del self.sessions[nonce].holds[block.segment]
                self._counters.stale_holds += 1
        return len(block.holders) < before

    def inspect_unclaimed(self, block: Block) -> list[Effect]:
        """Ask the kernel about a block that nobody has a claim on any more."""
        if block.claimed or not block.usable:
            return []
        block.mapped = True  # `inspected` may say otherwise
        return [Inspect(block.segment)]

    def retire(self, block: Block, now: float) -> list[Effect]:
        """Let a block that nobody has and nobody maps go idle, or free it for good.

        What a client published cannot be loaded again, and what a file held before it
        changed nobody can ask for: neither is a cache, and goes with its last user.
        """
        if block.transient and block.pinned_until <= now:
            return self.unlink(block, recycle=self.spares.worth(block))
        self._blocks.mark_idle(block)
        self._schedule(block)
        let_out = users.let_all_out(block)
        if let_out:
            self._blocks.accounts.update(block)
        return let_out

    def outdate(self, latest: Edition | None, now: float) -> list[Effect]:
        """Let the blocks of a file in other states than the latest be no cache any more.

        Nobody can ask for them. Who uses one keeps it, and so does a pin.
        """
        effects: list[Effect] = []
        if latest is None:
            return []
        for block in self._blocks.note(latest):
            if block.transient:
                effects += self.reconsider(block, now)
        return effects

    def reconsider(self, block: Block, now: float) -> list[Effect]:
        """Decide anew whether an idle block stays: it may be no cache any more."""
        if block.segment not in self._blocks.idle:
            return []
        self._blocks.unmark_idle(block)
        return self.retire(block, now)

    def unlink(self, block: Block, *, force: bool = False, recycle: bool = False) -> list[Effect]:
        """Make a block unfindable, end its holds and lends, and have it unlinked.

        With `recycle` it leaves its pages to a spare.
        """
        self._blocks.unindex(block)
        for nonce in list(block.holders):
            del self.sessions[nonce].holds[block.segment]
        block.holders.clear()
        for token in list(block.lends):
            self.redeem(block, token)
        self._blocks.mark_unlinked(block)
        block.job = None
        return [self.spares.recycle(block) if recycle else Unlink(block.segment, force)]

    def evict(self, block: Block, reason: str, *, recycle: bool = False) -> list[Effect]:
        """Have a block unlinked that nobody uses, for that reason; with `recycle` as `unlink`."""
        self.count_eviction(reason)
        return self.unlink(block, recycle=recycle)

    def lend(self, session: Session, block: Block, token: bytes, now: float) -> None:
        """Keep a block while a reference to it travels."""
        for lend, ended in lends.lend(session, block, token, now):
            self._forget_lend(lend, block, ended)
        session.lends.add((block.segment, token))

    def receive(self, block: Block, to: Asker, token: bytes, now: float) -> list[Effect]:
        """Let a session hold what a reference is to, which then has arrived."""
        effects = self.grant(block, to, AwaitedItem(), now)
        if to.nonce in block.holders:
            self.redeem(block, token)
        return effects

    def redeem(self, block: Block, token: bytes) -> None:
        """End a reference: it has arrived, or its block has gone."""
        lend = block.lends.pop(token, None)
        if lend is not None:
            block.orphans.pop(token, None)
            self._forget_lend(lend, block, token)

    def _forget_lend(self, lend: Lend, block: Block, token: bytes) -> None:
        """Take a reference off the list of its sender, if that session is still open."""
        sender = self.sessions.get(lend.sender)
        if sender is not None:
            sender.lends.discard((block.segment, token))

    def orphan(self, session: Session, now: float) -> None:
        """Set a time to ask who may still redeem the references of a session that ends."""
        for segment, token in sorted(session.lends):
            block = self._blocks.table[segment]
            block.orphans[token] = now + lends.LEND_SECONDS  # put last: all last equally long
            self._schedule(block)
        session.lends.clear()

    def traced(self, block: Block, groups: Mapping[int, bool], now: float) -> list[Effect]:
        """End the references that nobody can redeem any more: whole process groups have ended."""
        over = lends.answer(block, groups, now)
        for token in over:
            self.redeem(block, token)
        self._schedule(block)
        return self.inspect_unclaimed(block) if over else []

    def expire(self, now: float) -> list[Effect]:
        """Ask who may still redeem the references that are due; end the pins that are over."""
        effects: list[Effect] = []
        while self.wake_at() <= now:
            block = self._blocks.table[self._expiry_heap[0][1]]
            questions = [] if block.asking else lends.ask(block, now)
            effects += questions or self.reconsider(block, now)
        return effects

    def wake_at(self) -> float:
        """When `expire` next has something to do; inf: never."""
        while self._expiry_heap:
            at, segment = self._expiry_heap[0]
            block = self._blocks.table.get(segment)
            if block is not None and at == self._expiry_of.get(segment) == self.expires_at(block):
                return at
            heapq.heappop(self._expiry_heap)
            if at == self._expiry_of.get(segment):
                del self._expiry_of[segment]
                if block is not None:
                    self._schedule(block)
        return math.inf

    def _schedule(self, block: Block) -> None:
        """Put on the heap when a lend or pin of a block is due, unless an earlier time is there."""
        at = self.expires_at(block)
        if at < self._expiry_of.get(block.segment, math.inf):
            self._expiry_of[block.segment] = at
            heapq.heappush(self._expiry_heap, (at, block.segment))

    def expires_at(self, block: Block) -> float:
        """When a block's references are due, or the pin that alone keeps it is over; inf: never."""
        question = lends.next_question(block)
        return min(question, block.pinned_until) if self._lives_by_pin(block) else question

    def _lives_by_pin(self, block: Block) -> bool:
        return block.segment in self._blocks.idle and block.transient

    def count_recycled(self, recycled: bool) -> None:
        """Count a load that begins, if it begins with the pages of a spare."""
        self._counters.recycled += recycled

    def count_eviction(self, reason: str) -> None:
        """Count an eviction: ``room``, ``quota`` or ``budget``; ``request`` is somebody's wish."""
        self.evicted[reason] += 1
        self._counters.evictions += reason != "request"


def may_be_stale(block: Block, now: float) -> bool:
    """Say whether a block has a hold that goes if the kernel says that nobody maps it."""
    return block.usable and any(_is_stale(hold, now) for hold in block.holders.values())


def _is_stale(hold: Hold, now: float) -> bool:
    return now - hold.since >= STALE_AFTER and not hold.own
