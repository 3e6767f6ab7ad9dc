"""How many bytes of each user's blocks are pinned, or kept.

A pin ends by itself, with no event. So a heap has the end of each, one entry for a block, and who
asks for a sum has those taken off first that are over by then.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter

from arrayd_server.core.model import Block

_SPARE_ENTRIES = 100
"""Entries of the heap, besides one for each pinned block, that may be of blocks that have gone."""


class PinnedBytes:
    """The sums, by `Block.user`."""

    def __init__(self) -> None:
        self.blocks: dict[str, Block] = {}
        self.now = -math.inf  # when it was last looked which are over
        self.bytes: Counter[int | None] = Counter()
        self._ends: list[tuple[float, str]] = []
        self._timed: set[str] = set()  # those in `_ends`

    def of(self, user: int | None, now: float) -> int:
        """Return the bytes of a user's blocks that are pinned or kept now."""
        self.expire(now)
        return self.bytes[user]

    def update(self, block: Block, *, there: bool) -> None:
        """Take note that a block is pinned or kept, or no longer, or not `there` any more."""
        pinned = there and (block.keep or block.pinned_until > self.now)
        if pinned and block.segment not in self.blocks:
            self.blocks[block.segment] = block
            self.bytes[block.user] += block.size
        elif not pinned and block.segment in self.blocks:
            self._forget(block)
        if pinned and self.now < block.pinned_until < math.inf and block.segment not in self._timed:
            self._push(block)

    def _forget(self, block: Block) -> None:
        del self.blocks[block.segment]
        self.bytes[block.user] -= block.size
        if not self.bytes[block.user]:
            del self.bytes[block.user]

    def _push(self, block: Block) -> None:
        self._timed.add(block.segment)
        heapq.heappush(self._ends, (block.pinned_until, block.segment))
        if len(self._ends) > len(self.blocks) + _SPARE_ENTRIES:
            self._ends = [one for one in self._ends if one[1] in self.blocks]
            heapq.heapify(self._ends)
            self._timed = {segment for _, segment in self._ends}

    def expire(self, now: float) -> None:
        """Take off what is pinned no longer."""
        self.now = now
        while self._ends and self._ends[0][0] <= now:
            _, segment = heapq.heappop(self._ends)
            self._timed.discard(segment)
            block = self.blocks.get(segment)
            if block is not None:
                self.update(block, there=True)  # it may have been pinned for longer since
