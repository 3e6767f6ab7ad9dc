"""The core by example: room and eviction, stale holds, the clock, and adoption."""

from __future__ import annotations

import math

import pytest

from arrayd.errors import NoRoom
from arrayd.wire.grant import Grant
from arrayd_server.core import admission, bounds
from arrayd_server.core.effects import Fill, Inspect, Unlink
from arrayd_server.core.model import Block, State, name_alias
from tests.support.core_files import SPEC, File, wanted
from tests.support.core_script import HUGE, LARGE, MEDIUM, SMALL, World


@pytest.fixture
def world() -> World:
    """Return a daemon with two sessions and a budget of 100 bytes."""
    return World()


def left(world: World, size: int, **how: object) -> Block:
    """Return a sealed block of an earlier run."""
    number, now = world.registry.blocks.new_number(), world.now
    fields = {"identity": File(f"f{size}", size), "state": State.SEALED, **how}
    return Block(f"old-{number}", number, SPEC, size, since=now, used=now, **fields)  # type: ignore[arg-type]


# ---- eviction ------------------------------------------------------------------------------


def test_the_least_recently_used_goes_first(world: World) -> None:
    """For room, idle blocks go in the order of their last use, and no more than needed."""
    old, used, new = (world.cache(File(name, 30)) for name in "xyz")
    world.release(b"b", world.load(b"b", File("x", 30)))
    world.get(b"a", File("w", 40))
    world.finish(4)
    assert [e.segment for e in world.seen if isinstance(e, Unlink)] == [used]
    assert {old, new} == set(world.registry.blocks.idle)


def test_a_load_waits_for_the_pages(world: World) -> None:
    """An evicted block is charged until the kernel has its pages; then the load begins."""
    world.cache(LARGE)
    world.get(b"a", File("x", 60), timeout=0.0)
    world.finish(2)
    assert not world.work
    assert world.registry.blocks.charged == 60
    world.sleep(1000)
    assert world.free() == []
    assert isinstance(world.work[2], Fill)


def test_nothing_more_is_evicted_while_pages_are_coming(world: World) -> None:
    """Events in between do not evict what the job does not need."""
    world.cache(LARGE)
    kept = world.cache(SMALL)
    world.get(b"a", MEDIUM)
    world.finish(3)
    world.cancel(world.get(b"b", File("other", 10)))
    assert list(world.registry.blocks.idle) == [kept]


def test_room_on_its_way_is_promised_once(world: World) -> None:
    """The second in the queue does not count on pages that the first waits for."""
    world.cache(LARGE)
    world.load(b"b", MEDIUM)
    first = world.get(b"a", File("x", 60))
    second = world.get(b"a", File("y", 60))
    world.finish(3)
    world.finish(4)
    world.sleep(1.0)
    assert isinstance(world.answer(second), NoRoom)
    world.free()
    world.work_off()
    assert isinstance(world.answer(first), Grant)


