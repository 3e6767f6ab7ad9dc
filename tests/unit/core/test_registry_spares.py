"""Spare pages: who leaves them, who takes them, when they are given back."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from arrayd_server.core import shutdown
from arrayd_server.core.effects import Fill, Recycle, Unlink
from arrayd_server.core.model import Stage, State
from arrayd_server.core.spares import MOST_CUT
from tests.support.core_files import File
from tests.support.core_script import World
from tests.support.core_strategies import WALKS, files, sessions
from tests.unit.core.test_registry_stateful import Walk

KEPT = 5.0


def spared(budget: int = 100, capacity: int | None = None) -> World:
    """Return a daemon that keeps spares of 10 bytes and more."""
    world = World(budget, capacity)
    spares = world.registry.holds.spares
    spares.seconds, spares.least = KEPT, 10
    return world


@pytest.fixture
def world() -> World:
    """Return such a daemon with a budget of 100 bytes."""
    return spared()


def leave(world: World, size: int) -> str:
    """Have a spare of so many bytes: that of a block whose last user has gone."""
    grant = world.publish(b"b", f"n{size}", size)
    world.release(b"b", grant)
    world.read_closed()
    spare = world.registry.blocks.spares
    return next(segment for segment in reversed(spare) if spare[segment].size == size)


def test_what_is_evicted_for_a_load_leaves_it_its_pages(world: World) -> None:
    """At once, under a name that is new, and with nothing given back in between."""
    old = world.cache(File("a", 60))
    world.get(b"a", File("b", 70))
    world.finish(2)
    assert [e for e in world.seen if isinstance(e, Recycle)] == [Recycle(old, "run-2")]
    assert isinstance(world.work[2], Fill)
    assert not world.closing
    assert world.kernel.pages == {"run-2": 60}
    assert world.registry.jobs.unfilled == 10
    world.work_off()
    assert world.kernel.pages == {"run-2": 70}
    assert old not in world.kernel.named
    counters = world.registry.counters
    assert (counters.evictions, counters.recycled) == (1, 1)


def test_nothing_is_recycled_unless_spares_are_kept() -> None:
    """With the option at 0 an evicted block goes back to the kernel."""
    world = World()
    world.cache(File("a", 60))
    world.get(b"a", File("b", 70))
    world.finish(2)
    assert world.closing == ["run-1"]
    assert not world.work


def test_what_fits_is_about_as_large() -> None:
    """Pages for most of the block, and most of the pages for it; no long cut on the loop."""
    world = spared(1 << 30)
    spares = world.registry.holds.spares
    job = world.registry.jobs.new(Stage.PROBING, "x", 0.0, [])
    for size, fitting, others in [
        (100, (50, 99, 100, 150, 201), (9, 49, 202)),
        (4 * MOST_CUT, (2 * MOST_CUT, 5 * MOST_CUT), (MOST_CUT, 5 * MOST_CUT + 1)),
    ]:
        job.size = size
        assert all(spares.fits(pages, job) for pages in fitting)
        assert not any(spares.fits(pages, job) for pages in others)


def test_the_best_of_several_is_taken(world: World) -> None:
    """Of the spares that fit a load it gets the one whose size is nearest."""
    small, near = leave(world, 20), leave(world, 30)
    world.get(b"a", File("b", 28))
    world.finish(3)
    assert world.state(near) is State.LOADING
    assert world.state(small) is State.SPARE


def test_a_spare_is_given_back_in_time(world: World) -> None:
    """A load that does not come for it in time finds it gone; till then it is charged."""
    spare = leave(world, 40)
    world.sleep(KEPT - 0.1)
    assert world.state(spare) is State.SPARE
    assert world.registry.blocks.charged == 40
    world.sleep(0.2)
    assert world.closing == [spare]
    world.free_all()
    assert world.registry.blocks.charged == 0


def test_a_spare_goes_before_any_block(world: World) -> None:
    """For a load that cannot use it its bytes are room, and nothing is evicted."""
    kept = world.cache(File("a", 10))
    spare = leave(world, 40)
    world.get(b"a", File("b", 85))
    world.finish(3)
    assert world.closing == [spare]
    world.free_all()
    world.work_off()
    assert world.state(kept) is State.SEALED


def test_half_of_the_budget_is_the_most(world: World) -> None:
    """What would be too much goes back to the kernel at once."""
    first = leave(world, 40)
    grant = world.publish(b"b", "second", 20)
    world.release(b"b", grant)
    world.read_closed()
    assert list(world.registry.blocks.spares) == [first]
    assert world.closing == [grant.segment]


def test_a_client_gets_no_spare(world: World) -> None:
    """What a client writes it need not write whole: it gets fresh pages."""
    spare = leave(world, 40)
    grant = world.write(b"a", 40)
    assert grant.segment != spare
    assert world.state(spare) is State.SPARE


def test_who_evicts_has_the_memory_back(world: World) -> None:
    """A block that is evicted by request leaves no spare, and those there are are no blocks."""
    block, spare = world.cache(File("a", 30)), leave(world, 40)
    world.evict()
    assert world.closing == [block]
    assert world.state(spare) is State.SPARE


def test_a_block_that_somebody_maps_is_not_recycled(world: World) -> None:
    """It stays, as after any refused unlink; or is leaving, if they come at the last moment."""
    for moment, state in (("before", State.SEALED), ("after", State.UNLINKED)):
        world = spared()
        old = world.cache(File("a", 60))
        world.ambush = moment
        world.get(b"a", File("b", 70), timeout=0.0)
        world.finish(2)
        assert world.state(old) is state
        assert not world.registry.blocks.spares
        assert not world.work


def test_a_cancelled_load_leaves_what_it_waited_for() -> None:
    """Nobody takes the pages: they are a spare, and given back in time."""
    world = spared(100)
    world.cache(File("a", 60))
    to = world.get(b"a", File("b", 70))
    world.finish(2)
    world.cancel(to)
    world.free_all()
    world.sleep(2 * KEPT)
    world.free_all()
    assert world.registry.blocks.charged == 0


def test_a_recycled_load_that_the_kernel_refuses(world: World) -> None:
    """It is tried again like any other, from the start."""
    world = spared(100, capacity=100)
    world.cache(File("a", 50))
    world.get(b"a", File("b", 90))
    world.finish(2)
    assert world.registry.jobs.unfilled == 40
    world.crowd(20)
    world.finish(2)
    assert world.registry.jobs.unfilled == 0
    world.crowd(0)
    world.free_all()
    world.work_off()
    assert world.registry.counters.loads == 2


def test_late_word_of_a_recycling(world: World) -> None:
    """Word about a block that does not go, or is unknown, changes nothing."""
    block = world.cache(File("a", 60))
    assert world.registry.admission.recycled(block, world.now) == []
    assert world.registry.admission.recycled("unknown", world.now) == []


def test_the_next_run_gets_no_spare(world: World) -> None:
    """At the end spares are removed, also when the blocks are handed over."""
    spare = leave(world, 40)
    for hand_over in (False, True):
        unlinks = shutdown.last_unlinks(world.registry.blocks, hand_over=hand_over)
        assert unlinks == [Unlink(spare, force=True)]


class SpareWalk(Walk):
    """The random walk with spares."""

    @initialize(
        capacity=st.sampled_from([1000, 120, 70, 70]),
        found=st.lists(st.tuples(st.sampled_from([25, 60]), *[st.booleans()] * 4), max_size=3),
    )
    def start(self, capacity: int, found: list[tuple[int, bool, bool, bool, bool]]) -> None:
        """Start a daemon that keeps spares."""
        super().start(capacity, found)
        spares = self.registry.holds.spares
        spares.seconds, spares.least = 30.0, 25

    @rule(nonce=sessions, what=files)
    def read_once(self, nonce: bytes, what: File) -> None:
        """Get an array, and let go of all: it will be evicted for the next."""
        self.load(nonce, what, then="hold")
        for segment, seq in list(self.granted[nonce].items()):
            self.shell.unmap(segment, nonce)
            self.granted[nonce].pop(segment)
            ends = (segment, seq, self.claims[nonce])
            self.naive.release(nonce, *ends)
            self.shell.do(self.registry.release, nonce, [ends], self.shell.now)

    @invariant()
    def spares(self) -> None:
        """Expect the spares that there must be, and none besides."""
        if hasattr(self, "shell"):
            assert set(self.registry.blocks.spares) == self.naive.spares

    @rule()
    def pressed(self) -> None:
        """Let other programs need memory."""
        self.shell.do(self.registry.holds.spares.give_back)
        assert not self.naive.spares


TestSpareWalk = SpareWalk.TestCase
TestSpareWalk.settings = settings(WALKS, max_examples=WALKS.max_examples // 3)
