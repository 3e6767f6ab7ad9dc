"""The small files of one request: which of its items are loaded together into one block.

A single one is loaded in the same way: as a block of one member it takes one message to a worker
instead of two, and three quarters of the time. Not where there are other users: a block with
members is one user's alone (see `core.members`). Nor with a cast: there may be no room for what
comes of it, and then the file is read twice.
"""

from __future__ import annotations

from typing import Any

from arrayd.errors import ArraydError
from arrayd_server import identity
from arrayd_server.core.effects import Effect, Reply
from arrayd_server.core.model import Asker, AwaitedItem, BlockMember, Wanted, own_alias
from arrayd_server.loading.member_loads import may_be_member
from arrayd_server.segments.member_metadata import planned_size
from arrayd_server.service.service import Service

ALIGNED = 64
"""Bytes to a multiple of which each member begins: a line of the CPU's cache."""

Ask = tuple[Asker, Wanted, AwaitedItem]


class SmallFiles:
    """Collects the items of a request that may be members of one block; `load` asks for these.

    They are those of a client that understands members, which are small, plain (see
    `may_be_member`), not pinned, and neither in memory nor on their way.
    """

    def __init__(self, service: Service, nonce: bytes) -> None:
        self._registry = service.registry
        self._service = service
        peer = service.registry.sessions[nonce].peer
        self._may, self._user = peer.members, peer.user
        self._groups: dict[Any, list[Ask]] = {}

    @property
    def asks(self) -> list[Ask]:
        """What was taken."""
        return [ask for asks in self._groups.values() for ask in asks]

    def take(self, to: Asker, wanted: Wanted, waiter: AwaitedItem) -> bool:
        """Take an item if it may be a member; False: it is to be asked for by itself."""
        origin = wanted.identity
        source, stat = origin.source, origin.stat
        if not self._may or waiter.pin or source is None or stat is None:
            return False
        if not may_be_member(source, stat[2]) or self._is_served(wanted):
            return False
        alike = (source.format, source.cast, source.overflow)
        self._groups.setdefault(alike, []).append((to, wanted, waiter))
        return True

    def _is_served(self, wanted: Wanted) -> bool:
        blocks, jobs = self._registry.blocks, self._registry.jobs
        block, job = wanted.served_by(blocks.locate)[0], wanted.served_by(jobs.locate)[0]
        return block is not None or job is not None

    def refuse(self, refusal: ArraydError) -> list[Effect]:
        """Answer what was taken: nothing new is begun."""
        return [Reply(to, refusal) for to, _, _ in self.asks]

    def load(self, now: float) -> list[Effect]:
        """Ask for what was taken."""
        effects: list[Effect] = []
        for asks in self._groups.values():
            members = _placed(asks, self._user)
            if len(members) > 1 or self._is_quick(asks):
                effects += self._together(asks, members, now)
            else:
                effects += [e for ask in asks for e in self._registry.get(*ask, now)]
        return effects

    def _is_quick(self, asks: list[Ask]) -> bool:
        """Say whether a single file is to be the member of a block of its own."""
        source = asks[0][1].identity.source
        return self._user is None and source.cast is None and not self._service.serves_others()

    def _together(
        self, asks: list[Ask], members: dict[Any, BlockMember], now: float
    ) -> list[Effect]:
        for _, wanted, waiter in asks:
            waiter.member = members[wanted.alias]
        these = list(members.values())
        origin = identity.of_members([member.identity for member in these])
        waiters = [(to, waiter) for to, _, waiter in asks]
        self._service.update_headroom()
        return self._registry.get_together(origin, planned_size(these), waiters, now)


def _placed(asks: list[Ask], user: int | None) -> dict[Any, BlockMember]:
    """Return a member for each of a user's different requests, one behind the other."""
    members: dict[Any, BlockMember] = {}
    end = 0
    for _, wanted, _ in asks:
        if wanted.alias not in members:
            room = -(-wanted.identity.stat[2] // ALIGNED) * ALIGNED
            alias = own_alias(wanted.alias, user)
            members[wanted.alias] = BlockMember(alias, wanted.identity, wanted.edition, end, room)
            end += room
    return members
