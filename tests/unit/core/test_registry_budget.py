"""The core by example: another budget while blocks are there and jobs wait."""

from __future__ import annotations

import math

import pytest

from arrayd.errors import NoRoom
from arrayd.wire.grant import Grant
from arrayd_server.core import bounds
from arrayd_server.core.effects import Fill, Unlink
from arrayd_server.core.model import State
from tests.support.core_files import File
from tests.support.core_script import LARGE, MEDIUM, SMALL, World


@pytest.fixture
def world() -> World:
    """Return a daemon with two sessions and a budget of 100 bytes."""
    return World()


def change(world: World, budget: int) -> None:
    """Let the budget be another."""
    world.naive.floor = sum(world.naive.sizes.values())
    world.do(world.registry.admission.change_budget, budget, bounds.GIVEN, world.now)


def unlinked(world: World) -> list[str]:
    """Return what the last event had unlinked."""
    return [effect.segment for effect in world.seen if isinstance(effect, Unlink)]


def test_what_is_beyond_goes_the_oldest_first(world: World) -> None:
    """As many idle blocks as are too many, and no more."""
    old, new, newest = (world.cache(File(name, 30)) for name in "xyz")
    change(world, 60)
    assert unlinked(world) == [old]
    change(world, 60)
    assert unlinked(world) == []  # it is on its way
    world.free_all()
    assert list(world.registry.blocks.idle) == [new, newest]


def test_all_that_is_idle_goes_where_that_is_not_enough(world: World) -> None:
    """Held blocks stay, whatever the budget; and kept and pinned ones, as for any other room."""
    held = world.load(b"b", LARGE)
    pinned = world.cache(File("p", 10), pin=math.inf)
    idle = world.cache(SMALL)
    change(world, 20)
    assert unlinked(world) == [idle]
    world.free_all()
    assert (world.state(held.segment), world.state(pinned)) == (State.SEALED, State.SEALED)
    assert world.registry.blocks.charged == 70


def test_what_is_held_goes_when_it_is_released(world: World) -> None:
    """The memory goes down with the use, also where no job waits for it."""
    first, second = (world.load(b"b", File(name, 40)) for name in "xy")
    change(world, 50)
    assert unlinked(world) == []
    world.release(b"b", first)
    assert unlinked(world) == [first.segment]
    world.free_all()
    world.release(b"b", second)
    assert unlinked(world) == []


def test_nothing_new_comes_until_there_is_room(world: World) -> None:
    """What is there may exceed the budget; a load must fit beside it."""
    held = world.load(b"b", LARGE)
    change(world, 50)
    to = world.get(b"a", MEDIUM, timeout=math.inf)
    world.finish(2)
    assert not world.work
    world.release(b"b", held)
    world.free_all()
    world.work_off()
    assert isinstance(world.answer(to), Grant)


def test_a_job_that_can_never_fit_fails(world: World) -> None:
    """It waits for room; where the whole budget is too small it is told at once."""
    world.load(b"b", LARGE)
    small = world.get(b"a", MEDIUM, timeout=math.inf)
    large = world.get(b"a", File("x", 90), timeout=math.inf)
    world.finish(2)
    world.finish(3)
    change(world, 80)
    error = world.answer(large)
    assert isinstance(error, NoRoom)
    assert error.details["budget"] == 80
    assert small not in world.answers


def test_a_larger_one_lets_jobs_start(world: World) -> None:
    """At once, without any other event."""
    world.load(b"b", LARGE)
    world.get(b"a", File("x", 90), timeout=math.inf)
    world.finish(2)
    assert not world.work
    change(world, 150)
    assert isinstance(world.work[2], Fill)


def test_spares_are_at_most_half_of_it(world: World) -> None:
    """They go first, also where nothing else has to."""
    spares = world.registry.holds.spares
    spares.seconds, spares.least = 30.0, 10
    world.cache(File("a", 40))
    world.evict()
    change(world, 60)
    assert world.registry.blocks.spare_bytes <= 30
