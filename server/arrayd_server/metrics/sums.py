"""What there is at a moment: sums over blocks, sessions and streams, taken on the daemon's loop.

All but the states of blocks are sums that the core keeps anyway. States need a walk: who holds a
block changes with each grant, and nobody else wants these sums. It takes 0.6 ms for 1,000 blocks,
so it goes `SLICE` blocks at a time and lets the loop turn in between, and begins anew after a pause
that is long beside it. What changes meanwhile may be counted as before or as after.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Container, Iterable
from dataclasses import asdict, dataclass, field
from time import monotonic

from arrayd.wire import layout
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.model import Block, State
from arrayd_server.core.registry import Registry
from arrayd_server.core.streams import Streams

STATES = ("held", "idle", "pinned", "stray", "loading", "leaving", "recycled")

_SEALED = State.SEALED  # looked up for each block, it makes the walk half as long again

_UNSEALED = {
    State.LOADING: "loading",
    State.WRITING: "loading",
    State.UNLINKED: "leaving",
    State.SPARE: "recycled",
}

SLICE = 1000
"""Blocks that are looked at before the loop turns."""

WALK_PAUSE = 200
"""Between two walks is this many times the time that one takes, and a second at least."""


@dataclass(slots=True)
class BlockSums:
    """Bytes and numbers of blocks by `STATES`, and bytes by user.

    The daemon's own user has what is left.
    """

    nbytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    number: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    users: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class StreamSums:
    """Streams and consumers as there are, and what all since the start have come to."""

    streams: int
    consumers: int
    waiting: int
    rows: int
    bytes_read: int
    stalled: float


@dataclass(frozen=True, slots=True)
class Sums:
    """All that is measured of a daemon but what a `Meter` counts."""

    at: float  # in Unix time
    budget: int
    charged: int
    blocks: BlockSums
    sessions: int
    holds: int
    jobs: int
    shm_free: int
    shm_size: int
    counters: dict[str, int]
    evicted: dict[str, int]
    streams: StreamSums


def state_of(block: Block, idle: Container[str], now: float) -> str:
    """Return which of `STATES` a block is in; those in `idle` are on the idle list."""
    if block.state is not _SEALED:
        return _UNSEALED[block.state]
    if block.holders or block.lends:
        return "held"
    if block.keep or block.pinned_until > now:
        return "pinned"
    return "idle" if block.segment in idle else "stray"


def count(blocks: Iterable[Block], idle: Container[str], now: float, sums: BlockSums) -> None:
    """Add these blocks to the sums, of which those in `idle` are on the idle list."""
    nbytes, number, users = sums.nbytes, sums.number, sums.users
    for block in blocks:
        state, size = state_of(block, idle, now), block.size
        nbytes[state] += size
        number[state] += 1
        if block.user is not None:
            users[block.user] += size


async def slices(table: BlockTable) -> AsyncIterator[list[Block]]:
    """Yield all blocks that there are, `SLICE` at a time; after each the loop turns."""
    blocks = iter(list(table.table.values()))
    while some := list(itertools.islice(blocks, SLICE)):
        yield some
        await asyncio.sleep(0)


class Survey:
    """Takes the sums of a registry."""

    def __init__(self, registry: Registry, streams: Streams) -> None:
        self._registry, self._streams = registry, streams
        self._blocks = BlockSums()
        self._walk_at = float("-inf")

    async def take(self, at: float) -> Sums:
        """Return the sums as they are now; those of the states of blocks may be older.

        `at` is the Unix time.
        """
        await self._walk()
        registry, shm = self._registry, os.statvfs(layout.SHM)
        return Sums(
            at=at,
            budget=int(registry.blocks.budget),
            charged=registry.blocks.charged,
            blocks=self._blocks,
            sessions=len(registry.sessions),
            holds=sum(len(session.holds) for session in registry.sessions.values()),
            jobs=len(registry.jobs.table),
            shm_free=shm.f_bavail * shm.f_frsize,
            shm_size=shm.f_blocks * shm.f_frsize,
            counters=asdict(registry.counters),
            evicted=dict(registry.holds.evicted),
            streams=self._of_streams(),
        )

    async def _walk(self) -> None:
        if monotonic() < self._walk_at:
            return
        sums, table, took = BlockSums(), self._registry.blocks, 0.0
        async for some in slices(table):
            began = monotonic()
            count(some, table.idle, began, sums)
            took += monotonic() - began
        self._blocks = sums
        self._walk_at = monotonic() + max(1.0, WALK_PAUSE * took)

    def _of_streams(self) -> StreamSums:
        table = self._streams.table
        waiting = sum(one.waiting is not None for one in table.consumers.values())
        totals = (table.totals.rows, table.totals.bytes_read, table.totals.stalled)
        return StreamSums(len(table.streams), len(table.consumers), waiting, *totals)
