"""Streams by example: windows, sharing, pace, detaching, death, memory."""

from __future__ import annotations

import math
from typing import Any

import pytest

from arrayd.errors import LoaderCrashed, NoRoom, NoSuchBlock, NoSuchStream, SpecMismatch
from arrayd_server.core.effects import (
    ChangeRing,
    ReadWindow,
    Reply,
    Result,
    StartReader,
    StopReader,
    Unlink,
)
from arrayd_server.core.holds import STALE_AFTER
from arrayd_server.core.model import Asker, Draft
from arrayd_server.core.windows import Windows
from tests.support.core_files import SPEC
from tests.support.stream_world import OWN, Client, StreamWorld, plan


@pytest.fixture
def world() -> StreamWorld:
    """Return a daemon with three sessions and room for three rings."""
    return StreamWorld()


def opened(world: StreamWorld, nonce: bytes = b"a", **how: Any) -> Client:
    """Open a stream, and let its ring and reader come up."""
    client = world.open(nonce, **how)
    world.make_all()
    assert client.state == "open", client.error
    return client


def windows_of(world: StreamWorld) -> list[tuple[int, int]]:
    """Return the windows of the last event."""
    return [(w.start, w.stop) for w in world.seen if isinstance(w, ReadWindow)]


# ---- windows ---------------------------------------------------------------------------------


def test_windows_grow_and_keep_within_an_epoch() -> None:
    """One batch, then twice as much, up to a quarter of the ring; an epoch's end cuts."""
    windows, made = Windows(rows=50, slots=64, batch=3, first=40), []
    for _ in range(7):
        window = windows.plan(low=windows.head, limit=math.inf)
        assert window is not None
        made.append(window)
        assert windows.read(*window)
    assert made == [(40, 43), (43, 49), (49, 50), (50, 66), (66, 82), (82, 98), (98, 100)]


def test_two_windows_are_in_flight() -> None:
    """The third is planned when one of them has been read."""
    windows = Windows(rows=100, slots=16, batch=1, first=0)
    assert [windows.plan(0, math.inf) for _ in range(3)] == [(0, 1), (1, 3), None]
    assert windows.read(1, 3)
    assert (windows.head, windows.planned) == (0, 3)
    assert windows.plan(0, math.inf) == (3, 7)
    assert windows.read(0, 1)
    assert windows.head == 3


def test_a_small_window_waits_for_the_one_before() -> None:
    """Where few slots are free the second window would be small: it is planned later, larger."""
    windows = Windows(rows=1000, slots=16, batch=4, first=0)
    for start in (0, 4, 8):
        assert windows.plan(0, math.inf) == (start, start + 4)
        assert windows.read(start, start + 4)
    assert windows.plan(0, math.inf) == (12, 16)
    assert windows.plan(1, math.inf) is None
    assert windows.read(12, 16)
    assert windows.plan(1, math.inf) == (16, 17)


def test_windows_stop_at_the_limit() -> None:
    """What nobody wants is not read; a window is read once, and no other one at all."""
    windows = Windows(rows=100, slots=64, batch=16, first=0)
    assert windows.plan(0, 10) == (0, 10)
    assert windows.plan(0, 10) is None
    assert not windows.read(0, 9)
    assert windows.read(0, 10)
    assert not windows.read(0, 10)


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


# ---- pace and detaching ----------------------------------------------------------------------


def stuck(world: StreamWorld, grace: float = 30.0) -> tuple[Client, Client]:
    """Return a consumer that waits and one that holds it up since now."""
    fast, slow = opened(world, b"a", grace=grace), opened(world, b"b", grace=grace)
    world.go(fast, 9)
    assert (fast.cursor, fast.waiting is not None, slow.cursor) == (8, True, 0)
    return fast, slow


def test_a_slow_consumer_sets_the_pace(world: StreamWorld) -> None:
    """Any movement starts its grace time anew; the fast one gets what it frees."""
    fast, slow = stuck(world)
    for step in range(1, 4):
        world.sleep(29.0)
        world.go(slow, 1)
        world.read_all()
        assert fast.head == 8 + step
        world.go(fast, 2)
    assert len(world.streams.table.asked) == 1
    assert fast.rings == slow.rings


