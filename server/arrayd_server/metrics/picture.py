"""What the web page shows: memory, blocks, loads and streams as plain data, without a name.

By HTTP nobody is known, and every user of the machine can reach it. So no file, user, program or
process is named: blocks have their numbers, users those of `UserNumbers`, and of a structure only
its size is told, for its fields have names. It is collected when somebody asks, and the more seldom
the longer it takes. Of the loop each part takes 2 ms at most with 10,000 blocks (1.4 measured, and
20 in all); what is longer is done by `text`, in the server's thread.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
import json
from collections.abc import Awaitable, Callable, Container, Sequence
from operator import attrgetter
from time import monotonic
from typing import Any, TypeVar

import numpy as np

from arrayd.errors import SpecMismatch
from arrayd.wire import protocol
from arrayd.wire.grant import Spec
from arrayd_server.core import stream_report
from arrayd_server.core.model import Block, Job, State
from arrayd_server.core.registry import Registry
from arrayd_server.core.stream_model import SharedStream
from arrayd_server.core.streams import Streams
from arrayd_server.identity import BlockIdentity
from arrayd_server.metrics import history
from arrayd_server.metrics.history import MemoryHistory, UserNumbers
from arrayd_server.metrics.measurements import Measurements
from arrayd_server.metrics.sums import WALK_PAUSE, slices, state_of

MAX_BLOCKS = 200
"""Blocks that are shown, the largest; the others are counted."""

MAX_LOADS = 50
"""Loads that are shown, the oldest."""

MAX_STREAMS = 50
"""Streams that are shown, the oldest."""

PART = 50
"""Blocks, loads or streams that are described before the loop turns."""

FRESH = 2.0
"""Seconds that a picture is good for at least, however many ask."""

_Thing = TypeVar("_Thing")


class Picture:
    """Collects what is shown of a daemon.

    Parameters
    ----------
    memory
        Its history.
    """

    def __init__(self, registry: Registry, streams: Streams, memory: MemoryHistory) -> None:
        self._registry, self._streams, self._history = registry, streams, memory
        self._asking = asyncio.Lock()
        self._latest: dict[str, Any] | None = None
        self._good_until = float("-inf")
        self._took = 0.0

    async def take(self, measured: Callable[[], Awaitable[Measurements]]) -> dict[str, Any]:
        """Return what `text` makes the answer of, with what `measured` returns.

        Whoever asks before it is to be collected anew gets the same object.
        """
        async with self._asking:
            if self._latest is None or monotonic() >= self._good_until:
                self._took = 0.0
                self._latest = await self._collect(await measured())
                self._good_until = monotonic() + max(FRESH, WALK_PAUSE * self._took)
            return self._latest

    async def _collect(self, measured: Measurements) -> dict[str, Any]:
        registry, sums, numbers = self._registry, measured.sums, self._history.numbers
        blocks = await self._largest()
        idle, jobs, streams = registry.blocks.idle, registry.jobs.table, self._streams.table.streams
        loads = list(itertools.islice(jobs.values(), MAX_LOADS))
        some = list(itertools.islice(streams.values(), MAX_STREAMS))
        listed = await self._described(blocks, lambda one, now: of_block(one, idle, numbers, now))
        rest = len(registry.blocks.table) - len(registry.blocks.spares) - len(blocks)
        sample = self._history.sample(sums)
        return {
            "version": protocol.PACKAGE_VERSION,
            "at": sums.at,
            "uptime": sums.at - measured.started,
            "budget": sums.budget,
            "charged": sums.charged,
            "memory": sample.states,
            "numbers": dict(sums.blocks.number),
            "shm": {"free": sums.shm_free, "size": sums.shm_size},
            "sessions": sums.sessions,
            "holds": sums.holds,
            "history": self._history.samples(sample),
            "blocks": listed,
            "blocks_more": max(0, rest),
            "loads": await self._described(loads, lambda one, now: of_job(one, registry, now)),
            "loads_more": max(0, len(jobs) - len(loads)),
            "streams": await self._described(some, lambda one, _: of_stream(one)),
            "streams_more": max(0, len(streams) - len(some)),
        }

    async def _largest(self) -> list[Block]:
        """Return the `MAX_BLOCKS` largest blocks, but not those kept for the next load."""
        largest: list[Block] = []
        async for some in slices(self._registry.blocks):
            began = monotonic()
            blocks = (block for block in some if block.state is not State.SPARE)
            largest = heapq.nlargest(MAX_BLOCKS, [*largest, *blocks], key=attrgetter("size"))
            self._took += monotonic() - began
        return largest

    async def _described(
        self, things: Sequence[_Thing], describe: Callable[[_Thing, float], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Describe them `PART` at a time."""
        shown: list[dict[str, Any]] = []
        for first in range(0, len(things), PART):
            began = monotonic()
            shown += [describe(one, began) for one in things[first : first + PART]]
            self._took += monotonic() - began
            await asyncio.sleep(0)
        return shown


