"""The core by example: blocks that clients write and publish, and their names."""

from __future__ import annotations

import pytest

from arrayd.errors import NameTaken, NoSuchBlock, NotOwner, NotSealed
from arrayd.wire.grant import Grant
from arrayd_server.core.holds import STALE_AFTER
from arrayd_server.core.model import Draft, State
from tests.support.core_files import NAMES, SPEC, File, wanted
from tests.support.core_script import World


@pytest.fixture
def world() -> World:
    """Return a daemon with two sessions."""
    return World()


def test_create_and_seal(world: World) -> None:
    """The creator gets an unsealed block, and after the seal the sealed one."""
    grant = world.write(b"a")
    assert not grant.sealed
    to = world.seal(b"a", grant.segment)
    world.work_off()
    assert world.answer(to).sealed


def test_repeated_create_and_seal_are_the_same_block(world: World) -> None:
    """A create sent again makes no second block; a seal sent again grants the sealed one."""
    draft = Draft(SPEC, 25, "put")
    to = world.asker(b"a", draft)
    for _ in range(2):
        world.do(world.registry.create, to, draft, 1.0, world.now)
    world.work_off()
    world.naive.ask(to, draft)
    world.do(world.registry.create, to, draft, 1.0, world.now)
    assert [grant.segment for grant in world.answers[to]] == ["run-1", "run-1"]
    world.seal(b"a", "run-1")
    world.work_off()
    assert world.answer(world.seal(b"a", "run-1")).sealed


def test_only_the_creator_seals(world: World) -> None:
    """Another holder is NotOwner; who does not hold it learns that it is gone or not theirs."""
    grant = world.write(b"a")
    assert isinstance(world.answer(world.seal(b"b", grant.segment)), NoSuchBlock)
    to = world.asker(b"b")
    world.do(world.registry.redeem, to, grant.segment, b"t", world.now)
    assert isinstance(world.answer(world.seal(b"b", grant.segment)), NotOwner)


def test_a_seal_under_way_is_not_begun_again(world: World) -> None:
    """Another seal request meanwhile gets an error, and the first is answered."""
    segment = world.write(b"a").segment
    first, second = world.seal(b"a", segment), world.seal(b"a", segment)
    assert isinstance(world.answer(second), NotSealed)
    world.work_off()
    assert world.answer(first).sealed


def test_an_unsealable_block_can_be_sealed_later(world: World) -> None:
    """The writer gets the error, keeps its block, and may try again."""
    segment = world.write(b"a").segment
    to = world.seal(b"a", segment)
    world.finish(1, "fail")
    assert isinstance(world.answer(to), NotSealed)
    assert world.state(segment) is State.WRITING
    again = world.seal(b"a", segment)
    world.work_off()
    assert world.answer(again).sealed


def test_an_aborted_block_goes(world: World) -> None:
    """Its writer, and nobody else, gives it up; it is unlinked though mapped."""
    segment = world.write(b"a").segment
    world.do(world.registry.abort, b"b", segment, world.now)
    assert world.state(segment) is State.WRITING
    world.do(world.registry.abort, b"a", segment, world.now)
    assert world.state(segment) is State.UNLINKED


def test_a_dead_writers_block_goes(world: World) -> None:
    """Also if others write it too; their later releases mean nothing."""
    segment = world.write(b"a").segment
    to = world.asker(b"b")
    world.do(world.registry.redeem, to, segment, b"t", world.now)
    world.end(b"a")
    assert world.state(segment) is State.UNLINKED
    assert world.registry.release(b"b", [(segment, 99, 99)], world.now) == []


def test_a_cancelled_create_leaves_nothing(world: World) -> None:
    """Whether it is cancelled before or just after the answer."""
    for steps in (0, 1):
        to = world.create(b"a")
        for _ in range(steps):
            world.work_off()
        world.cancel(to)
        world.free_all()
        assert not world.registry.blocks.table


def test_a_published_block_goes_with_its_last_holder(world: World) -> None:
    """It cannot be loaded again, so it is no cache; its name is free."""
    grant = world.publish(b"a", "n")
    assert world.answer(world.get(b"b", "n")).segment == grant.segment
    world.end(b"a")
    assert world.state(grant.segment) is State.SEALED
    world.end(b"b")
    assert world.state(grant.segment) is State.UNLINKED
    assert not world.registry.publishing.name_taken("n")


