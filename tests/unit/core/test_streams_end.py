"""Streams by example: death, errors, requests given up or repeated, memory that is lost."""

from __future__ import annotations

import pytest

from arrayd.errors import LoaderCrashed, NoRoom, NoSuchBlock
from arrayd_server.core.effects import (
    Reply,
)
from arrayd_server.core.holds import STALE_AFTER
from arrayd_server.core.model import Draft
from tests.support.core_files import SPEC
from tests.support.stream_script import opened, stuck
from tests.support.stream_world import StreamWorld


@pytest.fixture
def world() -> StreamWorld:
    """Return a daemon with three sessions and room for three rings."""
    return StreamWorld()


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