def test_others_go_on_in_a_new_ring(world: StreamWorld) -> None:
    """After the grace time; what the slow one may read stays as it is."""
    fast, slow = stuck(world)
    world.sleep(29.9)
    assert not world.makes
    world.sleep(0.2)
    world.make()
    assert [e.generation for e in world.seen if isinstance(e, ChangeRing)] == [1]
    world.read_all()
    assert fast.rings == [(0, "run-1"), (8, "run-2")]
    world.go(fast, 20)
    assert fast.cursor == 16
    world.go(slow, 8)
    assert (slow.cursor, slow.rings) == (8, [(0, "run-1")])
    assert world.wait(slow).fields == {"head": 16, "ring": "run-2", "first": 8}
    assert any(isinstance(e, Unlink) and e.segment == "run-1" for e in world.seen)


def test_who_stands_still_is_detached(world: StreamWorld) -> None:
    """When the new ring is stuck as well: nobody waits for it, and it opens again later."""
    fast, slow = stuck(world)
    world.sleep(31.0)
    world.make()
    world.go(fast, 9)
    assert (fast.cursor, fast.waiting is not None) == (16, True)
    assert world.wake_at() <= world.now
    world.tick()
    assert world.consumer(slow).detached
    world.read_all()
    world.go(fast, 20)
    assert fast.cursor == 36
    world.wait(slow)
    world.go(slow, 8)
    world.wait(slow)
    assert slow.state == "moved"
    assert slow.number not in world.streams.table.consumers
    again = opened(world, b"b", position=slow.cursor)
    world.go(again, 10)
    assert again.cursor == 18


def test_a_ring_that_is_not_needed_after_all(world: StreamWorld) -> None:
    """If the slow one moves while the new ring is made, that is given up."""
    fast, slow = stuck(world)
    world.sleep(31.0)
    assert len(world.makes) == 1
    world.go(slow, 1)
    assert not world.makes
    world.read_all()
    assert fast.head == 9
    assert world.registry.blocks.charged == 10


def test_without_room_for_a_new_ring_the_group_waits() -> None:
    """It is tried again after another grace time."""
    world = StreamWorld(budget=15)
    fast, slow = stuck(world)
    world.sleep(45.0)
    assert (fast.head, len(world.streams.table.asked)) == (8, 1)
    world.registry.blocks.budget = 35
    world.sleep(10.0)
    assert not world.makes
    world.sleep(10.0)
    world.make()
    world.go(fast, 20)
    assert fast.cursor == 16
    assert slow.rings == [(0, "run-1")]


def test_endless_grace_is_pace_for_ever(world: StreamWorld) -> None:
    """No time is set, and nothing happens."""
    fast, _ = stuck(world, grace=math.inf)
    assert world.wake_at() == math.inf
    world.sleep(10_000.0)
    assert fast.head == 8


def test_a_finished_consumer_holds_nobody_up(world: StreamWorld) -> None:
    """Who has reached its limit needs no slots, closed or not."""
    one, two = opened(world, b"a", limit=3), opened(world, b"b")
    world.go(one, 3)
    world.wait(one)
    assert one.state == "ended"
    world.go(two, 30)
    assert two.cursor == 30


# ---- ends and errors -------------------------------------------------------------------------


def test_a_dead_consumer_is_gone_at_once(world: StreamWorld) -> None:
    """The others do not wait for its grace time; the last one's end ends the stream."""
    fast, _ = stuck(world)
    world.end(b"b")
    world.go(fast, 20)
    assert fast.cursor == 28
    world.end(b"a")
    assert world.registry.blocks.charged == 0
    assert not world.readers


def test_only_detached_ones_are_left(world: StreamWorld) -> None:
    """Nobody reads for them, and what they have they may finish."""
    fast, slow = stuck(world)
    world.sleep(31.0)
    world.make()
    world.go(fast, 9)
    world.tick()
    world.close(fast)
    assert not world.readers
    assert world.streams.describe(world.now)[0]["state"] == "old rings only"
    assert opened(world, b"c").rings[0][1] not in ("run-1", "run-2")
    world.wait(slow)
    world.go(slow, 8)
    world.wait(slow)
    assert slow.state == "moved"
    assert len(world.streams.table.streams) == 1