def test_a_name_is_taken_from_the_create_on(world: World) -> None:
    """By what is written as by what is sealed; `replace` takes it over."""
    world.write(b"a", name="n")
    assert isinstance(world.answer(world.create(b"b", name="n")), NameTaken)
    world.publish(b"b", "n", replace=True)
    assert isinstance(world.answer(world.create(b"b", name="n")), NameTaken)


def test_replace_leaves_the_old_block_to_its_holders(world: World) -> None:
    """The name leads to the new block; the old, kept or not, goes with its last holder."""
    old = world.publish(b"a", "n", keep=True)
    new = world.publish(b"b", "n", replace=True)
    assert world.answer(world.get(b"b", "n")).segment == new.segment
    assert world.state(old.segment) is State.SEALED
    world.release(b"a", old)
    assert world.state(old.segment) is State.UNLINKED


def test_replace_frees_an_idle_kept_block(world: World) -> None:
    """Nobody can find it any more."""
    old = world.publish(b"a", "n", keep=True)
    world.release(b"a", old)
    world.publish(b"b", "n", replace=True)
    assert world.state(old.segment) is State.UNLINKED


def test_a_name_is_awaited(world: World) -> None:
    """Who gives a timeout waits for the name; who gives 0 gets the error at once, even then."""
    waits = world.get(b"b", "n", timeout=9.0)
    assert isinstance(world.answer(world.get(b"a", "n", timeout=0.0)), NoSuchBlock)
    also = world.get(b"a", "n", timeout=1.0)
    grant = world.publish(b"a", "n")
    assert world.answer(waits).segment == world.answer(also).segment == grant.segment


def test_a_writer_that_maps_in_the_last_moment_keeps_its_block(world: World) -> None:
    """Its block, adopted and not yet mapped, was to go: it stays, is sealed, and has its name."""
    left = world.left(0, 25, sealed=False, published=True, keep=True)
    world.ambush = "before"
    world.adopt(left)
    assert world.state(left.segment) is State.WRITING
    assert world.registry.publishing.name_taken(NAMES[0])
    world.hello(b"a", 1, [left.segment])
    to = world.seal(b"a", left.segment)
    world.work_off()
    assert world.answer(to).sealed
    assert world.answer(world.get(b"b", NAMES[0])).segment == left.segment
    assert world.block(left.segment).keep


def test_an_unfinished_block_that_stays_is_not_found(world: World) -> None:
    """What a crash left of a load knows its aliases; mapped though it is, nobody is granted it."""
    left, file = world.left(0, 25, sealed=False, published=True, keep=False), File("f25", 25)
    left.aliases.append(wanted(file).alias)
    world.ambush = "before"
    world.adopt(left)
    assert world.state(left.segment) is State.WRITING
    to = world.get(b"a", file)
    assert world.answer(to) is None
    world.work_off()
    assert world.answer(to).segment != left.segment


def test_an_unfinished_block_that_nobody_maps_goes(world: World) -> None:
    """Also if somebody mapped it for a while, and no session wrote it."""
    world.ambush = "before"
    first, second = (world.left(i, 25, sealed=False, published=True, keep=False) for i in (0, 1))
    world.adopt(first)
    world.adopt(second)
    assert world.state(second.segment) is State.UNLINKED
    world.unmap(first.segment, "ambush")
    world.read_closed()
    assert world.state(first.segment) is State.UNLINKED
    world.free_all()
    assert not world.registry.jobs.table
    assert not world.registry.publishing.name_taken(NAMES[0])


def test_a_stale_writer_makes_room(world: World) -> None:
    """A program that became another while it wrote loses its block when room is needed."""
    segment = world.write(b"a").segment
    world.unmap(segment, b"a")
    world.sleep(STALE_AFTER)
    to = world.get(b"b", File("large", 90))
    world.work_off()
    world.free_all()
    world.work_off()
    assert isinstance(world.answer(to), Grant)
    assert segment not in world.registry.blocks.table
