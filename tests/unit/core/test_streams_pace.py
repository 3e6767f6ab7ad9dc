"""Streams by example: who is waited for, and for how long."""

from __future__ import annotations

import math

import pytest

from arrayd_server.core.effects import (
    ChangeRing,
    Unlink,
)
from tests.support.stream_script import opened, stuck
from tests.support.stream_world import StreamWorld


@pytest.fixture
def world() -> StreamWorld:
    """Return a daemon with three sessions and room for three rings."""
    return StreamWorld()


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


def test_a_finished_consumer_keeps_its_ring(world: StreamWorld) -> None:
    """Until it closes, however many rings the others have had since."""
    done = opened(world, b"c", limit=0)
    fast, _ = stuck(world)
    for generation in (1, 2):
        world.sleep(31.0)
        world.make_all()
        assert world.streams.table.streams[1].ring.number == generation
        world.go(fast, 30)
        world.tick()  # nobody waits for the slow one any more
        world.go(fast, 30)
        opened(world, b"b", position=fast.cursor)
        world.go(fast, 30)
    assert world.wait(done).fields == {"end": True}
    assert done.rings == [(0, "run-1")]
    world.close(done)
