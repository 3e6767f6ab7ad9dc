"""The core by example: the kernel has no pages for a block, though it had when there was room."""

from __future__ import annotations

from typing import Any

import pytest

from arrayd.errors import LoadError, NoRoom
from arrayd.wire.grant import Grant
from arrayd_server.core.effects import Fill, Make, Probe, Unlink
from arrayd_server.core.model import Asker, State
from tests.support.core_files import File
from tests.support.core_kernel import OTHERS
from tests.support.core_script import LARGE, MEDIUM, SMALL, World


@pytest.fixture
def world() -> World:
    """Return a daemon with a budget of 100 bytes in a /dev/shm of as many."""
    return World(capacity=100)


def begun(world: World, timeout: float = 1.0) -> Asker:
    """Begin a load of 60 bytes, for which there is room until somebody else takes all."""
    to = world.get(b"a", LARGE, timeout)
    number = max(world.work)
    world.finish(number)
    assert isinstance(world.work[number], Fill)
    world.crowd(1000)
    return to


def test_idle_blocks_go_for_it(world: World) -> None:
    """The load is tried again with the pages of what nobody uses; its asker need not know."""
    idle = world.cache(MEDIUM)
    to = begun(world)
    world.finish(2)
    assert isinstance(world.work[2], Probe)
    world.crowd(30)
    world.finish(2)
    assert not world.work
    assert world.answer(to) is None
    world.free()  # of the first try
    assert world.state(idle) is State.UNLINKED
    world.free_all()
    world.work_off()
    grant = world.answer(to)
    assert isinstance(grant, Grant)
    assert grant.segment == "run-3"
    assert world.registry.counters.failures == 0


def test_half_a_load_is_forgotten(world: World) -> None:
    """What the first try has filled is given back, and does not count for the second."""
    to = begun(world)
    world.crowd(10)
    world.finish(1, "progress")
    assert world.registry.jobs.unfilled == 45
    world.crowd(1000)
    world.finish(1, "progress")
    assert [e for e in world.seen if isinstance(e, Unlink)] == [Unlink("run-1", force=True)]
    assert world.registry.jobs.unfilled == 0
    world.crowd(10)
    world.free_all()
    world.finish(1)
    assert isinstance(world.work[1], Fill)
    assert world.registry.jobs.unfilled == 60
    world.work_off()
    assert isinstance(world.answer(to), Grant)


def test_without_room_it_waits_as_long_as_its_asker(world: World) -> None:
    """Then the answer is that of any load that finds no room."""
    to = begun(world, timeout=10.0)
    world.finish(1)
    world.finish(1)
    world.free_all()
    world.sleep(9.0)
    assert world.answer(to) is None
    world.sleep(2.0)
    error = world.answer(to)
    assert isinstance(error, NoRoom)
    assert "f60 needs 60 B; /dev/shm gives 0 B" in str(error)
    assert not world.registry.jobs.table


def test_room_that_comes_back_is_taken(world: World) -> None:
    """As soon as anything happens, for nothing announces what other programs give back."""
    to = begun(world, timeout=10.0)
    world.finish(1)
    world.finish(1)
    world.free_all()
    world.kernel.pages.pop(OTHERS)
    world.load(b"b", SMALL)
    world.work_off()
    assert isinstance(world.answer(to), Grant)


def test_it_is_tried_twice(world: World) -> None:
    """A kernel that says room and has none is not asked for ever."""
    to = begun(world)
    world.finish(1)
    world.crowd(0)
    world.finish(1)
    world.free_all()
    assert isinstance(world.work[1], Fill)
    world.crowd(1000)
    world.finish(1)
    error = world.answer(to)
    assert isinstance(error, NoRoom)
    assert str(error) == "full"
    assert not world.registry.jobs.table


def test_a_block_to_be_written_too(world: World) -> None:
    """It needs no second look at a file; its writer hears of it when it is there."""
    world.cache(MEDIUM)
    to = world.create(b"b", 60, "n")
    world.crowd(30)
    world.finish(2)
    assert world.answer(to) is None
    while world.closing:
        assert not world.work
        world.free()
    assert isinstance(world.work[2], Make)
    world.work_off()
    assert isinstance(world.answer(to), Grant)


@pytest.mark.parametrize("leave", ["cancel", "end"])
def test_who_leaves_takes_the_second_try_along(world: World, leave: str) -> None:
    """Nothing goes on for nobody."""
    to = begun(world)
    world.finish(1)
    world.cancel(to) if leave == "cancel" else world.end(b"a")
    assert not world.work
    assert not world.registry.jobs.table
    world.free_all()
    assert world.registry.blocks.charged == 0


@pytest.mark.parametrize(("error", "tried"), [(NoRoom("full"), True), (LoadError("x"), False)])
def test_other_failures_are_told_at_once(world: World, error: Any, tried: bool) -> None:
    """A file that cannot be read is not read again."""
    to = begun(world)
    del world.work[1]
    world.do(world.registry.failed, 1, error, world.now)
    assert (world.answer(to) is None) == tried
    assert (1 in world.registry.jobs.table) == tried


def test_whoever_asks_meanwhile_joins(world: World) -> None:
    """One load serves both, as ever."""
    to = begun(world)
    world.finish(1)
    other = world.get(b"b", File("f60", 60))
    assert list(world.work) == [1]
    world.crowd(0)
    world.work_off()
    world.free_all()
    world.work_off()
    assert {world.answer(to).segment, world.answer(other).segment} == {"run-2"}
