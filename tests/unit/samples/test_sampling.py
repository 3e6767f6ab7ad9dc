"""Ranks: their shares are a partition of the positions, on any world size, resumed anywhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrayd.errors import SpecMismatch
from arrayd.samples.sampling import batches_of_rank, count_rows, count_steps
from tests.unit.samples.plain import quick

SIZES = st.integers(1, 40)
WORLDS = st.integers(1, 9)


def positions(batches: list[list[tuple[int, int]]]) -> list[int]:
    """Return the positions of the batches of all ranks, in the order of the steps."""
    longest = max(map(len, batches))
    steps = [[one[i] for one in batches if i < len(one)] for i in range(longest)]
    return [p for step in steps for start, stop in step for p in range(start, stop)]


def of_all(n: int, size: int, world: int, *more: Any) -> list[list[tuple[int, int]]]:
    """Return the batches of each rank."""
    return [list(batches_of_rank(n, size, rank, world, *more)) for rank in range(world)]


@quick
@given(st.integers(0, 500), SIZES, WORLDS)
def test_the_shares_are_a_partition(n: int, size: int, world: int) -> None:
    """Each position once, in the order of the epoch, where the formula says; no empty batch."""
    batches = of_all(n, size, world)
    assert positions(batches) == list(range(n))
    for rank, own in enumerate(batches):
        for step, (start, stop) in enumerate(own):
            assert 0 < stop - start <= size
            for p in range(start, stop):
                assert (p // (size * world), p % (size * world) // size) == (step, rank)
        assert all(stop - start == size for start, stop in own[:-1])
        assert count_rows(n, size, rank, world) == sum(stop - start for start, stop in own)
    assert max(map(len, batches)) == count_steps(n, size, world)


@quick
@given(st.integers(0, 500), SIZES, WORLDS)
def test_with_drop_last_all_ranks_have_as_many_full_batches(n: int, size: int, world: int) -> None:
    """As many as can be; they are the first positions of the epoch."""
    batches = of_all(n, size, world, True)
    steps = n // (size * world)
    assert {len(own) for own in batches} == {steps} == {count_steps(n, size, world, True)}
    assert positions(batches) == list(range(steps * size * world))
    for rank in range(world):
        assert count_rows(n, size, rank, world, True) == steps * size


@quick
@given(st.integers(0, 120), st.data())
def test_a_run_goes_on_anywhere_with_other_ranks(n: int, data: st.DataObject) -> None:
    """Interrupted again and again, each time with another world and batch size: each row once."""
    seen: list[int] = []
    while len(seen) < n:
        size, world = data.draw(SIZES), data.draw(WORLDS)
        batches = of_all(n, size, world, False, len(seen))
        rest = positions(batches)
        assert rest == list(range(len(seen), n))
        full = [rank for rank in range(world) if len(batches[rank]) > 0]
        assert full == list(range(len(full)))  # only a tail leaves ranks without a batch
        assert len(full) == min(world, -(-len(rest) // size))
        for rank in range(world):
            rows = sum(stop - start for start, stop in batches[rank])
            assert count_rows(n, size, rank, world, False, len(seen)) == rows
        seen += rest[: data.draw(st.integers(1 + n // 5, n))]
    assert seen == list(range(n))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 0), "batch_size=0: it is a whole number from 1 on"),
        ((10, 2.5), "batch_size=2.5"),
        ((10, 1, 0, 0), "world=0: it is a whole number from 1 on"),
        ((10, 1, 2, 2), "rank=2 of world=2: ranks are counted from 0"),
        ((10, 1, -1, 2), "rank=-1"),
        ((10, 1, 0, 1, "no"), "drop_last='no'"),
        ((10, 1, 0, 1, False, 11), "start=11: an epoch has the positions from 0 to 10"),
        ((10, 1, 0, 1, False, -1), "start=-1"),
    ],
)
def test_arguments_are_checked(arguments: tuple[Any, ...], message: str) -> None:
    """At the call, before any batch is taken."""
    with pytest.raises(SpecMismatch, match=message):
        batches_of_rank(*arguments)
    with pytest.raises(SpecMismatch, match=message):
        count_rows(*arguments)
