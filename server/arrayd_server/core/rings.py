"""The memory of streams: blocks that the daemon itself writes, under a session of its own.

A ring, and the resident share of a stream, is a block like any that a client writes and never
seals. What the registry does with such blocks holds for them as well:

- They are charged, wait for room, have idle blocks evicted for them, and are refused with NoRoom.
- The consumers redeem the segment of a ring: a block that is being written can be held. Nobody
  but its writer can seal it (NotOwner), and `evict` says that it is in use.
- To give a ring up is to abort it: it is unlinked at once, though consumers may map it, and the
  holds of it end. Whoever maps it goes on reading; its pages stay charged until the last mapping
  has gone. The rows of a batch never vanish under a reader's eyes.
- Holds of blocks that nobody maps are dropped for room when they are old. The daemon's own are
  not (`Peer.own`): it maps nothing, its reader may yet have to begin, and it gives up by itself
  what it does not need.
- Rings are no use to another run of the daemon. After kill -9 or a hand-over it adopts them as
  unfinished blocks without a writer: one that nobody maps is removed, one that a consumer still
  maps stays until that has unmapped it. Its consumers then learn that they are unknown.
"""

from __future__ import annotations

import itertools

from arrayd_server.core.effects import Effect
from arrayd_server.core.model import Asker, Draft, Nonce, Peer
from arrayd_server.core.registry import Registry
from arrayd_server.core.stream_model import OwnBlock


class Rings:
    """The daemon's own session in the registry, open while there are streams.

    Parameters
    ----------
    nonce, pid
        Of this session: that of no client, and the daemon's process.
    """

    def __init__(self, registry: Registry, nonce: Nonce, pid: int) -> None:
        self.nonce = nonce
        self._registry = registry
        self._peer = Peer(0, pid, "arrayd streams", own=True)
        self._requests = itertools.count(1)

    def ask(self, draft: Draft, timeout: float, now: float) -> tuple[OwnBlock, list[Effect]]:
        """Ask for a block; the answer to the request of that number is its segment, or an error."""
        effects: list[Effect] = []
        if self.nonce not in self._registry.sessions:
            effects += self._registry.hello(Asker(self.nonce, 0), self._peer, [], 0, now)
        to = Asker(self.nonce, next(self._requests))
        block = OwnBlock(to.request, draft.size)
        return block, effects + self._registry.create(to, draft, timeout, now)

    def give_up(self, block: OwnBlock, now: float) -> list[Effect]:
        """Give a block back, or no longer wait for it."""
        if block.segment is None:
            return self._registry.cancel(self.nonce, block.request, now)
        return self._registry.abort(self.nonce, block.segment, now)

    def close(self, now: float) -> list[Effect]:
        """End the session: there are no streams any more, and the daemon may be idle."""
        return self._registry.ended(self.nonce, now)
