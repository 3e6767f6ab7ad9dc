"""The order: its definition, its windows, and what follows from sorting by key."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arrayd.errors import SpecMismatch
from arrayd.samples import order as order_module
from arrayd.samples import ranking
from arrayd.samples.keys import mix64, purpose_key, row_keys
from arrayd.samples.order import KINDS, EpochOrder, row_seeds
from arrayd.samples.selection import Rows
from tests.unit.samples import plain
from tests.unit.samples.plain import SEEDS, ints, listed, quick, selections

KEYS = [
    (0, 0, 0, "order", 0xDBE1712EADE01C8C),
    (1, 0, 0, "order", 0xC85AF0CB20A46BB9),
    (123456789, 7, 3, "order", 0xA096E4E1CA6B9317),
    (2**40, 2**64 - 1, 2, "order", 0x1B4BCEF05E663272),
    (5, 7, 3, "augment", 0xA5B43AA13D2FA8EA),
]
"""The published test vectors: row, seed, epoch, purpose, key."""

ORDERS = [(0, 0, [9, 8, 7, 3, 6, 5, 1, 0, 4, 2]), (7, 3, [1, 0, 3, 8, 4, 6, 7, 5, 2, 9])]
"""The same: seed, epoch, order of the rows 0 to 9."""

LARGE = Rows(200_000, 11, 199_999)
"""Enough rows for a first window that sorts a part of them only."""


@pytest.mark.parametrize(("row", "seed", "epoch", "purpose", "expected"), KEYS)
def test_the_published_keys(row: int, seed: int, epoch: int, purpose: str, expected: int) -> None:
    """The keys are those of the definition, whoever computes them."""
    assert plain.key(row, seed, epoch, purpose) == expected
    found = row_keys(np.array([row], np.uint64), purpose_key(purpose, seed, epoch))
    assert ints(found) == [expected]


@pytest.mark.parametrize(("seed", "epoch", "expected"), ORDERS)
def test_the_published_orders(seed: int, epoch: int, expected: list[int]) -> None:
    """The orders are those of the definition."""
    assert plain.order(range(10), seed, epoch) == expected
    assert ints(EpochOrder(Rows(10), seed, epoch).window(0, 10)) == expected


def test_the_definition_in_the_documentation_runs() -> None:
    """The code of the docstring defines the order, and its test vectors are right."""
    text = order_module.__doc__ or ""
    code, vectors = re.findall(r"::\n\n(.*?)\n\n(?=\S)", text, re.DOTALL)
    names: dict[str, object] = {}
    exec(re.sub("^    ", "", code, flags=re.MULTILINE), names)
    lines = vectors.splitlines()
    assert len(lines) == 10
    for line in lines:
        expression, _, value = line.partition(" = ")
        assert eval(expression, names) == eval(value), line


@quick
@given(SEEDS, SEEDS, st.lists(st.integers(0, 2**63 - 1), max_size=40))
def test_keys_are_those_of_plain_python(seed: int, epoch: int, rows: list[int]) -> None:
    """For any row, seed and epoch; `mix64` of an array and of a number are one function."""
    ids = np.array(rows, np.uint64)
    expected = [plain.key(row, seed, epoch) for row in rows]
    assert ints(row_keys(ids, purpose_key("order", seed, epoch))) == expected
    assert ints(ids) == rows
    assert mix64(seed) == plain.mix64(seed)
    assert plain.unmix64(plain.mix64(seed)) == seed


@quick
@given(selections(), SEEDS, SEEDS)
def test_an_epoch_is_the_selection_sorted_by_key(rows: Rows, seed: int, epoch: int) -> None:
    """Every row once, in the order of the definition; of the dtype that is promised."""
    found = EpochOrder(rows, seed, epoch).window(0, len(rows))
    assert found.dtype == np.uint64
    assert ints(found) == plain.order(listed(rows), seed, epoch)


@quick
@given(selections(), SEEDS, st.integers(1, 40), st.integers(1, 9))
def test_every_kind_is_a_permutation(rows: Rows, seed: int, block: int, buffer: int) -> None:
    """Each row of the selection comes once, and a window never depends on those before it."""
    n = len(rows)
    for kind in KINDS:
        order = EpochOrder(rows, seed, 1, kind, block=block, buffer=buffer)
        whole = ints(order.window(0, n))
        assert sorted(whole) == listed(rows)
        for cut in (n // 3, n // 2, n):
            fresh = EpochOrder(rows, seed, 1, kind, block=block, buffer=buffer)
            assert ints(fresh.window(cut // 2, cut)) == whole[cut // 2 : cut]
            assert ints(order.window(cut // 2, cut)) == whole[cut // 2 : cut]


@quick
@given(
    st.sampled_from([LARGE, LARGE[::2]]),
    st.lists(st.tuples(st.integers(0, 199_988), st.integers(0, 3000)), min_size=1, max_size=5),
    st.none() | st.integers(0, 5),
)
def test_windows_agree_whatever_was_asked_before(
    rows: Rows, windows: list[tuple[int, int]], prepare: int | None
) -> None:
    """First windows, windows in mid-epoch, and those after the sort: all of one order."""
    whole = WHOLE[len(rows)]
    order = EpochOrder(rows, 5, 2)
    for number, (first, length) in enumerate(windows):
        if number == prepare:
            order.prepare()
        start = min(first, len(rows))
        stop = min(start + length, len(rows))
        middle = (start + stop) // 2
        assert np.array_equal(order.window(start, middle), whole[start:middle])
        assert np.array_equal(order.window(middle, stop), whole[middle:stop])
        assert np.array_equal(order.window(start, stop), whole[start:stop])


def all_rows(rows: Rows) -> np.ndarray:
    """Return the exact order by numpy's sort of the keys."""
    ids = rows.ids(0, len(rows))
    return ids[np.argsort(row_keys(ids, purpose_key("order", 5, 2)))]


