"""The core by example: what the end of the daemon removes, and what the next run finds."""

from __future__ import annotations

import pytest

from arrayd_server.core.effects import Rewrite, Unlink
from arrayd_server.core.shutdown import last_unlinks
from tests.support.core_script import MEDIUM, SMALL, World


@pytest.mark.parametrize("hand_over", [False, True])
def test_the_last_unlinks(hand_over: bool) -> None:
    """Unfinished loads go at once; after a hand-over the next run has the rest."""
    world = World(budget=200)
    cached, writing = world.cache(SMALL), world.write(b"a").segment
    world.get(b"a", MEDIUM)
    world.finish(next(iter(world.work)))
    loading = f"run-{len(world.registry.blocks.table)}"
    expected = [Unlink(loading, force=True)]
    if not hand_over:
        expected += [Unlink(cached), Unlink(writing)]
    assert last_unlinks(world.registry.blocks, hand_over=hand_over) == expected


def test_a_block_that_lost_its_name_is_written_anew() -> None:
    """Else the name would come back with a restart; the first of a name displaces nothing."""
    world = World()
    old = world.publish(b"a", "n")
    assert Rewrite(old.segment) not in world.seen
    to = world.seal(b"b", world.write(b"b", name="n", replace=True).segment)
    world.finish(next(iter(world.work)))
    assert world.answer(to) is not None
    assert [effect for effect in world.seen if isinstance(effect, Rewrite)] == [
        Rewrite(old.segment)
    ]
