"""A daemon with streams in a fake world, for tests of the core.

`StreamWorld` performs the core's effects at once and in order, as the daemon does: a kernel that
knows who maps what, readers that write positions into rings, clients that read them there. It
checks the rules after each event, and by its own count of what was written that no client can
ever see another row than it should.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec

from arrayd.errors import ArraydError, LoaderCrashed, NoRoom
from arrayd.wire.grant import Grant
from arrayd_server.core import invariants, stream_invariants
from arrayd_server.core.effects import (
    ChangeRing,
    Effect,
    Inspect,
    Make,
    ReadWindow,
    Reply,
    Result,
    StartReader,
    StopReader,
    Unlink,
)
from arrayd_server.core.model import Asker, Peer
from arrayd_server.core.registry import Registry
from arrayd_server.core.stream_model import StreamPlan
from arrayd_server.core.streams import Streams
from tests.support.stream_clients import Client, FakeReader, plan

P = ParamSpec("P")

OWN = bytes(range(16))
"""The nonce of the daemon's own session."""


class StreamWorld:
    """The shell around `Streams` and `Registry`, with a clock that stands still."""

    def __init__(self, budget: int = 35) -> None:
        self.registry = Registry("run-{}".format, budget)
        self.streams = Streams(self.registry, OWN, 1)
        self.now = 100.0
        self.seen: list[Effect] = []
        self.makes: dict[int, str] = {}  # jobs that make a segment
        self.named: set[str] = set()
        self.mapped: set[tuple[str, object]] = set()
        self.unlinked: set[str] = set()
        self.memory: dict[str, dict[int, int | None]] = {}  # segment -> slot -> position
        self.written: dict[str, list[int]] = {}  # segment -> positions asked for, in order
        self.complete: dict[str, set[int]] = {}  # segment -> positions that have been written
        self.readers: dict[int, FakeReader] = {}
        self.clients: list[Client] = []
        self.answers: dict[Asker, list[Any]] = {}
        self._todo: deque[Effect] = deque()
        self._requests = 0
        for pid, nonce in enumerate((b"a", b"b", b"c"), 11):
            self.hello(nonce, pid)

    # ---- the daemon ----------------------------------------------------------------------

    def do(
        self, event: Callable[P, list[Effect]], *args: P.args, **kwargs: P.kwargs
    ) -> list[Effect]:
        """Let one event happen, with all that follows at once; return the effects."""
        self.seen = []
        self._feed(event, *args, **kwargs)
        while self._todo:
            effect = self._todo.popleft()
            self.seen.append(effect)
            assert len(self.seen) < 1000, "an event without end"
            self._perform(effect)
        invariants.check(self.registry)
        stream_invariants.check(self.streams)
        self._check_rows()
        return self.seen

    def _feed(self, event: Callable[P, list[Effect]], *args: P.args, **kwargs: P.kwargs) -> None:
        self._todo.extend(event(*args, **kwargs))

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Reply(to, body) if to.nonce == OWN:
                self._feed(self.streams.answered, to.request, body, self.now)
            case Reply(to, body):
                self._answered(to, body)
            case Make(job, segment):
                self.makes[job] = segment
            case Inspect(segment):
                self._inspect(segment)
            case Unlink(segment, force):
                self._unlink(segment, force=force)
            case _:
                self._read(effect)

    def _read(self, effect: Effect) -> None:
        match effect:
            case StartReader(stream, _, segment, share):
                assert stream not in self.readers, "two readers of a stream"
                self.readers[stream] = FakeReader(segment, share)
                self.mapped |= {(one, ("reader", stream)) for one in (segment, share) if one}
            case ReadWindow(stream, segment, generation):
                reader = self.readers[stream]
                assert reader.ready, "asked before it is ready"
                assert (reader.segment, reader.generation) == (segment, generation)
                reader.windows.append(effect)
                self._overwrite(stream, effect)
            case ChangeRing(stream, segment, generation):
                reader = self.readers[stream]
                assert not reader.windows, "another ring amid a window"
                self.unmap(reader.segment, ("reader", stream))
                self.mapped.add((segment, ("reader", stream)))
                reader.segment, reader.generation = segment, generation
            case StopReader(stream):
                reader = self.readers.pop(stream)
                for segment in filter(None, (reader.segment, reader.share)):
                    self.unmap(segment, ("reader", stream))

    def _overwrite(self, stream: int, window: ReadWindow) -> None:
        positions = range(window.start, window.stop)
        before = self.written.setdefault(window.segment, [])
        assert not before or before[-1] + 1 == window.start, "rule 10: not contiguous"
        before.extend(positions)
        slots = self.streams.table.streams[stream].plan.slots
        for position in positions:
            self.memory.setdefault(window.segment, {})[position % slots] = None

    def _inspect(self, segment: str) -> None:
        if segment in self.named - self.unlinked:
            self._feed(self.registry.inspected, segment, self.is_mapped(segment), self.now)

    def _unlink(self, segment: str, *, force: bool) -> None:
        if segment in self.makes.values():  # as soon as the thread has made it
            self.makes = {job: one for job, one in self.makes.items() if one != segment}
        elif self.is_mapped(segment) and not force:
            self._feed(self.registry.unlink_refused, segment, self.now)
            return
        self.unlinked.add(segment)
        if self.is_mapped(segment):
            self._feed(self.registry.still_mapped, segment)
        else:
            self._feed(self.registry.freed, segment, self.now)

    def is_mapped(self, segment: str) -> bool:
        """Say whether anybody maps a segment."""
        return any(segment == one for one, _ in self.mapped)

    def unmap(self, segment: str, who: object) -> None:
        """End a mapping; of an unlinked segment the last one frees the pages."""
        if (segment, who) not in self.mapped:
            return
        self.mapped.discard((segment, who))
        if segment in self.unlinked and not self.is_mapped(segment):
            self._feed(self.registry.freed, segment, self.now)

    # ---- what must be so -----------------------------------------------------------------

    def head(self, segment: str, position: int) -> int:
        """Return the first position from `position` on that has not been written."""
        complete = self.complete.get(segment, set())
        while position in complete:
            position += 1
        return position

    def _check_rows(self) -> None:
        """Assert that each client finds the row of each position that it was told of."""
        for client in self.clients:
            if client.state not in ("open", "ended"):
                continue
            end = client.head if client.limit is None else min(client.head, client.limit)
            for position in range(client.cursor, end):
                memory = self.memory[client.ring_of(position)]
                assert memory[position % client.slots] == position, "another row"
            if client.waiting is not None and not self.has_barrier(client):
                segment = client.ring_of(client.cursor)
                first = self.written.get(segment, [client.cursor])[0]  # the head may be below
                assert self.head(segment, min(first, client.cursor)) <= client.cursor, "not told"

    def has_barrier(self, client: Client) -> bool:
        """Say whether a client still waits for others to join."""
        stream = self.streams.table.streams[self.consumer(client).stream]
        return stream.barrier is not None

    def consumer(self, client: Client) -> Any:
        """Return what the core knows of a client."""
        return self.streams.table.consumers[client.number]

    # ---- sessions and clients ------------------------------------------------------------

    def asker(self, nonce: bytes) -> Asker:
        """Return the asker of a new request."""
        self._requests += 1
        return Asker(nonce, self._requests)

    def hello(self, nonce: bytes, pid: int) -> None:
        """Open a session."""
        peer = Peer(7, pid, "train.py", pid)
        self.do(self.registry.hello, self.asker(nonce), peer, [], 0, self.now)

    def _answered(self, to: Asker, body: Any) -> None:
        self.answers.setdefault(to, []).append(body)
        for client in self.clients:
            if to == client.opened and client.state == "opening":
                self._opened(client, body)
            elif to == client.waiting and client.state == "open":
                client.waiting = None
                self._told(client, body)

    def _opened(self, client: Client, body: Any) -> None:
        if isinstance(body, ArraydError):
            client.state, client.error = "failed", body
            return
        fields = body.fields
        client.state, client.number, client.slots = "open", fields["consumer"], fields["slots"]
        client.rings = [(client.cursor, fields["segment"])]
        assert fields["first"] <= client.cursor
        client.head = max(client.cursor, fields["head"])
        self._attach(client, fields["segment"])

    def _attach(self, client: Client, segment: str) -> None:
        """Redeem and map a ring: not now, but after this event."""
        to = Asker(client.nonce, -1)
        self._feed(self.registry.redeem, to, segment, b"", self.now)
        self.mapped.add((segment, id(client)))

    def _told(self, client: Client, body: Any) -> None:
        if isinstance(body, ArraydError):
            client.state, client.error = "failed", body
            return
        assert isinstance(body, Result)
        if "end" in body.fields or "moved" in body.fields:
            client.state = "ended" if "end" in body.fields else "moved"
            return
        segment = body.fields.get("ring")
        if segment is not None and segment != client.rings[-1][1]:
            assert client.rings[-1][0] <= body.fields["first"] == client.head == client.cursor
            client.rings.append((body.fields["first"], segment))
            for _, old in client.rings[:-1]:
                self.unmap(old, id(client))
            self._attach(client, segment)
        client.head = body.fields["head"]
        assert client.head > client.cursor, "an answer that says nothing"
        assert client.head == self.head(client.ring_of(client.cursor), client.cursor)

    def open(
        self,
        nonce: bytes = b"a",
        what: StreamPlan | None = None,
        position: int = 0,
        limit: int | None = None,
        consumers: int = 1,
        grace: float = 30.0,
    ) -> Client:
        """Open a stream."""
        client = Client(nonce, what or plan(), position, limit, self.asker(nonce))
        self.clients.append(client)
        self.open_again(client, consumers, grace)
        return client

    def open_again(self, client: Client, consumers: int = 1, grace: float = 30.0) -> None:
        """Send the request to open once more."""
        where = (client.cursor, client.limit, consumers, grace)
        self.do(self.streams.open, client.opened, client.plan, *where, self.now)

    def wait(self, client: Client) -> Any:
        """Wait for more; return the answer, None: there is none yet."""
        client.asked = self.asker(client.nonce)
        return self.wait_again(client, client.asked)

    def wait_again(self, client: Client, to: Asker) -> Any:
        """Send a wait once more; return its latest answer."""
        client.waiting = to
        self.do(self.streams.wait, to, client.number, client.cursor, self.now)
        return (self.answers.get(to) or [None])[-1]

    def consume(self, client: Client, rows: int) -> None:
        """Go on by so many rows, of those that can be read, and say so."""
        assert client.waiting is None
        end = client.head if client.limit is None else min(client.head, client.limit)
        client.cursor = min(client.cursor + rows, end)
        to = self.asker(client.nonce)
        self.do(self.streams.advance, to, client.number, client.cursor, self.now)
        (body,) = self.answers[to]
        if isinstance(body, ArraydError):
            client.state, client.error = "failed", body
            return
        assert body == Result({})

    def go(self, client: Client, rows: int) -> None:
        """Let a client consume so many rows, one by one, and all readers read what they can."""
        end = client.cursor + rows
        while client.cursor < end and client.state == "open":
            for stream in list(self.readers):
                self.read_all(stream)
            if client.head <= client.cursor and client.waiting is None:
                self.wait(client)
            if client.waiting is not None or client.state != "open":
                return
            self.consume(client, 1)
            if client.cursor == client.limit:
                return

    def leave(self, client: Client, state: str = "closed") -> None:
        """Count a client as gone: its mappings end."""
        client.state, client.waiting = state, None
        for _, segment in client.rings:
            self.unmap(segment, id(client))

    def close(self, client: Client) -> None:
        """Close a stream."""
        self.leave(client)
        self.do(self.streams.close, client.nonce, client.number, self.now)

    def end(self, nonce: bytes) -> None:
        """Let a process die: as in the daemon, the streams hear of it first."""
        for client in self.clients:
            if client.nonce == nonce:
                self.leave(client)
        self.do(
            lambda now: self.streams.ended(nonce, now) + self.registry.ended(nonce, now), self.now
        )

    # ---- what happens by itself ----------------------------------------------------------

    def make(self, *, full: bool = False) -> None:
        """Let the oldest segment that is being made be there; or have the kernel no pages."""
        job, segment = next(iter(self.makes.items()))
        del self.makes[job]
        if full:
            self.do(self.registry.failed, job, NoRoom("full", needed=1), self.now)
            return
        self.named.add(segment)
        self.do(self.registry.made, job, self.now)

    def make_all(self) -> None:
        """Let all segments be there, and all readers be ready."""
        while self.makes:
            self.make()
        for stream, reader in list(self.readers.items()):
            if not reader.ready:
                self.ready(stream)

    def ready(self, stream: int) -> None:
        """Let a reader be ready."""
        self.readers[stream].ready = True
        self.do(self.streams.reader_ready, stream, self.now)

    def complete_window(self, stream: int, which: int = 0) -> None:
        """Let a reader complete a window."""
        reader = self.readers[stream]
        window = reader.windows.pop(which % len(reader.windows))
        slots = self.streams.table.streams[stream].plan.slots
        for position in range(window.start, window.stop):
            assert self.memory[window.segment][position % slots] is None, "written by two"
            self.memory[window.segment][position % slots] = position
            self.complete.setdefault(window.segment, set()).add(position)
        at = (window.generation, window.start, window.stop)
        stats = {"bytes_read": 3, "bytes_used": 2}
        self.do(self.streams.window_read, stream, *at, stats, self.now)

    def read_all(self, stream: int = 1) -> None:
        """Let a reader complete windows as long as there are any."""
        while stream in self.readers and self.readers[stream].windows:
            self.complete_window(stream)

    def fail(self, stream: int) -> ArraydError:
        """Let a reader die."""
        error = LoaderCrashed("the reader died")
        self.do(self.streams.stream_failed, stream, error, self.now)
        return error

    def wake_at(self) -> float:
        """When the core wants to wake."""
        return min(self.streams.wake_at(), self.registry.wake_at())

    def tick(self) -> None:
        """Ring the alarm as often as the core wants at this time."""
        for _ in range(6):
            self.do(self.registry.tick, self.now)
            self.do(self.streams.tick, self.now)
            if self.wake_at() > self.now:
                return
        raise AssertionError("the core wants to wake for ever")

    def sleep(self, seconds: float) -> None:
        """Let time pass, ringing the alarm whenever the core asked for it."""
        end = self.now + seconds
        while self.wake_at() <= end:
            self.now = max(self.now, self.wake_at())
            self.tick()
        self.now = end

    def granted(self, to: Asker) -> bool:
        """Say whether a request was answered with a block."""
        return any(isinstance(body, Grant) for body in self.answers.get(to, ()))