def test_an_error_of_the_reader_is_everybodys(world: StreamWorld) -> None:
    """Who waits gets it, and who asks later; who opens again starts anew."""
    one, two = opened(world, b"a"), opened(world, b"b")
    world.wait(one)
    error = world.fail(1)
    assert one.error is error
    assert world.wait(two) is error
    assert any(isinstance(e, Reply) for e in world.seen)
    assert not world.readers
    assert world.registry.blocks.table["run-1"].state.value == "leaving"
    again = opened(world, b"c")
    assert again.rings == [(0, "run-2")]
    for client in (one, two, again):
        world.close(client)
    assert world.registry.blocks.charged == 0


def test_a_reader_that_does_not_start(world: StreamWorld) -> None:
    """Who asks for rows gets the error, though the open was answered."""
    client = world.open()
    world.make()
    world.fail(1)
    assert isinstance(world.wait(client), LoaderCrashed)


def test_a_cancelled_open_leaves_nothing(world: StreamWorld) -> None:
    """Be it answered or not."""
    for steps in (0, 1):
        client = world.open()
        if steps:
            world.make_all()
        world.leave(client)
        world.do(world.streams.cancel, b"a", client.opened.request, world.now)
        assert not world.streams.table.streams
        assert world.registry.blocks.charged == 0


def test_a_cancelled_wait_is_not_answered(world: StreamWorld) -> None:
    """The consumer stays, and may wait again."""
    client = opened(world)
    world.wait(client)
    to, client.waiting = client.waiting, None
    assert to is not None
    world.do(world.streams.cancel, b"a", to.request, world.now)
    world.read_all()
    assert to not in world.answers
    world.wait(client)
    assert client.head == 8


def test_a_later_wait_replaces_the_earlier_one(world: StreamWorld) -> None:
    """One of them is answered, and the time counts from the first."""
    client = opened(world)
    world.wait(client)
    first = client.waiting
    world.sleep(2.0)
    world.wait(client)
    world.sleep(1.0)
    world.read_all()
    assert first not in world.answers
    (said,) = world.streams.describe(world.now)[0]["consumers"]
    assert (said["waits"], said["stalled"]) == (1, 3.0)


def test_a_repeated_wait_names_the_new_ring_again(world: StreamWorld) -> None:
    """The answer may have been lost; once the cursor has moved there the client knows."""
    fast, _ = stuck(world)
    to = fast.waiting
    assert to is not None
    world.sleep(31.0)
    world.make()
    world.complete_window(1)
    news = {"head": 9, "ring": "run-2", "first": 8}
    assert world.answers[to][-1].fields == news
    assert world.wait_again(fast, to).fields == {**news, "head": fast.head}
    world.consume(fast, 1)
    world.read_all()
    assert world.wait(fast).fields == {"head": 16}


# ---- memory ----------------------------------------------------------------------------------


def test_a_lost_ring_ends_its_stream(world: StreamWorld) -> None:
    """Somebody has removed its file from /dev/shm for good: a typed error."""
    client = opened(world)
    world.do(world.registry.segment_removed, "run-1", world.now)
    assert isinstance(world.wait(client), NoSuchBlock)
    world.close(client)
    assert not world.streams.table.streams


def test_the_daemons_hold_is_never_stale(world: StreamWorld) -> None:
    """Before its reader maps a ring nobody does; a job that wants room does not get that."""
    world.open()
    world.make()
    world.mapped.clear()
    world.sleep(STALE_AFTER + 1)
    world.do(world.registry.create, world.asker(b"c"), Draft(SPEC, 30, "put"), 1.0, world.now)
    world.sleep(2.0)
    assert "run-1" in world.registry.blocks.table
    assert world.registry.blocks.table["run-1"].usable


def test_word_that_comes_too_late(world: StreamWorld) -> None:
    """Of a stream, window or request that is over: no effects."""
    client = opened(world)
    world.close(client)
    s, now = world.streams, world.now
    late = [
        s.window_read(1, 0, 0, 1, {}, now),
        s.reader_ready(1, now),
        s.stream_failed(1, LoaderCrashed("late"), now),
        s.ring_made(1, "run-1", now),
        s.ring_failed(1, NoRoom("late"), now),
        s.close(b"a", client.number, now),
        s.cancel(b"a", client.opened.request, now),
        s.ended(b"a", now),
    ]
    assert not any(late)


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
