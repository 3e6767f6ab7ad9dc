"""The hard limits of `quotas`: what goes for something new of a user, and why it is refused.

What is new is a block that is made for a user, or comes to be held by it, a pin, a session, a load.
For a block, idle ones go that count in the same quota and were made for a user that shares it, the
least recently used first; if they are not enough, nothing goes, and it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arrayd.errors import NoRoom
from arrayd_server.core import quota_texts, users
from arrayd_server.core.accounts import Accounts
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.model import Asker, AwaitedItem, Block, Job, Nonce, Peer, Session
from arrayd_server.core.quotas import Owner


class QuotaChecks:
    """Whether there may be more of a user's, and what says no.

    Parameters
    ----------
    blocks, sessions
        All of them.
    """

    def __init__(self, blocks: BlockTable, sessions: Mapping[Nonce, Session]) -> None:
        self._blocks = blocks
        self._sessions = sessions

    @property
    def _accounts(self) -> Accounts:
        return self._blocks.accounts

    # ---- blocks --------------------------------------------------------------------------

    def grant(
        self, block: Block, peer: Peer, waiter: AwaitedItem, now: float
    ) -> list[Block] | NoRoom:
        """Return which blocks go so that a process may hold, and pin, one; else why it may not."""
        allowed = users.is_in(block, peer) or block.user == peer.uid
        if allowed and waiter.pin <= 0:  # most: they are not to wait for more
            return []
        what = waiter.asked or users.shown(block, peer) or "This array"
        refusal = self._pin(block, peer, waiter, what, now)
        if refusal is not None or allowed:
            return refusal or []
        return self._room(peer.uid, block.size, what, now, block=block)

    def make(self, job: Job, now: float) -> list[Block] | NoRoom:
        """Return which blocks go so that a job may make its block; else why it may not."""
        draft = job.draft
        if draft is not None and draft.keep:
            refusal = self._pinned(job.user, job.size, job.identity, now)
            if refusal is not None:
                return refusal
        return self._room(job.user, job.size, job.identity, now, job=job)

    def _room(
        self,
        user: int | None,
        size: int,
        what: Any,
        now: float,
        *,
        block: Block | None = None,
        job: Job | None = None,
    ) -> list[Block] | NoRoom:
        going: dict[str, Block] = {}
        for owner in self._accounts.owners(user):
            limits = self._accounts.quotas.of(owner)
            if (limits.bytes, limits.blocks) == (None, None):
                continue
            if block is not None and self._accounts.counts(block, owner):
                continue
            name = self._cover(owner, size, going, now, job)
            if name is not None:
                waiting = int(getattr(self._accounts.waiting(owner, job), name))
                return self._refusal(name, owner, user, what, size, now, waiting)
        return list(going.values())

    def _cover(
        self, owner: Owner, size: int, going: dict[str, Block], now: float, job: Job | None
    ) -> str | None:
        """Let blocks go until one more of `size` fits; return the limit that it does not fit into.

        None: it fits. What goes is added to `going`.
        """
        accounts, limits = self._accounts, self._accounts.quotas.of(owner)
        has, waiting = accounts.has(owner), accounts.waiting(owner, job)
        less = [one.size for one in going.values() if accounts.counts(one, owner)]
        over = {
            "bytes": _over(limits.bytes, has.bytes + waiting.bytes + size - sum(less)),
            "blocks": _over(limits.blocks, has.blocks + waiting.blocks + 1 - len(less)),
        }
        for one in accounts.idle_of(owner) if max(over.values()) > 0 else ():
            if one.segment not in going and self._blocks.may_go(one, now):
                going[one.segment] = one
                over["bytes"] -= one.size
                over["blocks"] -= 1
            if max(over.values()) <= 0:
                break
        return next((name for name, surplus in over.items() if surplus > 0), None)

    # ---- pins, sessions, loads -----------------------------------------------------------

    def _pin(
        self, block: Block, peer: Peer, waiter: AwaitedItem, what: Any, now: float
    ) -> NoRoom | None:
        """Return why a process may not pin a block of its user; None: it may."""
        if waiter.pin <= 0 or block.user != peer.user or block.segment in self._pins_of(now):
            return None
        return self._pinned(peer.user, block.size, what, now)

    def pins(self, job: Job, now: float) -> dict[Asker, NoRoom]:
        """Return who asks for a pin of what a job makes, and may not have it."""
        refused: dict[Asker, NoRoom] = {}
        for to, waiter in job.waiters.items():
            peer = self._sessions[to.nonce].peer
            if waiter.pin > 0 and peer.user == job.user:
                what = waiter.asked or job.identity
                refusal = self._pinned(peer.user, job.size, what, now)
                refused |= {} if refusal is None else {to: refusal}
        return refused

    def _pins_of(self, now: float) -> Mapping[str, Block]:
        pins = self._accounts.pins
        pins.expire(now)
        return pins.blocks

    def _pinned(self, user: int | None, size: int, what: Any, now: float) -> NoRoom | None:
        for owner in self._accounts.owners(user):
            most = self._accounts.quotas.of(owner).pinned
            if most is not None and self._accounts.pinned(owner, now) + size > most:
                return self._refusal("pinned", owner, user, what, size, now)
        return None

    def session(self, peer: Peer, now: float) -> NoRoom | None:
        """Return why a process may not open one more session; None: it may."""
        for owner in self._accounts.owners_of(peer):
            most = self._accounts.quotas.of(owner).sessions
            if most is not None and self._accounts.open_sessions(owner) >= most:
                return self._refusal("sessions", owner, peer.user, "This session", 1, now)
        return None

    def load(self, peer: Peer, what: Any, now: float) -> NoRoom | None:
        """Return why one more load may not begin for a process; None: it may."""
        for owner in self._accounts.owners(peer.user):
            most = self._accounts.quotas.of(owner).loads
            if most is not None and self._accounts.in_flight(owner) >= most:
                return self._refusal("loads", owner, peer.user, what, 1, now)
        return None

    def _refusal(
        self,
        name: str,
        owner: Owner,
        user: int | None,
        what: Any,
        size: int,
        now: float,
        waiting: int = 0,
    ) -> NoRoom:
        facts = (self._blocks, self._sessions, now)
        return quota_texts.over(name, owner, user, what, size, waiting, *facts)


def _over(most: int | None, count: int) -> int:
    """Return by how much a sum is above a limit."""
    return 0 if most is None else count - most
