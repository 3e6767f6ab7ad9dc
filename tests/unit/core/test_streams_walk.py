"""Streams, walked at random in a fake world, which checks every row that a client may see.

Three sessions open streams of two keys, consume at their own pace, stop, come back, repeat
requests, say nonsense and die; rings come late or not at all; readers read out of order, late, and
fail; other blocks take the room. ``ARRAYD_TEST_WALKS=20000`` walks longer, from random seeds.

What must be so is kept by `StreamWorld` (the rows in the rings, written down position by position
without a look at how the core decides) and here: who is owed an answer, and that everybody who
wants rows gets them all in the end.
"""

from __future__ import annotations

import math

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from arrayd.errors import LoaderCrashed, NoRoom, NoSuchBlock, NoSuchStream, SpecMismatch
from arrayd_server.core.model import Asker, Draft
from arrayd_server.core.stream_model import StreamPlan
from tests.support.core_files import SPEC
from tests.support.core_model import one
from tests.support.core_strategies import WALKS, picks
from tests.support.stream_clients import Client, plan
from tests.support.stream_world import OWN, StreamWorld

sessions = st.sampled_from([b"a", b"b", b"c"])
plans = st.sampled_from(
    [
        plan("k"),
        plan("k", slots=5, batch=2),
        plan("k", share=True),
        plan("k", whole=True),
        plan("other", rows=3, slots=4, batch=3),
        plan("other", rows=50, slots=1),
        plan("other", rows=50, slots=9, batch=2, whole=True),
    ]
)
rarely = st.sampled_from([False, False, False, True])
graces = st.sampled_from([0.0, 5.0, 5.0, 30.0])


