"""The core by example: a file is rewritten, and nobody can ask for what it was."""

from __future__ import annotations

import pytest

from arrayd_server.core.model import Edition, State, Wanted
from tests.support.core_files import File, wanted
from tests.support.core_script import World


@pytest.fixture
def world() -> World:
    """Return a daemon with two sessions and a budget of 100 bytes."""
    return World()


def edition(state: int, of: str = "x", size: int = 10) -> Wanted:
    """Return the request for a file in one of its states."""
    return wanted(File(f"{of}{state}", size))._replace(edition=Edition(of, state))


def cached(world: World, what: Wanted, pin: float = 0.0) -> str:
    """Have a block that was used; return its segment."""
    grant = world.load(b"a", what, pin)
    world.release(b"a", grant)
    return grant.segment


def idle(world: World) -> set[str]:
    """Return the blocks that are kept warm."""
    return set(world.registry.blocks.idle)


def free(world: World) -> None:
    """Let the kernel have all pages back."""
    while world.closing:
        world.free()


def test_older_states_go(world: World) -> None:
    """Of a file that is rewritten over and over one block stays warm, other files' too."""
    other = cached(world, edition(1, of="y"))
    for state in range(6):
        latest = cached(world, edition(state))
    free(world)
    assert idle(world) == {other, latest}
    assert set(world.registry.blocks.table) == {other, latest}


def test_other_members_stay(world: World) -> None:
    """Blocks of the file in the same state are no older ones."""
    first = cached(world, edition(1))
    second = cached(world, edition(2)._replace(edition=Edition("x", 1)))
    assert idle(world) == {first, second}


def test_a_holder_keeps_an_older_state(world: World) -> None:
    """It goes with its last holder, without being kept warm."""
    grant = world.load(b"b", edition(1))
    latest = cached(world, edition(2))
    assert world.registry.blocks.table[grant.segment].state is State.SEALED
    world.release(b"b", grant)
    free(world)
    assert set(world.registry.blocks.table) == {latest}


def test_a_pin_keeps_an_older_state(world: World) -> None:
    """Until it ends: somebody may still attach by name."""
    pinned = cached(world, edition(1), pin=5.0)
    latest = cached(world, edition(2))
    assert idle(world) == {pinned, latest}
    world.sleep(5.0)
    free(world)
    assert set(world.registry.blocks.table) == {latest}


def test_a_state_that_comes_back(world: World) -> None:
    """A file that is again what it was: the block that somebody held meanwhile is a cache."""
    first = world.load(b"b", edition(1))
    cached(world, edition(2))
    again = world.load(b"a", edition(1))
    assert again.segment == first.segment
    world.release(b"a", again)
    world.release(b"b", first)
    assert first.segment in idle(world)


def test_a_load_of_an_older_state(world: World) -> None:
    """A load that the rewriting overtakes is granted to who waits, and not kept."""
    to = world.get(b"b", edition(1))
    world.finish(1)  # its probe
    later = world.get(b"a", edition(2))
    world.finish(2)
    world.work_off()
    older, latest = world.answer(to), world.answer(later)
    world.release(b"a", latest, unmaps=False)
    world.release(b"b", older, unmaps=False)
    free(world)
    assert set(world.registry.blocks.table) == idle(world) == {latest.segment}
