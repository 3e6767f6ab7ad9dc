"""What the status says of a stream, as plain data."""

from __future__ import annotations

import math
from typing import Any

from arrayd_server.core.stream_model import Consumer, ReaderState, SharedStream
from arrayd_server.core.stream_table import StreamTable


def describe(table: StreamTable, stream: SharedStream, now: float) -> dict[str, Any]:
    """Return one stream; `identity` and the nonces of its consumers' sessions are left as such."""
    windows = stream.ring.windows
    rings = [ring.block for ring in stream.rings()]
    rings += [] if stream.following is None else [stream.following.block]
    return {
        "number": stream.number,
        "identity": stream.plan.identity,
        "state": state(stream),
        "rows": stream.plan.rows,
        "slots": stream.plan.slots,
        "generation": stream.ring.number,
        "head": windows.head,
        "planned": windows.planned,
        "epoch": windows.head // stream.plan.rows,
        "ring_bytes": sum(block.size for block in rings if block.request in table.asked),
        "share_bytes": 0 if stream.share is None else stream.share.size,
        "bytes_read": stream.stats["bytes_read"],
        "bytes_used": stream.stats["bytes_used"],
        "age": now - stream.since,
        "consumers": [_consumer(stream, consumer, now) for consumer in stream.consumers.values()],
    }


def state(stream: SharedStream) -> str:
    """Return what a stream does, or waits for."""
    if stream.error is not None:
        return "failed"
    if stream.reader is ReaderState.ABSENT:
        return "waits for its ring"
    if stream.reader is ReaderState.STARTING:
        return "its reader starts"
    if stream.barrier is not None:
        return "waits for consumers"
    return "old rings only" if stream.reader is ReaderState.STOPPED else "reading"


def _consumer(stream: SharedStream, consumer: Consumer, now: float) -> dict[str, Any]:
    waits = consumer.waiting is not None
    return {
        "number": consumer.number,
        "nonce": consumer.opened_by.nonce,
        "cursor": consumer.cursor,
        "limit": None if consumer.limit == math.inf else int(consumer.limit),
        "lag": max(0, stream.ring.windows.head - consumer.cursor),
        "waits": consumer.waits,
        "stalled": consumer.stalled + (now - consumer.waiting_since if waits else 0.0),
        "idle": now - consumer.moved,
        "detached": consumer.detached,
        "age": now - consumer.since,
    }
