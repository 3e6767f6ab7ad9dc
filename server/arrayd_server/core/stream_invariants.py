"""The rules 9 to 12, of `streams.py`, as assertions over all streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arrayd_server.core import pace
from arrayd_server.core.model import State
from arrayd_server.core.stream_model import ReaderState, RingGeneration, SharedStream
from arrayd_server.core.windows import MAX_IN_FLIGHT

if TYPE_CHECKING:
    from arrayd_server.core.streams import Streams


def check(streams: Streams) -> None:
    """Assert the rules; call it when the effects of the last event have been performed."""
    for stream in streams.table.streams.values():
        _slots(stream)
        for ring in stream.rings():
            _windows(stream, ring)
        _liveness(stream)
        _waits(stream)
        _parts(stream)
    _consumers(streams)
    _memory(streams)


def _slots(stream: SharedStream) -> None:
    for consumer in stream.consumers.values():
        windows = consumer.ring.windows
        assert consumer.cursor >= windows.first, "a ring that begins later"
        if consumer.wants:
            kept = windows.planned - consumer.cursor
            assert kept <= windows.slots, "rule 9: rewritten under a consumer's eyes"
    for position in stream.needed().values():
        assert stream.ring.windows.free(position) >= 0, "rule 9: rewritten before it was read"


def _windows(stream: SharedStream, ring: RingGeneration) -> None:
    windows, rows = ring.windows, stream.plan.rows
    assert windows.first <= windows.head <= windows.planned, "rule 10: head and planned"
    assert len(windows.in_flight) <= MAX_IN_FLIGHT, "too many windows in flight"
    assert not windows.in_flight.keys() & windows.done.keys(), "rule 10: read, and being read"
    at = windows.head
    for start, stop in sorted((windows.in_flight | windows.done).items()):
        assert start == at < stop, "rule 10: windows have a gap"
        assert start // rows == (stop - 1) // rows, "rule 10: a window of two epochs"
        at = stop
    assert at == windows.planned, "rule 10: planned, but in no window"
    assert windows.head not in windows.done, "rule 10: a complete prefix, and the head below"
    if ring is not stream.ring:
        assert windows.head == windows.planned, "an old ring that is still written"


def _liveness(stream: SharedStream) -> None:
    needed, windows = stream.needed(), stream.ring.windows
    if stream.reader is not ReaderState.READY or not needed:
        return
    limit = max(stream.consumers[number].limit for number in needed)
    if windows.planned < limit and windows.has_room(min(needed.values()), limit):
        assert windows.in_flight, "rule 11: free slots, and nothing is read"
    if stream.following is not None:
        assert pace.blockers(stream), "a ring asked for that nobody needs"


def _waits(stream: SharedStream) -> None:
    for consumer in stream.consumers.values():
        if consumer.waiting is None:
            continue
        assert stream.error is None, "somebody waits for a stream that has failed"
        assert consumer.wants, "somebody waits at the end"
        assert not consumer.detached, "a detached one waits, though nothing comes"
        if stream.barrier is None:
            heads = (consumer.ring.windows.head, stream.ring.windows.head)
            assert max(heads) <= consumer.cursor, "rule 11: not told of what can be read"


def _parts(stream: SharedStream) -> None:
    assert stream.consumers, "rule 12: a stream without consumers"
    stopped = stream.reader is ReaderState.STOPPED
    attached = list(stream.attached())
    assert attached or stopped, "rule 12: read for nobody"
    assert not attached or not stopped or stream.error is not None, "rule 12: stopped for some"
    for consumer in stream.consumers.values():
        assert consumer.ring.number <= stream.ring.number, "a ring of later"
        # Who has all that it wants may stay with any ring until it closes.
        if consumer.wants and not consumer.detached and consumer.ring is not stream.ring:
            first = stream.ring.windows.first
            assert consumer.ring.windows.head == first, "rows between two rings"
        if consumer.detached:
            assert consumer.ring is not stream.ring, "detached from what is read"


def _consumers(streams: Streams) -> None:
    table = streams.table
    known = {n: c for s in table.streams.values() for n, c in s.consumers.items()}
    assert known == table.consumers, "rule 12: a consumer of no stream, or of two"
    assert {c.opened_by: c for c in known.values()} == table.opened, "the opens"
    for number, consumer in known.items():
        assert consumer.number == number, "a consumer under another number"
        assert number in table.streams[consumer.stream].consumers, "rule 12: of another stream"
        assert consumer.opened_by.nonce in streams.registry.sessions, "rule 12: of no session"


def _memory(streams: Streams) -> None:
    """Assert that the daemon's session has the blocks that are needed, and no others."""
    registry, table = streams.registry, streams.table
    blocks = [
        block
        for stream in table.streams.values()
        for block in (
            *(ring.block for ring in stream.rings()),
            *([stream.following.block] if stream.following is not None else []),
            *([stream.share] if stream.share is not None else []),
        )
        if block.request in table.asked
    ]
    assert {block.request for block in blocks} == table.asked.keys(), "rule 12: a block of nobody"
    own = registry.sessions.get(streams.nonce)
    assert (own is not None) == bool(table.streams), "the daemon's session, and no streams"
    if own is not None:
        there = {block.segment for block in blocks if block.segment is not None}
        assert there == own.holds.keys(), "rule 12: memory given up, or kept"
        for segment in there:
            assert registry.blocks.table[segment].state is State.WRITING, "a ring that is final"