class StreamWalk(RuleBasedStateMachine):
    """Everything that can happen to streams, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = StreamWorld(budget=35)
        self.waits: list[tuple[Client, Asker]] = []
        self.blocks: list[Asker] = []

    # ---- who there is --------------------------------------------------------------------

    def _open(self, *, idle: bool = False) -> list[Client]:
        """Return the clients that have a stream; `idle`: those that do not wait."""
        clients = [c for c in self.world.clients if c.state == "open"]
        return [c for c in clients if c.waiting is None] if idle else clients

    def _busy(self) -> list[int]:
        return [stream for stream, reader in self.world.readers.items() if reader.windows]

    @initialize(
        what=plans,
        count=st.sampled_from([1, 2, 2, 3]),
        grace=graces,
        limit=st.sampled_from([None, 60]),
    )
    def start(self, what: StreamPlan, count: int, grace: float, limit: int | None) -> None:
        """Begin with some consumers of one stream."""
        for nonce in [b"a", b"b", b"c"][:count]:
            self.world.open(nonce, what, 0, limit, count, grace)
        self.world.make_all()

    # ---- clients -------------------------------------------------------------------------

    @rule(
        nonce=sessions,
        what=plans,
        at=st.sampled_from([0, 0, 0, 3, 7, 100]),
        length=st.sampled_from([None, None, 0, 9, 30]),
        consumers=st.sampled_from([1, 1, 1, 2]),
        grace=graces,
        near=st.booleans(),
        pick=picks,
    )
    def open(
        self,
        nonce: bytes,
        what: StreamPlan,
        at: int,
        length: int | None,
        consumers: int,
        grace: float,
        near: bool,
        pick: int,
    ) -> None:
        """Open a stream: somewhere, or where somebody is."""
        if near and self._open():
            at = one(self._open(), pick).cursor
        limit = None if length is None else at + length
        self.world.open(nonce, what, at, limit, consumers, grace)

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks)
    def open_again(self, pick: int) -> None:
        """Send an open again: it makes no second consumer."""
        clients = [c for c in self.world.clients[-6:] if c.state in ("opening", "open")]
        if not clients:
            return
        client = one(clients, pick)
        before = len(self.world.streams.table.consumers)
        if client.state == "open" and client.cursor != client.rings[0][0]:
            return  # it has heard the answer
        self.world.open_again(client)
        assert len(self.world.streams.table.consumers) == before

    @precondition(lambda self: self._open())
    @rule(
        pick=picks, rows=st.sampled_from([1, 4, 9, 40]), seconds=st.sampled_from([0.0, 6.0, 31.0])
    )
    def go(self, pick: int, rows: int, seconds: float) -> None:
        """Let one go on while the others stand still, and then time pass."""
        self.world.go(one(self._open(), pick), rows)
        self.world.sleep(seconds)
        self.world.make_all()

    @precondition(lambda self: len(self._open()) > 1)
    @rule(pick=picks, rounds=st.integers(1, 3))
    def stand_still(self, pick: int, rounds: int) -> None:
        """Let one stand still while all others go on, as far as they get."""
        slow = one(self._open(), pick)
        for _ in range(rounds):
            for client in self._open():
                if client is not slow:
                    self.world.go(client, 12)
            self.world.sleep(31.0)
            self.world.make_all()

    @precondition(lambda self: self._open(idle=True))
    @rule(pick=picks, rows=st.sampled_from([0, 1, 2, 5, 50]))
    def consume(self, pick: int, rows: int) -> None:
        """Go on."""
        self.world.consume(one(self._open(idle=True), pick), rows)

    @precondition(lambda self: self._open(idle=True))
    @rule(pick=picks)
    def wait(self, pick: int) -> None:
        """Wait for more, having used up what there is."""
        client = one(self._open(idle=True), pick)
        end = math.inf if client.limit is None else client.limit
        client.cursor = int(min(client.head, end)) if client.head > client.cursor else client.cursor
        self._wait(client)

    def _wait(self, client: Client) -> None:
        self.world.wait(client)
        self.waits.append((client, client.asked))

    @precondition(lambda self: self.waits)
    @rule(pick=picks)
    def wait_again(self, pick: int) -> None:
        """Send a wait again, answered or not."""
        client, to = one(self.waits[-6:], pick)
        if client.state == "open" and (client.waiting or to) == to:
            self.world.wait_again(client, to)

    @precondition(lambda self: self._open(idle=True))
    @rule(pick=picks, by=st.sampled_from([-1, 1, 1000]), waits=st.booleans())
    def nonsense(self, pick: int, by: int, waits: bool) -> None:
        """Say that a cursor is where it cannot be."""
        client, streams = one(self._open(idle=True), pick), self.world.streams
        known = self.world.consumer(client)
        cursor = known.cursor - 1 if by < 0 else max(known.cursor, known.ring.windows.head) + by
        to = self.world.asker(client.nonce)
        event = streams.wait if waits else streams.advance
        self.world.do(event, to, client.number, cursor, self.world.now)
        assert isinstance(self.world.answers[to][0], SpecMismatch | LoaderCrashed | NoSuchBlock)

    @rule(nonce=sessions, pick=picks)
    def stranger(self, nonce: bytes, pick: int) -> None:
        """Speak of a consumer of somebody else, or of one that is gone."""
        others = [c.number for c in self.world.clients if c.nonce != nonce or c.state == "closed"]
        number, to = one([5, *others], pick), self.world.asker(nonce)
        self.world.do(self.world.streams.wait, to, number, 0, self.world.now)
        assert isinstance(self.world.answers[to][0], NoSuchStream)
        assert not self.world.streams.close(nonce, number, self.world.now)

    @precondition(lambda self: self._open())
    @rule(pick=picks, really=rarely)
    def close(self, pick: int, really: bool) -> None:
        """Close a stream, perhaps amid a wait."""
        if not really:
            return
        self.world.close(one(self._open(), pick))

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks, really=rarely)
    def cancel(self, pick: int, really: bool) -> None:
        """Give up waiting, or opening."""
        clients = [c for c in self.world.clients[-6:] if c.state == "opening" or c.waiting]
        if not clients or not really:
            return
        client = one(clients, pick)
        to, client.waiting = client.waiting or client.opened, None
        if to == client.opened:
            self.world.leave(client)
        self.world.do(self.world.streams.cancel, client.nonce, to.request, self.world.now)

    @rule(nonce=sessions, really=rarely)
    def die(self, nonce: bytes, really: bool) -> None:
        """Let a process die, and another begin."""
        if not really:
            return
        self.world.end(nonce)
        assert not any(to.nonce == nonce for to in self.world.streams.table.opened)
        self.world.hello(nonce, 20)

    # ---- the daemon ----------------------------------------------------------------------

    @precondition(lambda self: self.world.makes)
    @rule(full=st.sampled_from([False, False, False, True]))
    def make(self, full: bool) -> None:
        """Let a segment be made, or not for want of pages."""
        self.world.make(full=full)

    @precondition(lambda self: any(not r.ready for r in self.world.readers.values()))
    @rule()
    def ready(self) -> None:
        """Let a reader have started."""
        self.world.ready(next(n for n, r in self.world.readers.items() if not r.ready))

    @rule()
    def come_up(self) -> None:
        """Let all that is being made be there."""
        self.world.make_all()

    @precondition(lambda self: self._busy())
    @rule(pick=picks, which=st.integers(0, 1))
    def read(self, pick: int, which: int) -> None:
        """Let a window be read."""
        self.world.complete_window(one(self._busy(), pick), which)

    @precondition(lambda self: self._busy())
    @rule(pick=picks)
    def read_all(self, pick: int) -> None:
        """Let a reader read all that it is asked for."""
        self.world.read_all(one(self._busy(), pick))

    @precondition(lambda self: self.world.readers)
    @rule(pick=picks, really=rarely)
    def fail(self, pick: int, really: bool) -> None:
        """Let a reader die: who waits is told, who asks later too."""
        if not really:
            return
        stream = one([*self.world.readers], pick)
        waiting = [c for c in self._open() if c.waiting and self._of(c) == stream]
        error = self.world.fail(stream)
        assert all(client.error is error for client in waiting)

    def _of(self, client: Client) -> int:
        return int(self.world.consumer(client).stream)

    @rule(size=st.sampled_from([5, 20, 30]))
    def crowd(self, size: int) -> None:
        """Let another block take room."""
        to = self.world.asker(b"c")
        self.world.do(self.world.registry.create, to, Draft(SPEC, size, "x"), 1.0, self.world.now)
        self.blocks.append(to)

    @precondition(lambda self: self.blocks)
    @rule()
    def give_room(self) -> None:
        """Let the other blocks go."""
        for to in self.blocks:
            self.world.do(self.world.registry.cancel, to.nonce, to.request, self.world.now)
        self.blocks.clear()

    @precondition(lambda self: self.world.streams.table.asked)
    @rule(pick=picks, really=rarely)
    def lose(self, pick: int, really: bool) -> None:
        """Let somebody remove the file of a ring for good."""
        own = self.world.registry.sessions[OWN].holds
        if own and really:
            segment = one(sorted(own), pick)
            self.world.do(self.world.registry.segment_removed, segment, self.world.now)

    @rule(seconds=st.sampled_from([0.1, 4.0, 6.0, 40.0]))
    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.world.sleep(seconds)

    @rule(seconds=st.sampled_from([3.0, 50.0]))
    def oversleep(self, seconds: float) -> None:
        """Let time pass while the daemon is too busy to look at the clock."""
        self.world.now += seconds

    # ---- the end -------------------------------------------------------------------------

    def teardown(self) -> None:
        """Expect that everybody who goes on gets all rows, and that nothing is left."""
        self.give_room()
        self.world.make_all()
        self.world.sleep(61.0)  # all barriers are over
        self.world.make_all()
        for client in self.world.clients:
            assert client.state != "opening", "an open without an answer"
            assert client.state != "failed" or isinstance(
                client.error, NoRoom | LoaderCrashed | NoSuchBlock
            )
        self._all_go_on(self._open())
        for nonce in (b"a", b"b", b"c"):
            self.world.end(nonce)
        assert not self.world.readers
        assert not self.world.streams.table.streams
        assert OWN not in self.world.registry.sessions
        assert self.world.registry.blocks.charged == 0
        assert self.world.wake_at() == math.inf

    def _all_go_on(self, clients: list[Client]) -> None:
        """Let each client go on for more rows than a ring has, or to its end.

        Who is through stands still, a ring behind the others at most. That is too far where windows
        are whole and there is no room for a second ring: there all go on to the same position.
        """
        ends = {id(c): c.cursor + 20 for c in clients}
        for shared in self.world.streams.table.streams.values():
            if shared.plan.whole:
                together = [c for c in clients if c.number in shared.consumers]
                last = max((ends[id(c)] for c in together), default=0)
                ends |= {id(c): last for c in together}
        for _ in range(400):
            going = [c for c in clients if c.state == "open" and c.cursor < ends[id(c)]]
            if not going:
                return
            for client in going:
                if client.state == "open" and client.waiting is None:
                    self.world.consume(client, 3)
                    if client.head <= client.cursor or client.cursor == client.limit:
                        self.world.wait(client)
            self.world.make_all()
            for stream in self._busy():
                self.world.read_all(stream)
            if all(c.waiting for c in going):
                self.world.sleep(31.0)  # those who are through stand still
        raise AssertionError("somebody gets nothing any more")


TestStreamWalk = StreamWalk.TestCase
TestStreamWalk.settings = (
    WALKS if WALKS.max_examples > 200 else settings(WALKS, max_examples=60, stateful_step_count=40)
)