def text(taken: dict[str, Any]) -> bytes:
    """Return what a `Picture` has taken as JSON; it takes milliseconds, in any thread."""
    whole = {**taken, "history": history.shown(taken["history"])}
    return json.dumps(whole, separators=(",", ":")).encode()


def of_block(
    block: Block, idle: Container[str], numbers: UserNumbers, now: float
) -> dict[str, Any]:
    """Return what is shown of a block, of which `idle` says whether it is; ages in seconds."""
    state, array = state_of(block, idle, now), block.array
    spec = None if array is None else array.spec
    return {
        "number": block.number,
        "size": block.size,
        "state": state,
        "pinned": block.keep or block.pinned_until > now,
        "user": numbers.of(block.user),
        "holders": len(block.holders),
        "idle": None if state in ("held", "loading") else round(now - block.used, 1),
        "arrays": len(block.members) or 1,
        "shape": None if spec is None else list(spec.shape),
        "dtype": "" if spec is None else dtype_words(spec),
        "format": "put" if block.published else _format((array or block).identity),
    }


def dtype_words(spec: Spec) -> str:
    """Return an array's dtype for people; of a structure only the bytes of an element."""
    if isinstance(spec.descr, str):
        return _plain_dtype(spec.descr)
    if isinstance(spec.descr, dict) and "ml_dtypes" in spec.descr:
        return str(spec.descr["ml_dtypes"])
    return f"structure of {spec.itemsize} bytes"


@functools.lru_cache(maxsize=256)
def _plain_dtype(descr: str) -> str:
    return str(np.dtype(descr))


def _format(identity: object) -> str:
    if not isinstance(identity, BlockIdentity) or identity.source is None:
        return ""
    try:
        return identity.source.resolved_format()
    except SpecMismatch:  # its name says nothing about it
        return ""


def of_job(job: Job, registry: Registry, now: float) -> dict[str, Any]:
    """Return what is shown of the making of a block; ages in seconds."""
    block = registry.blocks.table.get(job.segment or "")
    left = None
    if block is not None and 0 < job.done < job.total:
        left = round((now - block.since) * (job.total - job.done) / job.done, 1)
    return {
        "block": None if block is None else block.number,
        "stage": "info" if job.info else str(job.stage.value),
        "size": job.size,
        "done": job.done,
        "total": job.total,
        "age": round(now - job.since, 1),
        "left": left,
        "waiters": len(job.sessions),
    }


def of_stream(stream: SharedStream) -> dict[str, Any]:
    """Return what is shown of a stream."""
    epoch, row = divmod(stream.ring.windows.head, stream.plan.rows)
    return {
        "number": stream.number,
        "state": stream_report.state(stream),
        "epoch": epoch,
        "row": row,
        "rows": stream.plan.rows,
        "slots": stream.plan.slots,
        "bytes_read": stream.stats["bytes_read"],
        "consumers": len(stream.consumers),
        "waiting": sum(one.waiting is not None for one in stream.consumers.values()),
    }
