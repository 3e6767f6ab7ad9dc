"""Streams by example: how they come up, who shares one, what is said of them."""

from __future__ import annotations

import pytest

from arrayd.errors import NoRoom, NoSuchStream, SpecMismatch
from arrayd_server.core.effects import (
    ReadWindow,
    Result,
    StartReader,
    StopReader,
)
from arrayd_server.core.model import Asker, Draft
from tests.support.core_files import SPEC
from tests.support.stream_clients import plan
from tests.support.stream_script import opened, stuck
from tests.support.stream_world import OWN, StreamWorld


@pytest.fixture
def world() -> StreamWorld:
    """Return a daemon with three sessions and room for three rings."""
    return StreamWorld()


def windows_of(world: StreamWorld) -> list[tuple[int, int]]:
    """Return the windows of the last event."""
    return [(w.start, w.stop) for w in world.seen if isinstance(w, ReadWindow)]


# ---- one consumer ----------------------------------------------------------------------------


def test_a_stream_comes_up_in_steps(world: StreamWorld) -> None:
    """The ring, its answer, the reader, the first window, the second."""
    client = world.open(what=plan(batch=2, slots=16))
    assert client.state == "opening"
    world.make()
    assert client.state == "open"
    assert [type(e) for e in world.seen if isinstance(e, StartReader)] == [StartReader]
    assert client.rings == [(0, "run-1")]
    assert windows_of(world) == []
    world.ready(1)
    assert windows_of(world) == [(0, 2), (2, 6)]
    assert world.wait(client) is None
    world.complete_window(1)
    assert (client.head, client.waiting) == (2, None)


def test_a_consumer_goes_through_two_epochs(world: StreamWorld) -> None:
    """Every position once, in order, to the limit; then the stream ends, and all is given up."""
    client = opened(world, limit=40, what=plan(rows=20, slots=8))
    world.go(client, 40)
    assert client.cursor == 40
    assert world.written["run-1"] == list(range(40))
    assert world.wait(client) == Result({"end": True})
    world.close(client)
    assert any(isinstance(e, StopReader) for e in world.seen)
    assert OWN not in world.registry.sessions
    assert world.registry.blocks.charged == 0


def test_windows_may_end_out_of_order(world: StreamWorld) -> None:
    """The head passes what is complete; an answer names no row that is still to come."""
    client = opened(world, what=plan(slots=32))
    world.wait(client)
    world.complete_window(1, which=1)
    assert client.waiting is not None
    world.complete_window(1)
    assert client.head == 3


def test_a_resident_share_comes_before_the_reader(world: StreamWorld) -> None:
    """The open is answered when the ring is there; the reader starts with both."""
    client = world.open(what=plan(share=True))
    world.make()
    assert client.state == "open"
    assert not world.readers
    world.make()
    assert world.readers[1].share == "run-2"
    world.close(client)
    assert world.registry.blocks.charged == 0


@pytest.mark.parametrize("budget", [12, 35])
def test_without_room_for_a_share_there_is_none(budget: int) -> None:
    """Be it the budget or the kernel that has none: the stream goes on, and the status says so."""
    world = StreamWorld(budget)
    client = world.open(what=plan(share=True))
    world.make()
    while world.makes:
        world.make(full=True)  # once more, and then no more
    world.sleep(1.0)
    assert world.readers[1].share is None
    assert world.streams.describe(world.now)[0]["share_bytes"] == 0
    world.close(client)


def test_without_room_for_a_ring_there_is_no_stream(world: StreamWorld) -> None:
    """Everybody who opens it gets the registry's error, and nothing is left."""
    world.do(world.registry.create, world.asker(b"c"), Draft(SPEC, 30, "put"), 1.0, world.now)
    clients = [world.open(b"a"), world.open(b"b")]
    assert len(world.streams.table.streams) == 1
    world.sleep(1.5)
    assert [type(client.error) for client in clients] == [NoRoom, NoRoom]
    assert not world.streams.table.streams
    assert OWN not in world.registry.sessions


def test_a_repeated_open_is_the_same(world: StreamWorld) -> None:
    """Before the answer and after it; the answer says where everything is now."""
    client = world.open()
    world.open_again(client)
    world.make_all()
    world.open_again(client)
    assert len(world.streams.table.consumers) == 1
    first, second = (body.fields for body in world.answers[client.opened])
    assert first == second
    assert first == {
        "stream": 1,
        "consumer": client.number,
        "segment": "run-1",
        "slots": 8,
        "first": 0,
        "head": 0,
        "generation": 0,
    }


def test_the_first_answer_counts_what_is_there(world: StreamWorld) -> None:
    """Who joins later need not wait for what has been read."""
    opened(world)
    world.read_all()
    assert opened(world, b"b").head == 8


