"""Requests to evict blocks: answered when it is known of each block how its unlink ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from arrayd_server.core import error_texts, users
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.effects import Effect, Reply, Result
from arrayd_server.core.holds import Holds
from arrayd_server.core.model import Asker, Block, Peer, State

_GOING = (State.UNLINKED, State.SPARE)


@dataclass(slots=True)
class _Eviction:
    to: Asker
    peer: Peer
    open: int  # blocks that the kernel has not decided on
    blocks: int = 0
    bytes: int = 0
    arrays: int = 0
    busy: list[Block] = field(default_factory=list)


class Evictions:
    """The evictions under way.

    The core cannot say what will be freed: a process may map an idle block by its name at any
    moment, and the last mapper of one that is not idle may have just gone.
    """

    def __init__(self, blocks: BlockTable, holds: Holds) -> None:
        self._blocks = blocks
        self._holds = holds
        self._of: dict[str, _Eviction] = {}

    def begin(self, to: Asker, matches: Callable[[Block], bool]) -> list[Effect]:
        """Free the matching blocks, or say who uses one of them."""
        peer = self._holds.sessions[to.nonce].peer
        told = users.told_of(self._blocks, self._holds.sessions, peer)
        blocks = [b for b in told if b.state not in _GOING]
        chosen = [b for b in blocks if users.owns(b, peer) and matches(b)]
        if not chosen:
            return [Reply(to, error_texts.not_in_memory())]
        busy = [b for b in chosen if b.claimed or b.state is not State.SEALED]
        if busy:
            return [Reply(to, error_texts.in_use(busy, self._holds.sessions, peer))]
        eviction = _Eviction(to, peer, len(chosen))
        self._of.update((block.segment, eviction) for block in chosen)
        return [effect for block in chosen for effect in self._holds.unlink(block)]

    def decided(self, block: Block) -> list[Effect]:
        """Count a block that was freed, unlinked though still mapped, or not unlinked."""
        eviction = self._of.pop(block.segment, None)
        if eviction is None:
            return []
        eviction.open -= 1
        if block.state is State.UNLINKED:
            eviction.blocks += 1
            self._holds.count_eviction("request")
            eviction.bytes += block.size
            eviction.arrays += len(block.members) or 1
        else:
            eviction.busy.append(block)
        if eviction.open:
            return []
        if eviction.busy:
            facts = (eviction.busy, self._holds.sessions, eviction.peer)
            return [Reply(eviction.to, error_texts.in_use(*facts))]
        keys = ("blocks", "bytes", "arrays")
        return [Reply(eviction.to, Result({key: getattr(eviction, key) for key in keys}))]
