"""How a stream goes on: what is read next, and who is answered."""

from __future__ import annotations

from typing import Any

from arrayd_server.core import pace
from arrayd_server.core.effects import Effect, ReadWindow, Reply, Result
from arrayd_server.core.model import Asker
from arrayd_server.core.stream_model import Consumer, ReaderState, SharedStream
from arrayd_server.core.stream_table import StreamTable


class Serving:
    """What follows from the state of a stream after any event."""

    def __init__(self, table: StreamTable) -> None:
        self._table = table

    def go_on(self, stream: SharedStream, now: float) -> list[Effect]:
        """Answer who can go on, and plan the windows that can be read now."""
        self._lift_barrier(stream, now)
        effects: list[Effect] = []
        for consumer in list(stream.consumers.values()):
            if consumer.waiting is not None:
                effects += self._serve(stream, consumer, consumer.waiting, now)
        if stream.following is not None and not pace.blockers(stream):
            effects += self._table.give_up_following(stream, now)
        if stream.reader is ReaderState.READY:
            effects += _planned(stream)
        return effects

    def welcome(self, consumer: Consumer, now: float) -> list[Effect]:
        """Answer the open of a consumer, once its ring is there."""
        stream, ring = self._table.streams[consumer.stream], consumer.ring
        if ring.block.segment is None:
            return []
        if not consumer.answered:
            consumer.answered, consumer.moved = True, now
        waits = stream.barrier is not None  # for others: nothing is to be read yet
        answer = {
            "stream": stream.number,
            "consumer": consumer.number,
            "segment": ring.block.segment,
            "slots": stream.plan.slots,
            "first": ring.windows.first,
            "head": consumer.cursor if waits else ring.windows.head,
            "generation": ring.number,
        }
        return [Reply(consumer.opened_by, Result(answer))]

    def end_wait(self, consumer: Consumer, now: float) -> None:
        """Let a consumer wait no longer, and count how long it has."""
        consumer.stalled += now - consumer.waiting_since
        self._table.totals.stalled += now - consumer.waiting_since
        consumer.waiting = None

    def _lift_barrier(self, stream: SharedStream, now: float) -> None:
        barrier = stream.barrier
        if barrier is None or (len(stream.consumers) < barrier.consumers and now < barrier.until):
            return
        stream.barrier = None
        for consumer in stream.consumers.values():
            consumer.moved = consumer.waiting_since = now  # nobody could move before

    def _serve(
        self, stream: SharedStream, consumer: Consumer, to: Asker, now: float
    ) -> list[Effect]:
        """Answer a consumer that waits, if there is something for it."""
        effects: list[Effect] = []
        news = self._news(stream, consumer)
        if not news:
            return []
        self.end_wait(consumer, now)
        consumer.moved = now
        if "moved" in news:
            effects += self._table.remove(consumer, now)
        elif "head" in news and consumer.ring.windows.head <= consumer.cursor:
            effects += self._table.change_ring_of(consumer, now)
        if consumer.announce and "head" in news:
            ring = consumer.ring
            news |= {"ring": ring.block.segment, "first": ring.windows.first}
        if stream.stats["values_changed"]:
            news["lost"] = stream.stats["values_changed"]
        return [Reply(to, Result(news)), *effects]

    def _news(self, stream: SharedStream, consumer: Consumer) -> dict[str, Any]:
        """Return the answer to a wait; empty: there is nothing to read yet."""
        if not consumer.wants:
            return {"end": True}
        if stream.barrier is not None:
            return {}
        for ring in (consumer.ring, *([] if consumer.detached else [stream.ring])):
            if ring.windows.head > consumer.cursor:
                return {"head": ring.windows.head}
        return {"moved": True} if consumer.detached else {}


def _planned(stream: SharedStream) -> list[Effect]:
    """Return the windows that are to be read now."""
    needed, ring = stream.needed(), stream.ring
    if not needed:
        return []
    assert ring.block.segment is not None
    limit = max(stream.consumers[number].limit for number in needed)
    effects: list[Effect] = []
    while (window := ring.windows.plan(min(needed.values()), limit)) is not None:
        effects.append(
            ReadWindow(stream.number, ring.block.segment, ring.number, window[0], window[1])
        )
    return effects