@pytest.mark.parametrize("cursor", [1, 7])
def test_a_cursor_that_cannot_be(world: StreamWorld, cursor: int) -> None:
    """Backwards, or beyond what can be read: an error, and nothing changes."""
    client = opened(world)
    world.complete_window(1)
    world.complete_window(1)
    world.wait(client)
    world.consume(client, 2)
    for event in (world.streams.advance, world.streams.wait):
        to = world.asker(b"a")
        world.do(event, to, client.number, cursor, world.now)
        (error,) = world.answers[to]
        assert isinstance(error, SpecMismatch)
        assert f"cursor is {cursor}. It is at 2, and the rows below 3" in str(error)
    assert world.consumer(client).cursor == 2


def test_an_unknown_consumer(world: StreamWorld) -> None:
    """Of an earlier run, closed, or another session's: NoSuchStream; a close means nothing."""
    client = opened(world)
    for nonce, number in ((b"a", 1), (b"a", client.number + 1), (b"b", client.number)):
        for event in (world.streams.advance, world.streams.wait):
            to = world.asker(nonce)
            world.do(event, to, number, 0, world.now)
            assert isinstance(world.answers[to][0], NoSuchStream)
        assert world.streams.close(nonce, number, world.now) == []


def test_numbers_differ_from_run_to_run() -> None:
    """A consumer of an earlier run is nobody's in this one."""
    one, other = StreamWorld(), StreamWorld()
    other.streams = type(one.streams)(other.registry, bytes(range(7, 23)), 1)
    opened(one)
    first = other.streams.open(Asker(b"a", 1), plan(), 0, None, 1, 30.0, 0.0)
    assert first
    assert one.streams.table.consumers.keys().isdisjoint(other.streams.table.consumers)


# ---- sharing ---------------------------------------------------------------------------------


def test_equal_streams_are_read_once(world: StreamWorld) -> None:
    """Two consumers, one ring and one reader; the slots are free when both have passed."""
    one, two = opened(world, b"a"), opened(world, b"b")
    assert one.rings == two.rings
    world.read_all()
    world.go(one, 5)
    assert world.written["run-1"] == list(range(8))
    world.go(two, 3)
    assert world.written["run-1"] == list(range(11))


def test_other_keys_are_read_apart(world: StreamWorld) -> None:
    """Another seed, say, is another stream."""
    assert opened(world).rings != opened(world, b"b", what=plan("other")).rings


@pytest.mark.parametrize(("position", "joins"), [(3, False), (4, True), (12, True), (13, False)])
def test_who_may_join(world: StreamWorld, position: int, joins: bool) -> None:
    """Whoever needs no row that the ring has lost, and begins at no later one than it reads."""
    first = opened(world)
    world.go(first, 4)
    world.read_all()
    assert world.written["run-1"][-1] == 11
    late = opened(world, b"b", position=position)
    assert (late.rings[0][1] == first.rings[0][1]) is joins
    world.go(late, 4)
    assert late.cursor == (position + 4 if position != 12 else 12)


def test_all_streams_of_a_key_are_searched(world: StreamWorld) -> None:
    """Where the first does not have the position the second may."""
    opened(world)
    other = opened(world, b"b", position=100)
    assert opened(world, b"c", position=100).rings == other.rings


def test_a_barrier_waits_for_the_others(world: StreamWorld) -> None:
    """Rows are read at once, and nobody hears of them before all have joined."""
    one = opened(world, consumers=2)
    world.read_all()
    assert world.written["run-1"] == list(range(8))
    assert (one.head, world.wait(one)) == (0, None)
    world.sleep(5.0)
    two = opened(world, b"b", consumers=2)
    assert (one.head, two.head) == (8, 8)


def test_a_barrier_ends(world: StreamWorld) -> None:
    """After the grace time of the first open it goes on without the others."""
    one = opened(world, consumers=3, grace=7.0)
    world.read_all()
    world.wait(one)
    world.sleep(5.0)
    two = opened(world, b"b", consumers=3, grace=7.0)
    world.wait(two)
    world.sleep(1.5)
    assert one.head == 0
    world.sleep(1.0)
    assert (one.head, two.head) == (8, 8)
    assert [c["stalled"] for c in world.streams.describe(world.now)[0]["consumers"]] == [0, 0]


def test_what_is_said_of_a_stream(world: StreamWorld) -> None:
    """All numbers of a stream and its consumers, as plain data."""
    fast, slow = stuck(world)
    world.sleep(31.0)
    world.make()
    (said,) = world.streams.describe(world.now)
    consumers = said.pop("consumers")
    assert said == {
        "number": 1,
        "identity": "id:k",
        "state": "reading",
        "rows": 20,
        "slots": 8,
        "generation": 1,
        "head": 8,
        "planned": 11,
        "epoch": 0,
        "ring_bytes": 20,
        "share_bytes": 0,
        "bytes_read": 15,
        "bytes_used": 10,
        "age": 31.0,
    }
    assert consumers[0] == {
        "number": fast.number,
        "nonce": b"a",
        "cursor": 8,
        "limit": None,
        "lag": 0,
        "waits": 1,
        "stalled": 31.0,
        "idle": 31.0,
        "detached": False,
        "age": 31.0,
    }
    assert (consumers[1]["lag"], consumers[1]["number"]) == (8, slow.number)