def test_the_queue_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many wait for room already, one more fails at once, but not if it finds room."""
    monkeypatch.setattr(admission, "MAX_QUEUE", 2)
    world.load(b"b", File("held", 70))
    waiting = [world.get(b"a", File(name, 60), timeout=math.inf) for name in "xy"]
    late, lucky = world.get(b"a", File("z", 60), timeout=math.inf), world.get(b"a", SMALL)
    for number in (2, 3, 4, 5):
        world.finish(number)
    assert isinstance(world.answer(late), NoRoom)
    assert isinstance(world.work[5], Fill)
    assert not any(to in world.answers for to in (*waiting, lucky))


@pytest.mark.parametrize("pin", [7.0, math.inf])
def test_a_pinned_block_is_not_evicted_for_room(world: World, pin: float) -> None:
    """Not before its time; then it is a cache like any other."""
    segment = world.cache(LARGE, pin)
    to = world.get(b"a", File("x", 60), timeout=10.0)
    world.finish(2)
    assert world.state(segment) is State.SEALED
    world.sleep(10.0)
    world.free_all()
    assert isinstance(world.answer(to), NoRoom) == (pin == math.inf)


def test_a_refused_eviction_finds_another_victim(world: World) -> None:
    """What a stranger mapped meanwhile stays, and the next idle block goes, at once."""
    mapped, free = world.cache(MEDIUM), world.cache(LARGE)
    world.kernel.attach(mapped, "stranger")
    world.get(b"a", SMALL, timeout=0.0)
    world.finish(3)
    assert world.state(mapped) is State.SEALED
    assert world.block(mapped).mapped
    assert world.state(free) is State.UNLINKED
    world.unmap(mapped, "stranger")
    world.read_closed()
    assert list(world.registry.blocks.idle) == [mapped]


def test_a_victim_mapped_at_the_last_moment_is_made_up_for(world: World) -> None:
    """It stays charged as long as it is mapped, and another goes."""
    first, second = world.cache(MEDIUM), world.cache(LARGE)
    world.ambush = "after"
    to = world.get(b"a", SMALL, timeout=0.0)
    world.finish(3)
    assert world.block(first).mapped
    assert world.registry.wake_at() <= world.now
    world.tick()
    assert world.state(second) is State.UNLINKED
    world.free()
    world.work_off()
    assert isinstance(world.answer(to), Grant)
    assert world.registry.blocks.charged == 40 + 25


# ---- no room -------------------------------------------------------------------------------


def test_what_exceeds_the_budget_fails_at_once(world: World) -> None:
    """No timeout helps, nothing is evicted, and the error says what does."""
    world.cache(SMALL)
    to = world.get(b"a", HUGE, timeout=60.0)
    world.finish(2)
    error = world.answer(to)
    assert isinstance(error, NoRoom)
    assert error.details == {"needed": 101, "budget": 100, "charged": 25}
    assert "f101 needs 101 B, more than the whole budget of 100 B" in str(error)
    assert list(world.registry.blocks.idle) == ["run-1"]


def test_no_room_names_the_holders(world: World) -> None:
    """With sizes, pids and programs, the largest first, when the timeout has ended."""
    world.load(b"a", SMALL)
    world.load(b"b", LARGE)
    to = world.get(b"a", MEDIUM, timeout=1.0)
    world.finish(3)
    world.sleep(0.9)
    assert world.answer(to) is None
    world.sleep(0.1)
    text = str(world.answer(to))
    assert "f40 needs 40 B; the budget of 100 B has 15 B free" in text
    assert "f60 60 B (held by 2 py), f25 25 B (held by 1 py)" in text


def test_no_room_names_what_else_is_in_the_way(world: World) -> None:
    """A stranger, a pin, a published block that is kept, and one that is being loaded."""
    world.kernel.attach(world.load(b"a", File("x", 20)).segment, "child")
    world.end(b"a")
    world.hello(b"a", 1)
    world.cache(File("y", 20), pin=9.0)
    world.release(b"a", world.publish(b"a", "n", 20, keep=True))
    world.get(b"a", File("z", 20))
    world.finish(4)
    to = world.get(b"a", LARGE, timeout=0.0)
    world.finish(5)
    world.tick()
    text = str(world.answer(to))
    for part in (
        "x 20 B (mapped by a process that is no client)",
        "y 20 B (pinned)",
        "name:n 20 B (kept)",
        "z 20 B (loading)",
    ):
        assert part in text


def test_no_room_in_the_machine(world: World) -> None:
    """If /dev/shm or the cgroup is the limit, the error says which, and what to do."""
    for bound, remedy in ((bounds.SHM, "--shm-size=…"), (bounds.CGROUP, "MemoryMax=")):
        world = World(capacity=30)
        world.tightest = bound
        to = world.get(b"a", MEDIUM, timeout=0.0)
        world.finish(1)
        world.tick()
        assert f"f40 needs 40 B; {bound.words} gives 30 B" in str(world.answer(to))
        assert remedy in str(world.answer(to))
        assert "--budget" not in str(world.answer(to))


def test_unfilled_bytes_are_not_given_twice() -> None:
    """What a load or a create has reserved but not yet got is no headroom for others."""
    world = World(capacity=70)
    world.create(b"a", 40)
    to = world.get(b"b", MEDIUM, timeout=0.0)
    world.finish(2)
    world.tick()
    assert isinstance(world.answer(to), NoRoom)


def test_the_longest_timeout_counts(world: World) -> None:
    """A waiter with a longer timeout keeps the queued job alive, whenever it joins."""
    held = world.load(b"b", LARGE)
    to = world.get(b"a", File("x", 60), timeout=1.0)
    world.finish(2)
    world.get(b"a", File("x", 60), timeout=30.0)
    world.sleep(20.0)
    world.release(b"b", held)
    world.free_all()
    world.work_off()
    assert isinstance(world.answer(to), Grant)


# ---- stale holds ---------------------------------------------------------------------------


def test_a_stale_hold_gives_way_to_a_load(world: World) -> None:
    """A hold of 5 s on a block that nobody maps is dropped when room is needed."""
    world.load(b"b", LARGE, maps=False)
    world.sleep(5.0)
    to = world.get(b"a", File("x", 60), timeout=0.0)
    world.finish(2)
    world.free_all()
    world.work_off()
    assert isinstance(world.answer(to), Grant)
    assert not world.registry.sessions[b"b"].holds
    assert world.registry.counters.stale_holds == 1


@pytest.mark.parametrize(("age", "maps"), [(4.9, False), (9.0, True)])
def test_a_young_or_mapped_hold_does_not_give_way(world: World, age: float, maps: bool) -> None:
    """The reply may be on its way; and the kernel's word is above all."""
    world.load(b"b", LARGE, maps=maps)
    world.sleep(age)
    to = world.get(b"a", File("x", 60), timeout=0.0)
    world.finish(2)
    world.tick()
    assert isinstance(world.answer(to), NoRoom)
    assert world.registry.sessions[b"b"].holds


