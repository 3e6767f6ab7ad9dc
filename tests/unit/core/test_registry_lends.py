"""The core by example: references in flight, who may still redeem them, and when they must go."""

from __future__ import annotations

import math

import pytest

from arrayd.errors import NoRoom, NoSuchBlock
from arrayd.wire.grant import Grant
from arrayd_server.core import invariants
from arrayd_server.core.holds import STALE_AFTER
from arrayd_server.core.lends import LEND_SECONDS, MAX_LENDS
from arrayd_server.core.model import State
from tests.support.core_files import File
from tests.support.core_script import SMALL, World

HOURS = 7 * 3600.0


@pytest.fixture
def world() -> World:
    """Return a daemon with two sessions."""
    return World()


def send(world: World, grant: Grant, token: bytes = b"t", *, keeps: bool = False) -> str:
    """Let session ``a`` send a reference, and let go of the array; return its segment."""
    world.naive.lend(b"a", grant.segment, token)
    world.do(world.registry.lend, b"a", grant.segment, token, world.now)
    if not keeps:
        world.release(b"a", grant)
    return grant.segment


def publish(world: World, token: bytes, size: int) -> str:
    """Let session ``a`` publish a block that nothing but a reference keeps."""
    to = world.seal(b"a", world.write(b"a", size).segment)
    world.work_off()
    return send(world, world.answer(to), token)


def redeem(world: World, segment: str, token: bytes = b"t") -> object:
    """Let session ``b`` receive a reference; return the answer."""
    to = world.asker(b"b")
    if world.state(segment) is State.SEALED:
        world.naive.arrive(segment, token)
    world.do(world.registry.redeem, to, segment, token, world.now)
    return world.answer(to)


def needs(world: World, size: int) -> object:
    """Let session ``b`` load a file; return the answer, once all is done that can be."""
    to = world.get(b"b", File(f"needs{size}", size), timeout=0.0)
    for _ in range(3):
        world.work_off()
        world.free_all()
    world.tick()
    return world.answer(to)


# ---- who may still redeem it -----------------------------------------------------------------


def test_no_clock_ends_what_a_living_process_has_sent(world: World) -> None:
    """Queued for hours, it arrives; nothing has to wake for it meanwhile."""
    segment = publish(world, b"t", 25)
    assert world.registry.wake_at() == math.inf
    world.sleep(HOURS)
    assert isinstance(redeem(world, segment), Grant)
    assert not world.block(segment).lends


def test_others_of_the_job_may_have_it(world: World) -> None:
    """The sender is gone, its process group is not: once a minute the kernel is asked again."""
    segment = publish(world, b"t", 25)
    world.kernel.groups.add(1)
    world.end(b"a")
    assert world.registry.wake_at() == world.now + LEND_SECONDS
    world.sleep(HOURS)
    assert world.state(segment) is State.SEALED
    world.kernel.groups.clear()
    world.sleep(LEND_SECONDS)
    assert world.state(segment) is State.UNLINKED


def test_a_message_that_nobody_reads(world: World) -> None:
    """Sender and job are gone: for anybody else it is kept for 60 s, and then goes."""
    published, loaded = publish(world, b"t", 25), send(world, world.load(b"a", SMALL))
    world.end(b"a")
    world.sleep(LEND_SECONDS - 0.1)
    assert world.state(published) is State.SEALED
    assert not world.registry.blocks.idle
    world.sleep(0.1)
    assert world.state(published) is State.UNLINKED
    assert list(world.registry.blocks.idle) == [loaded]
    assert world.registry.wake_at() == math.inf


def test_it_is_redeemed_after_its_senders_death(world: World) -> None:
    """Then nothing is asked about it any more, and who has it keeps it."""
    segment = publish(world, b"t", 25)
    world.end(b"a")
    assert isinstance(redeem(world, segment), Grant)
    assert world.registry.wake_at() == math.inf
    world.sleep(HOURS)
    assert world.state(segment) is State.SEALED


def test_of_many_references_the_latest_are_remembered(world: World) -> None:
    """The oldest is forgotten, and the block stays until the latest has arrived."""
    grant = world.load(b"a", SMALL)
    tokens = [number.to_bytes(8, "big") for number in range(MAX_LENDS + 1)]
    for token in tokens:
        world.registry.lend(b"a", grant.segment, token, world.now)
    assert list(world.block(grant.segment).lends) == tokens[1:]
    assert {token for _, token in world.registry.sessions[b"a"].lends} == set(tokens[1:])
    invariants.check(world.registry)


# ---- when room is needed ---------------------------------------------------------------------


def test_room_is_made_of_what_was_sent_long_ago(world: World) -> None:
    """No more than is needed: what can be loaded again first, then what was sent first."""
    first, second = publish(world, b"1", 25), publish(world, b"2", 25)
    loaded = send(world, world.load(b"a", SMALL), b"3")
    world.sleep(LEND_SECONDS)
    assert isinstance(needs(world, 50), Grant)
    assert [world.state(s) for s in (first, second, loaded)] == [State.SEALED, State.SEALED, None]
    assert isinstance(needs(world, 24), Grant)
    assert [world.state(s) for s in (first, second)] == [None, State.SEALED]
    assert isinstance(redeem(world, first, b"1"), NoSuchBlock)
    assert isinstance(redeem(world, second, b"2"), Grant)


def test_what_was_just_sent_is_not_given_up(world: World) -> None:
    """Nor what would not be enough, what is pinned, kept, held or mapped: NoRoom."""
    held = world.publish(b"a", "n", 20)
    kept = world.publish(b"a", "m", 20, keep=True)
    segments = [send(world, held, keeps=True), send(world, kept), publish(world, b"u", 20)]
    world.sleep(LEND_SECONDS)
    segments.append(publish(world, b"v", 20))
    assert isinstance(needs(world, 41), NoRoom)
    assert [world.state(segment) for segment in segments] == [State.SEALED] * 4


def test_a_reference_sent_again_is_young_again(world: World) -> None:
    """One old and one young reference to a block: it is not given up."""
    grant = world.publish(b"a", "n", 60)
    send(world, grant, keeps=True)
    world.sleep(LEND_SECONDS)
    segment = send(world, grant, b"u")
    assert isinstance(needs(world, 60), NoRoom)
    assert world.state(segment) is State.SEALED


def test_a_stale_hold_and_an_old_reference(world: World) -> None:
    """A program that became another holds nothing, and its old reference makes room as well."""
    grant = world.publish(b"a", "n", 60)
    send(world, grant, keeps=True)
    world.unmap(grant.segment, b"a")
    world.sleep(max(STALE_AFTER, LEND_SECONDS))
    assert isinstance(needs(world, 60), Grant)
    assert world.state(grant.segment) is None
