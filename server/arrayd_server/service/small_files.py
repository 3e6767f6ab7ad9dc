"""The small files of one request: which of its items are loaded together into one block.

A single one is loaded in the same way: as a block of one member it takes one message to a worker
instead of two, and three quarters of the time. Not where there are other users: a block with
members is one user's alone (see `core.members`). Nor with a cast: there may be no room for what
comes of it, and then the file is read twice.
"""

from __future__ import annotations

from typing import Any

from arrayd.errors import ArraydError
from arrayd.source import Source
from arrayd.wire.codec import pack
from arrayd_server import identity
from arrayd_server.core.effects import Effect, Reply
from arrayd_server.core.model import Asker, AwaitedItem, BlockMember, Wanted, own_alias
from arrayd_server.loading.member_loads import may_be_measured, may_be_member
from arrayd_server.segments.member_metadata import aligned, planned_size
from arrayd_server.service.service import Service

Ask = tuple[Asker, Wanted, AwaitedItem]

_Alike = tuple[bool, Any]
"""What files of one block have in common: whether the bytes of each file are enough for its array,
and what else is asked of them."""


class SmallFiles:
    """Collects the items of a request that may be members of one block; `load` asks for these.

    They are those of a client that understands members, which are small, not pinned, and neither
    in memory nor on their way: plain ``.npy`` files of any user (see `may_be_member`), and those of
    other formats of the daemon's own user (`may_be_measured`).
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
        if (alike := self._alike(source, stat[2])) is None or self._is_served(wanted):
            return False
        self._groups.setdefault(alike, []).append((to, wanted, waiter))
        return True

    def _alike(self, source: Source, size: int) -> _Alike | None:
        """Return which small files a source lies together with; None: it is loaded by itself."""
        if may_be_member(source, size):
            return True, (source.format, source.cast, source.overflow)
        if self._user is None and may_be_measured(source, size):
            wire = source.to_wire()
            del wire["path"]
            return False, pack(wire)
        return None

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
        for (fits, _), asks in self._groups.items():
            members = _placed(asks, self._user, fits=fits)
            if len(members) > 1 or (fits and self._is_quick(asks)):
                effects += self._together(asks, members, now, fits=fits)
            else:
                effects += [e for ask in asks for e in self._registry.get(*ask, now)]
        return effects

    def _is_quick(self, asks: list[Ask]) -> bool:
        """Say whether a single file is to be the member of a block of its own."""
        source = asks[0][1].identity.source
        return self._user is None and source.cast is None and not self._service.serves_others()

    def _together(
        self, asks: list[Ask], members: dict[Any, BlockMember], now: float, *, fits: bool
    ) -> list[Effect]:
        for _, wanted, waiter in asks:
            waiter.member = members[wanted.alias]
        these = list(members.values())
        origin = identity.of_members([member.identity for member in these])
        waiters = [(to, waiter) for to, _, waiter in asks]
        self._service.update_headroom()
        size = planned_size(these) if fits else None
        return self._registry.get_together(origin, size, waiters, now)


def _placed(asks: list[Ask], user: int | None, *, fits: bool) -> dict[Any, BlockMember]:
    """Return a member for each of a user's different requests.

    They lie one behind the other if each `fits` into as many bytes as its file has; else they have
    no place yet.
    """
    members: dict[Any, BlockMember] = {}
    end = 0
    for _, wanted, _ in asks:
        if wanted.alias not in members:
            room = aligned(wanted.identity.stat[2]) if fits else 0
            alias = own_alias(wanted.alias, user)
            members[wanted.alias] = BlockMember(alias, wanted.identity, wanted.edition, end, room)
            end += room
    return members