WHOLE = {len(rows): all_rows(rows) for rows in (LARGE, LARGE[::2])}


def test_a_first_window_does_not_sort_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """It and those that follow it closely are found without; the next one far away sorts, once."""
    sorts = []

    def ranked(rows: Rows, key: int) -> ranking.Table:
        sorts.append(len(rows))
        return ranking.ranked(rows, key)

    monkeypatch.setattr(order_module, "ranked", ranked)
    for first in (0, 100_000, len(LARGE) - 100):
        order = EpochOrder(LARGE, 5, 2)
        order.window(first, first + 100)
        stop = min(first + order_module.SPAN, len(LARGE))
        assert len(order.window(first + 50, stop)) == stop - first - 50
        assert sorts == []
    order.window(0, 10)
    order.window(50, len(LARGE))
    assert sorts == [len(LARGE)]


def test_windows_are_taken_while_another_thread_sorts() -> None:
    """`prepare` in the background, and windows in several threads: the same rows."""
    order = EpochOrder(LARGE, 5, 2)
    right = []

    def take(start: int) -> None:
        whole = WHOLE[len(LARGE)]
        right.append(np.array_equal(order.window(start, start + 999), whole[start : start + 999]))

    threads = [threading.Thread(target=order.prepare)]
    threads += [threading.Thread(target=take, args=(at,)) for at in (0, 50_000, 100, 150_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 4


@pytest.mark.parametrize("top", [0, 0x123456789ABC0000, 2**64 - 2**20])
def test_keys_that_agree_in_their_upper_bits(top: int) -> None:
    """Then the lower bits decide; and where keys are crowded, first windows are right as well."""
    rows = plain.same_key_rows(1000, top, seed=3)
    key = purpose_key("order", 3)
    expected = plain.order(listed(rows), 3, 0)
    assert ints(rows.at(ranking.ranked(rows, key))) == expected
    for start, stop in [(0, 7), (500, 600), (990, 1000), (0, 1000), (5, 5)]:
        assert ints(rows.at(ranking.between(rows, key, start, stop))) == expected[start:stop]


@quick
@given(selections(), SEEDS, st.floats(0, 1))
def test_the_order_of_a_part_is_that_of_all(rows: Rows, seed: int, share: float) -> None:
    """The order of a subset is the order of the whole, without the rows that are not in it."""
    mask = np.random.default_rng(seed).random(len(rows)) < share
    part = rows.filter(mask)
    inside = set(listed(part))
    whole = ints(EpochOrder(rows, seed, 0).window(0, len(rows)))
    assert ints(EpochOrder(part, seed, 0).window(0, len(part))) == [r for r in whole if r in inside]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    """No two of them agree, and none begins with the rows of another."""
    orders = [EpochOrder(Rows(500), seed, epoch) for seed in range(6) for epoch in range(6)]
    starts = {tuple(ints(order.window(0, 5))) for order in orders}
    assert len(starts) == 36


def test_a_position_is_each_row_equally_often() -> None:
    """χ² of the row at a position over 4,000 epochs; how often neighbours stay such."""
    epochs = 4000
    ids = np.arange(16, dtype=np.uint64)
    keys = np.array([row_keys(ids, purpose_key("order", 1, epoch)) for epoch in range(epochs)])
    order = np.argsort(keys, axis=1)
    for position in (0, 7, 15):
        found = np.bincount(order[:, position], minlength=16)
        assert ((found - epochs / 16) ** 2 / (epochs / 16)).sum() < 45  # 15 df: beyond 1 in 10,000
    steps = np.diff(order, axis=1) == 1  # expected: 15 pairs at 15 places out of 240
    assert abs(steps.mean() - 1 / 16) < 0.005


@quick
@given(selections(120), SEEDS, st.integers(1, 20), st.integers(1, 5))
def test_the_order_block_keeps_blocks_together(
    rows: Rows, seed: int, block: int, buffer: int
) -> None:
    """A group has the rows of `buffer` blocks, sorted by key; no other group has any of them."""
    ids = listed(rows)
    order = EpochOrder(rows, seed, 0, "block", block=block, buffer=buffer)
    rest = ints(order.window(0, len(rows)))
    numbers = {row // block for row in ids}
    keys = {number: plain.key(number, seed, 0, "block") for number in numbers}
    blocks = sorted(numbers, key=lambda number: keys[number])
    for i in range(0, len(blocks), buffer):
        group = [row for row in ids if row // block in blocks[i : i + buffer]]
        assert rest[: len(group)] == plain.order(group, seed, 0)
        del rest[: len(group)]
    assert rest == []


def test_the_bias_of_each_kind() -> None:
    """N / (block · buffer), never below 1; with one group the order is the exact one."""
    rows = Rows(1000)
    assert EpochOrder(rows, 0, 0).bias() == 1
    assert EpochOrder(rows, 0, 0, "sequential").bias() == 1000
    assert EpochOrder(rows, 0, 0, "block", block=10, buffer=5).bias() == 20
    one = EpochOrder(rows, 0, 0, "block", block=10, buffer=100)
    assert one.bias() == 1
    assert np.array_equal(one.window(0, 1000), EpochOrder(rows, 0, 0).window(0, 1000))


@quick
@given(SEEDS, SEEDS)
@example(0, 0)
def test_seeds_of_rows(seed: int, epoch: int) -> None:
    """One per row from (seed, epoch, row), which is no key of the order."""
    rows = [0, 3, 2**40]
    expected = [plain.key(row, seed, epoch, "augment") for row in rows]
    assert ints(row_seeds(rows, seed, epoch)) == expected
    assert ints(row_seeds(np.array([3], np.uint32), seed, epoch)) == expected[1:2]
    assert set(expected).isdisjoint(plain.key(row, seed, epoch) for row in rows)
    assert row_seeds([], seed, epoch).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, r"seed=-1: it is a whole number from 0 to 2\*\*64 - 1"),
        ({"seed": 2**64}, "seed=18446744073709551616"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"seed": True}, "seed=True"),
        ({"epoch": -1}, "epoch=-1"),
        ({"kind": "random"}, "order='random': it can be 'exact'"),
        ({"block": 0}, "block=0: it is a whole number of at least 1"),
        ({"buffer": -3}, "buffer=-3"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, object], message: str) -> None:
    """A seed, epoch or kind that cannot be is refused, with what it may be."""
    given: dict[str, object] = {"seed": 0, "epoch": 0, **arguments}
    with pytest.raises(SpecMismatch, match=message):
        EpochOrder(Rows(10), **given)  # type: ignore[arg-type]


def test_positions_and_rows_are_checked() -> None:
    """A window outside of the epoch, and rows that are none."""
    order = EpochOrder(Rows(10), 0, 0)
    for start, stop in [(-1, 2), (3, 2), (5, 11)]:
        with pytest.raises(SpecMismatch, match=f"Positions {start} to {stop}.*from 0 to 10"):
            order.window(start, stop)
    for rows in ([-1], [0.5]):
        with pytest.raises(SpecMismatch, match="whole numbers from 0 on"):
            row_seeds(rows, 0, 0)


def test_a_window_belongs_to_its_caller() -> None:
    """Writing to it changes no later window."""
    for kind in KINDS:
        order = EpochOrder(Rows(100), 1, 1, kind, block=5, buffer=2)
        first = order.window(0, 50)
        kept = first.copy()
        first[:] = 0
        assert np.array_equal(order.window(0, 50), kept)
