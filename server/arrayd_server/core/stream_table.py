"""All streams and consumers: how each begins and ends, and when its memory is given up."""

from __future__ import annotations

import itertools

from arrayd_server.core.effects import ChangeRing, Effect, StartReader, StopReader
from arrayd_server.core.model import Asker, Draft
from arrayd_server.core.rings import Rings
from arrayd_server.core.stream_model import (
    Barrier,
    Consumer,
    OwnBlock,
    ReaderState,
    RingGeneration,
    SharedStream,
    StreamPlan,
    StreamTotals,
)
from arrayd_server.core.windows import Windows

ROOM_TIMEOUT = 1.0
"""Seconds that a stream waits for the room for its first ring; for more it does not wait."""


class StreamTable:
    """The streams and their consumers by number, and whose each block is that was asked for."""

    def __init__(self, rings: Rings) -> None:
        self.streams: dict[int, SharedStream] = {}
        self.consumers: dict[int, Consumer] = {}
        self.opened: dict[Asker, Consumer] = {}
        self.asked: dict[int, SharedStream] = {}  # request -> whose block it asked for
        self.totals = StreamTotals()
        self._rings = rings
        self._numbers = itertools.count(1)
        # A client may still speak of a consumer of an earlier run: its number is none of ours.
        self._consumer_numbers = itertools.count(int.from_bytes(rings.nonce[:6], "big") + 1)

    # ---- a stream ------------------------------------------------------------------------

    def joinable(self, plan: StreamPlan, position: int) -> SharedStream | None:
        """Return a stream of the same rows that has, or will have, all from `position` on."""
        alike = (stream for stream in self.streams.values() if stream.plan.key == plan.key)
        return next((stream for stream in alike if stream.joinable(position)), None)

    def begin(
        self, plan: StreamPlan, position: int, barrier: Barrier, now: float
    ) -> tuple[SharedStream, list[Effect]]:
        """Put a stream on the table, and ask for its ring."""
        block, effects = self._rings.ask(plan.ring, ROOM_TIMEOUT, now)
        ring = RingGeneration(0, block, _windows(plan, position))
        stream = SharedStream(next(self._numbers), plan, ring, now, barrier)
        self.streams[stream.number] = self.asked[block.request] = stream
        return stream, effects

    def ask_share(self, stream: SharedStream, draft: Draft, now: float) -> list[Effect]:
        """Ask for the resident share, if there is room now."""
        stream.share, effects = self._rings.ask(draft, 0.0, now)
        self.asked[stream.share.request] = stream
        return effects

    def ask_ring(self, stream: SharedStream, now: float) -> list[Effect]:
        """Ask for another ring, which begins at the head, if there is room now."""
        block, effects = self._rings.ask(stream.plan.ring, 0.0, now)
        windows = _windows(stream.plan, stream.ring.windows.head)
        stream.following = RingGeneration(stream.ring.number + 1, block, windows)
        self.asked[block.request] = stream
        return effects

    def give_up_following(self, stream: SharedStream, now: float) -> list[Effect]:
        """Do without the ring that was asked for."""
        following, stream.following = stream.following, None
        return [] if following is None else self._give_up(following.block, now)

    def start_reader(self, stream: SharedStream) -> list[Effect]:
        """Start the reader: all memory that there will be is there."""
        segment = stream.ring.block.segment
        assert segment is not None
        stream.reader = ReaderState.STARTING
        share = None if stream.share is None else stream.share.segment
        return [StartReader(stream.number, stream.plan.identity, segment, share)]

    def change_ring(self, stream: SharedStream, now: float) -> list[Effect]:
        """Let the ring that was asked for take the place of the current one."""
        old, ring = stream.ring, stream.following
        assert ring is not None
        assert ring.block.segment is not None
        stream.ring, stream.following = ring, None
        change = ChangeRing(stream.number, ring.block.segment, ring.number)
        return [change, *self._release(stream, old, now)]

    def stop(self, stream: SharedStream, now: float) -> list[Effect]:
        """End the reader, and give up what it fills; older rings stay with those who read them."""
        if stream.reader is ReaderState.STOPPED:
            return []
        effects: list[Effect] = []
        if stream.reader is not ReaderState.ABSENT:
            effects.append(StopReader(stream.number))
        stream.reader, stream.barrier = ReaderState.STOPPED, None
        effects += self.give_up_following(stream, now) + self._give_up(stream.ring.block, now)
        if stream.share is not None:
            effects += self._give_up(stream.share, now)
            stream.share = None
        return effects

    def _give_up(self, block: OwnBlock, now: float) -> list[Effect]:
        if self.asked.pop(block.request, None) is None:
            return []  # given up already, or lost
        return self._rings.give_up(block, now)

    def _release(self, stream: SharedStream, ring: RingGeneration, now: float) -> list[Effect]:
        """Give up a ring that somebody has left, unless it is still read."""
        return [] if ring in stream.rings() else self._give_up(ring.block, now)

    # ---- a consumer ----------------------------------------------------------------------

    def join(
        self,
        stream: SharedStream,
        to: Asker,
        position: int,
        limit: float,
        grace: float,
        now: float,
    ) -> Consumer:
        """Let the session of `to` have a consumer."""
        consumer = Consumer(
            next(self._consumer_numbers),
            to,
            stream.number,
            stream.ring,
            position,
            limit,
            grace,
            since=now,
            moved=now,
        )
        stream.consumers[consumer.number] = self.consumers[consumer.number] = consumer
        self.opened[to] = consumer
        return consumer

    def change_ring_of(self, consumer: Consumer, now: float) -> list[Effect]:
        """Let a consumer that has finished an older ring read from the current one."""
        stream, old = self.streams[consumer.stream], consumer.ring
        consumer.ring, consumer.announce = stream.ring, True
        return self._release(stream, old, now)

    def remove(self, consumer: Consumer, now: float) -> list[Effect]:
        """Let a consumer go, and what was there for it alone."""
        stream = self.streams[consumer.stream]
        del self.consumers[consumer.number], stream.consumers[consumer.number]
        del self.opened[consumer.opened_by]
        effects = self._release(stream, consumer.ring, now)
        if next(stream.attached(), None) is None:
            effects += self.stop(stream, now)
        if not stream.consumers:
            del self.streams[stream.number]
            effects += [] if self.streams else self._rings.close(now)
        return effects


def _windows(plan: StreamPlan, first: int) -> Windows:
    return Windows(plan.rows, plan.slots, plan.batch, first, plan.whole)
