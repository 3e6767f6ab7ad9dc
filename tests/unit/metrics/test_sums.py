"""What is measured of blocks, sessions and streams, of a core without a shell."""

from __future__ import annotations

import asyncio
import math

import pytest

from arrayd_server.core.model import State
from arrayd_server.core.streams import Streams
from arrayd_server.metrics import sums
from arrayd_server.metrics.loop_lag import WINDOW, LoopLag
from arrayd_server.metrics.sums import Sums, Survey
from tests.support.core_files import File
from tests.support.core_script import World


@pytest.fixture
def world() -> World:
    """Return a daemon with two sessions and a budget of 100 bytes."""
    return World()


def take(world: World) -> Sums:
    """Return its sums."""
    streams = Streams(world.registry, b"own", 1)
    return asyncio.run(Survey(world.registry, streams).take(1.0))


def test_each_block_has_a_state(world: World) -> None:
    """Held, idle, pinned, stray, being loaded: together they are what is charged."""
    held, pinned = world.load(b"a", File("held", 10)), world.cache(File("pinned", 20), math.inf)
    idle, stray = world.cache(File("idle", 5)), world.load(b"b", File("stray", 15))
    world.release(b"b", stray, unmaps=False)
    world.get(b"a", File("coming", 30))
    world.finish(5)
    found = take(world)
    assert {held.segment, pinned, idle} <= set(world.registry.blocks.table)
    expected = {"held": 10, "pinned": 20, "idle": 5, "stray": 15, "loading": 30}
    assert {k: v for k, v in found.blocks.nbytes.items() if v} == expected
    assert {k: v for k, v in found.blocks.number.items() if v} == dict.fromkeys(expected, 1)
    assert sum(found.blocks.nbytes.values()) == found.charged == 80
    assert (found.budget, found.sessions, found.holds, found.jobs) == (100, 2, 1, 1)
    assert list(found.blocks.nbytes) == list(sums.STATES)


def test_blocks_of_other_users(world: World) -> None:
    """Their bytes are summed by user; the rest is the daemon's own."""
    world.cache(File("mine", 10))
    world.registry.blocks.table[world.cache(File("theirs", 30))].user = 7
    assert take(world).blocks.users == {7: 30}


def test_evictions_have_a_reason(world: World) -> None:
    """For room, or because somebody asked."""
    world.cache(File("old", 60))
    world.get(b"a", File("new", 60))
    world.finish(2)
    world.free()
    world.work_off()
    assert take(world).evicted == {"room": 1}
    world.cache(File("small", 10))
    world.naive.evicting = True
    world.do(world.registry.evict, world.asker(b"a"), lambda block: block.size == 10)
    world.free()
    assert take(world).evicted == {"room": 1, "request": 1}
    assert world.registry.counters.evictions == 1


def test_a_walk_lets_the_loop_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two slices others have their turn; what goes meanwhile does no harm."""
    monkeypatch.setattr(sums, "SLICE", 1)
    for number in range(3):
        world.cache(File(f"f{number}", 10))
    survey = Survey(world.registry, Streams(world.registry, b"own", 1))

    async def main() -> tuple[Sums, Sums]:
        task = asyncio.ensure_future(survey.take(1.0))
        await asyncio.sleep(0)
        block = next(iter(world.registry.blocks.table.values()))
        world.registry.blocks.unmark_idle(block)
        world.registry.blocks.table.clear()
        return await task, await survey.take(2.0)

    first, second = asyncio.run(main())
    assert first.blocks.nbytes["idle"] + first.blocks.nbytes["stray"] == 30
    assert second.blocks is first.blocks, "it walks again after a pause"


def test_every_unsealed_state_has_a_name() -> None:
    """A state that the core gets is not forgotten here."""
    assert {*sums._UNSEALED, State.SEALED} == set(State)
    assert set(sums._UNSEALED.values()) <= set(sums.STATES)


def test_the_lag_is_of_the_last_seconds() -> None:
    """The maximum of a window is told until the next one has ended."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        lag, now = LoopLag(loop), loop.time()
        lag.close()
        told = []
        for late, at in ((0.5, 1.0), (0.1, WINDOW + 1), (0.2, WINDOW + 2), (0.0, 3 * WINDOW)):
            lag.note(late, now + at)
            told.append(lag.seconds)
        return told

    assert asyncio.run(main()) == [0.5, 0.5, 0.5, 0.2]
