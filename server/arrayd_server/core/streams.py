"""Every rule of a stream's life. Pure, like `registry`: events and the time in, effects out.

How streams work
================
A *stream* is a sequence of rows, epoch after epoch in an order that only the reader knows; the
core knows *positions*, counted over all epochs. One reader process fills a *ring*, in which the row
at position p has slot ``p % slots``. Each *consumer* maps the ring and goes through it at its own
pace; its *cursor* is the first position that it still needs. A slot is free for another row when
all cursors have passed it: as in LMAX's Disruptor (Thompson et al., 2011) one sequence number a
consumer is all that is shared, and there is no lock and no message for a row.

Sharing. Whoever opens a stream of an equal key joins the consumers of the first, if the ring still
has, or will have, all that it needs; else it has a stream of its own. `barrier`: consumers that are
started together may wait for each other, so that none is too late to join.

Pace and detach. `pace` says who holds up a stream and when its time is over. The others then go on
in a new ring, a new *generation* that begins at the head, and the old one stays as it is: what a
consumer may still read never changes under its eyes. Everybody finishes the old ring, hears of the
new one in the answer to `wait`, and goes on there, so one that was slow catches up if it moves
again before the new ring is stuck as well. If it does not, it is *detached*: nobody waits for it
any more, it may finish its old ring, and then opens again (answer ``moved``), with a stream of its
own or in one whose ring has its position. Where there is no room for a second ring the group waits,
and it is tried again after another grace time. If the slow one moves while the new ring is being
made, that is given up. An old ring goes when the last consumer has left it.

A stream nobody is attached to has no reader and no current ring; it is there only for the detached
who still read. An error of the reader ends a stream: everybody gets it who waits or asks later, and
a later open of the key starts anew. What consumers read from is in `rings`, when a window is read
in `windows`.

A client may repeat a request whose answer was lost. A repeated open is answered like the first. The
answers to `wait` name a new ring until the cursor has moved in it.

The rules, asserted by `stream_invariants.check` (1 to 8 are those of `registry`):

9. No slot is rewritten that a consumer of its ring still needs.
10. head ≤ planned. Windows are contiguous, in order, within one epoch, and each is read once; the
    head passes complete windows only.
11. While a consumer wants more and there are free slots (enough for a whole window, where windows
    are whole), a window is in flight, unless the stream waits for its ring or its reader.
12. Each consumer belongs to one stream and one session. A stream without attached consumers is
    stopped; what it had is given up when nobody reads from it.

Of the arguments, `to` is whom to answer, `now` is in seconds of a clock that never goes back. An
event of an unknown stream, ring or window comes too late: it changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from arrayd.errors import ArraydError, NoRoom
from arrayd.wire.grant import Grant
from arrayd_server.core import error_texts, pace, stream_report
from arrayd_server.core.effects import Answer, Effect, Reply, Result
from arrayd_server.core.model import Asker, Nonce
from arrayd_server.core.registry import Registry
from arrayd_server.core.rings import Rings
from arrayd_server.core.serving import Serving
from arrayd_server.core.stream_model import (
    Barrier,
    Consumer,
    ReaderState,
    SharedStream,
    StreamPlan,
)
from arrayd_server.core.stream_table import StreamTable

RETRY_AFTER = 1.0
"""Seconds after which a ring that there was no room for is asked for again, at the soonest."""


class Streams:
    """All streams of the daemon.

    Parameters
    ----------
    registry
        It has the blocks that rings are.
    nonce, pid
        Of the daemon's own session in it; the nonce is random, and new in each run.
    """

    def __init__(self, registry: Registry, nonce: Nonce, pid: int) -> None:
        self.nonce = nonce
        self.registry = registry
        self.table = StreamTable(Rings(registry, nonce, pid))
        self._serving = Serving(self.table)

    # ---- requests ------------------------------------------------------------------------

    def open(
        self,
        to: Asker,
        plan: StreamPlan,
        position: int,
        limit: int | None,
        consumers: int,
        grace: float,
        now: float,
    ) -> list[Effect]:
        """Someone wants the rows of `plan` from `position` on, up to `limit`.

        Nobody is served before so many `consumers` have joined, for `grace` seconds at most; the
        same time is what it may later stand still while others wait for it.
        """
        known = self.table.opened.get(to)
        if known is not None:  # repeated
            error = self.table.streams[known.stream].error
            return [Reply(to, error)] if error is not None else self._serving.welcome(known, now)
        effects: list[Effect] = []
        stream = self.table.joinable(plan, position)
        if stream is None:
            barrier = Barrier(consumers, now + grace)
            stream, effects = self.table.begin(plan, position, barrier, now)
        elif stream.barrier is not None:
            stream.barrier.consumers = max(stream.barrier.consumers, consumers)
        end = math.inf if limit is None else limit
        consumer = self.table.join(stream, to, position, end, grace, now)
        effects += self._serving.go_on(stream, now)
        return effects + self._serving.welcome(consumer, now)

    def advance(self, to: Asker, consumer: int, cursor: int, now: float) -> list[Effect]:
        """Someone does not need the rows below `cursor` any more."""
        found = self._move(to.nonce, consumer, cursor, now)
        if isinstance(found, ArraydError):
            return [Reply(to, found)]
        return [Reply(to, Result({})), *self._serving.go_on(self._of(found), now)]

    def wait(self, to: Asker, consumer: int, cursor: int, now: float) -> list[Effect]:
        """Someone needs a row from `cursor` on, and is answered when one can be read.

        Whoever needs several takes what there is, and waits with the cursor behind it. Of two
        waits the later one is answered.
        """
        found = self._move(to.nonce, consumer, cursor, now)
        if isinstance(found, ArraydError):
            return [Reply(to, found)]
        repeated = found.waiting is not None
        if not repeated:
            found.waiting_since = now
        found.waiting = to
        effects = self._serving.go_on(self._of(found), now)
        found.waits += found.waiting is not None and not repeated
        return effects

    def close(self, nonce: Nonce, consumer: int, now: float) -> list[Effect]:
        """Session `nonce` has no use for a consumer any more."""
        found = self.table.consumers.get(consumer)
        if found is None or found.opened_by.nonce != nonce:
            return []
        return self._close([found], now)

    def cancel(self, nonce: Nonce, request: int, now: float) -> list[Effect]:
        """Nobody waits for a session's request any more; what it opened nobody will use."""
        opened = self.table.opened.get(Asker(nonce, request))
        if opened is not None:
            return self._close([opened], now)
        for consumer in self.table.consumers.values():
            if consumer.waiting == Asker(nonce, request):
                self._serving.end_wait(consumer, now)
                return self._serving.go_on(self._of(consumer), now)
        return []

    def ended(self, nonce: Nonce, now: float) -> list[Effect]:
        """Session `nonce` has ended: it said goodbye, or its process died."""
        mine = [c for c in self.table.consumers.values() if c.opened_by.nonce == nonce]
        return self._close(mine, now)

    def describe(self, now: float) -> list[dict[str, Any]]:
        """Return what there is to say of each stream and its consumers, as plain data."""
        return [stream_report.describe(self.table, s, now) for s in self.table.streams.values()]

    # ---- what the registry says ----------------------------------------------------------

    def answered(self, request: int, body: Answer, now: float) -> list[Effect]:
        """Take the registry's answer to the daemon's own session: of a block, or of the hello."""
        if isinstance(body, Grant):
            return self.ring_made(request, body.segment, now)
        return self.ring_failed(request, body, now) if isinstance(body, ArraydError) else []

    def ring_made(self, request: int, segment: str, now: float) -> list[Effect]:
        """Take note that a ring or a resident share is there."""
        stream = self.table.asked.get(request)
        if stream is None:
            return []
        following, share = stream.following, stream.share
        if following is not None and following.block.request == request:
            following.block.segment = segment
            return self.table.change_ring(stream, now) + self._serving.go_on(stream, now)
        if share is not None and share.request == request:
            share.segment = segment
            return self.table.start_reader(stream)
        stream.ring.block.segment = segment
        opened = stream.consumers.values()
        effects = [effect for one in opened for effect in self._serving.welcome(one, now)]
        if stream.plan.share is None:
            return effects + self.table.start_reader(stream)
        # The share comes second: there may be no room for it, but there must be for the ring.
        return effects + self.table.ask_share(stream, stream.plan.share, now)

    def ring_failed(self, request: int, error: ArraydError, now: float) -> list[Effect]:
        """Take note that a ring or share cannot be had; or is lost: somebody removed its file."""
        stream = self.table.asked.pop(request, None)
        if stream is None:
            return []
        following, share = stream.following, stream.share
        if following is not None and following.block.request == request:
            waits = [c.grace for c in pace.blockers(stream)]
            stream.following, stream.retry_at = None, now + max(RETRY_AFTER, *waits)
            return []
        if share is not None and share.request == request and share.segment is None:
            stream.share = None
            if isinstance(error, NoRoom):  # it is slower without, and the status says so
                return self.table.start_reader(stream)
        if request in (one.block.request for one in stream.rings()[:-1]):
            return []  # an old ring: who reads from it has it mapped
        return self.stream_failed(stream.number, error, now)

    # ---- what the reader says ------------------------------------------------------------

    def reader_ready(self, stream: int, now: float) -> list[Effect]:
        """Take note that the reader of a stream has opened everything, and may be asked."""
        found = self.table.streams.get(stream)
        if found is None or found.reader is not ReaderState.STARTING:
            return []
        found.reader = ReaderState.READY
        return self._serving.go_on(found, now)

    def window_read(
        self,
        stream: int,
        generation: int,
        start: int,
        stop: int,
        stats: Mapping[str, int],
        now: float,
    ) -> list[Effect]:
        """Take note that a window is in its ring; `stats` counts the bytes that this took."""
        found = self.table.streams.get(stream)
        if found is None or found.ring.number != generation:
            return []
        if not found.ring.windows.read(start, stop):
            return []
        found.stats.update(stats)
        self.table.totals.rows += stop - start
        self.table.totals.bytes_read += stats.get("bytes_read", 0)
        return self._serving.go_on(found, now)

    def stream_failed(self, stream: int, error: ArraydError, now: float) -> list[Effect]:
        """Take note that a stream cannot go on: a row cannot be read, or the reader has died."""
        found = self.table.streams.get(stream)
        if found is None or found.error is not None or found.reader is ReaderState.STOPPED:
            return []
        found.error = error
        effects = self.table.stop(found, now)
        for consumer in list(found.consumers.values()):
            effects += self._fail(consumer, error, now)
        return effects

    # ---- time ----------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: barriers and grace times may be over."""
        effects: list[Effect] = []
        for stream in list(self.table.streams.values()):
            if pace.due(stream) <= now:
                effects += self._leave_behind(stream, now)
            effects += self._serving.go_on(stream, now)
        return effects

    def wake_at(self) -> float:
        """When `tick` is to come next; inf: no time has been set."""
        return min(map(_wake_at, self.table.streams.values()), default=math.inf)

    # ---- steps ---------------------------------------------------------------------------

    def _of(self, consumer: Consumer) -> SharedStream:
        return self.table.streams[consumer.stream]

    def _move(self, nonce: Nonce, number: int, cursor: int, now: float) -> Consumer | ArraydError:
        """Move the cursor of a session's consumer; return the consumer, or why it cannot be."""
        consumer = self.table.consumers.get(number)
        if consumer is None or consumer.opened_by.nonce != nonce or not consumer.answered:
            return error_texts.no_consumer(number)
        error, windows = self._of(consumer).error, consumer.ring.windows
        if error is not None:
            return error
        low, head = consumer.cursor, max(consumer.cursor, windows.head)
        if not low <= cursor <= head:
            return error_texts.bad_cursor(number, cursor, low, head)
        if cursor > low:
            consumer.cursor, consumer.moved, consumer.announce = cursor, now, False
        return consumer

    def _close(self, consumers: list[Consumer], now: float) -> list[Effect]:
        """Let consumers go, and then the others go on."""
        left = {one.stream: self._of(one) for one in consumers}
        effects = [effect for one in consumers for effect in self.table.remove(one, now)]
        return effects + [e for stream in left.values() for e in self._serving.go_on(stream, now)]

    def _fail(self, consumer: Consumer, error: ArraydError, now: float) -> list[Effect]:
        """Tell a consumer that waits; what is not open yet never will be."""
        if not consumer.answered:
            return [Reply(consumer.opened_by, error), *self.table.remove(consumer, now)]
        if consumer.waiting is None:
            return []
        to = consumer.waiting
        self._serving.end_wait(consumer, now)
        return [Reply(to, error)]

    def _leave_behind(self, stream: SharedStream, now: float) -> list[Effect]:
        """Let the others go on without those whose time is over: in a new ring, if need be."""
        blockers = pace.blockers(stream)
        behind = [consumer for consumer in blockers if consumer.ring is not stream.ring]
        for consumer in behind:
            consumer.detached = True
        return self.table.ask_ring(stream, now) if len(behind) < len(blockers) else []


def _wake_at(stream: SharedStream) -> float:
    barrier = math.inf if stream.barrier is None else stream.barrier.until
    return min(barrier, pace.due(stream))