def test_a_hold_that_becomes_stale_while_a_job_waits_gives_way(world: World) -> None:
    """Before it gives up, a job with a long timeout looks again."""
    world.load(b"b", LARGE, maps=False)
    to = world.get(b"a", File("x", 60), timeout=6.0)
    world.finish(2)
    world.sleep(6.0)
    world.free_all()
    world.work_off()
    assert isinstance(world.answer(to), Grant)


def test_without_need_no_hold_is_stale(world: World) -> None:
    """A hold that nobody maps stays for ever if there is room."""
    grant = world.load(b"b", LARGE, maps=False)
    world.sleep(1000)
    world.do(lambda: [Inspect(grant.segment)])
    assert world.registry.sessions[b"b"].holds


# ---- time ----------------------------------------------------------------------------------


def test_an_idle_daemon_never_wakes(world: World) -> None:
    """Blocks that are held, cached or pinned need no clock."""
    world.load(b"a", SMALL, pin=9.0)
    world.cache(MEDIUM, pin=9.0)
    assert world.registry.wake_at() == math.inf


def test_a_queued_job_wakes_when_its_timeout_ends(world: World) -> None:
    """Exactly then."""
    world.load(b"b", LARGE)
    world.get(b"a", File("x", 60), timeout=3.0)
    world.finish(2)
    assert world.registry.wake_at() == world.now + 3.0


def test_a_pinned_published_block_goes_when_the_pin_ends(world: World) -> None:
    """Without a holder a pin keeps it, and the core wakes exactly at its end."""
    grant = world.publish(b"a", "n")
    world.get(b"a", "n", pin=7.0)
    world.end(b"a")
    assert world.registry.wake_at() == world.now + 7.0
    world.sleep(7.0)
    assert world.state(grant.segment) is State.UNLINKED


def test_a_kept_block_stays(world: World) -> None:
    """Without holders, for ever, and it is not evicted for room."""
    grant = world.publish(b"a", "n", 60, keep=True)
    world.release(b"a", grant)
    to = world.get(b"a", LARGE)
    world.finish(2)
    world.sleep(1000)
    assert isinstance(world.answer(to), NoRoom)
    assert list(world.registry.blocks.idle) == [grant.segment]


# ---- adoption ------------------------------------------------------------------------------


def test_an_adopted_block_is_a_hit(world: World) -> None:
    """Same segment, no load; its clients restate their holds."""
    block = left(world, 25, aliases=[wanted(SMALL).alias])
    world.adopt(block, mapped=True)
    assert list(world.hello(b"a", 1, [block.segment]).holds) == [block.segment]
    assert world.answer(world.get(b"b", SMALL)).segment == block.segment


def test_adoption_may_exceed_the_budget(world: World) -> None:
    """But nothing is loaded until the charge is below the budget."""
    for size in (60, 101):
        world.adopt(left(world, size), mapped=True)
    to = world.get(b"a", SMALL)
    world.finish(1)
    world.sleep(1.0)
    assert isinstance(world.answer(to), NoRoom)
    assert world.registry.blocks.charged == 161


def test_an_adopted_block_that_nobody_maps_is_idle(world: World) -> None:
    """A cache is kept; what cannot be loaded again goes, unless it is kept."""
    world.adopt(left(world, 25))
    world.adopt(left(world, 25, identity="put", published=True))
    world.adopt(left(world, 25, identity="put", published=True, keep=True))
    assert list(world.registry.blocks.idle) == ["old-1", "old-3"]
    assert world.state("old-2") is State.UNLINKED


def test_an_adopted_name_is_found(world: World) -> None:
    """A published block is published after a restart too."""
    block = left(world, 25, identity="put", published=True, name="n", aliases=[name_alias("n")])
    world.adopt(block, mapped=True)
    assert world.answer(world.get(b"a", "n")).segment == block.segment


def test_writing_goes_on_after_a_restart(world: World) -> None:
    """Whoever holds an unsealed block can seal it; its name is taken meanwhile."""
    block = left(world, 25, identity="put", published=True, name="n", state=State.WRITING)
    world.adopt(block, mapped=True)
    assert world.registry.publishing.name_taken("n")
    world.hello(b"a", 1, [block.segment])
    to = world.seal(b"a", block.segment)
    world.work_off()
    assert world.answer(to).sealed
    assert world.answer(world.get(b"b", "n")).segment == block.segment


def test_an_unsealed_block_that_nobody_maps_goes(world: World) -> None:
    """Its writer did not survive."""
    world.adopt(left(world, 25, identity="put", published=True, state=State.WRITING))
    assert world.state("old-1") is State.UNLINKED
