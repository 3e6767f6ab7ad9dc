"""Splits and subsets: disjoint, as large as asked for, and stable."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrayd.errors import SpecMismatch
from arrayd.samples import selection
from arrayd.samples.selection import Rows
from arrayd.samples.splits import split, subset
from tests.unit.samples import plain
from tests.unit.samples.plain import SEEDS, listed, quick, selections

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}

FRACTIONS = st.lists(st.integers(0, 10), min_size=1, max_size=4).map(
    lambda parts: {f"p{i}": part / max(10, sum(parts)) for i, part in enumerate(parts)}
)
"""Fractions that add up to 1 at most, up to rounding."""


@quick
@given(selections(), FRACTIONS, SEEDS)
def test_a_row_is_in_the_part_where_its_key_lies(
    rows: Rows, fractions: dict[str, float], seed: int
) -> None:
    """Each row is in one part at most, as the thresholds of the definition say; others in none."""
    parts = split(rows, fractions, seed)
    assert list(parts) == list(fractions)
    edges = [sum(map(Fraction, list(fractions.values())[:i])) for i in range(len(fractions) + 1)]
    if edges[-1] > 1 - Fraction(1, 10**9):
        edges[-1] = Fraction(1)
    for i, part in enumerate(parts.values()):
        assert listed(part) == [
            row
            for row in listed(rows)
            if edges[i] <= Fraction(plain.key(row, seed, 0, "split"), 2**64) < edges[i + 1]
        ]


@quick
@given(selections(), st.integers(0, 200), SEEDS)
def test_rows_that_are_appended_move_no_old_one(rows: Rows, more: int, seed: int) -> None:
    """Of the longer dataset, each part has the rows of the shorter one's, and new ones."""
    old = split(rows, SHARES, seed)
    longer = Rows.of(listed(rows) + [rows.total + i for i in range(more)], rows.total + more)
    new = split(longer, SHARES, seed)
    for name in SHARES:
        assert [row for row in listed(new[name]) if row < rows.total] == listed(old[name])
    whole = split(Rows(rows.total), SHARES, seed)
    for name in SHARES:
        assert set(listed(old[name])) <= set(listed(whole[name]))


def test_the_parts_have_about_their_fractions() -> None:
    """Of 100,000 rows, within five deviations; other seeds have other parts."""
    rows = Rows(100_000)
    parts = split(rows, SHARES, 1)
    for name, share in SHARES.items():
        assert abs(len(parts[name]) - share * 1e5) < 5 * (1e5 * share * (1 - share)) ** 0.5
    assert sum(map(len, parts.values())) == 100_000
    assert split(rows, SHARES, 2)["test"].digest() != parts["test"].digest()
    assert sum(map(len, split(rows, {"a": 0.3}).values())) < 31_000


@quick
@given(st.lists(st.integers(-3, 8), max_size=200), SEEDS)
def test_groups_stay_together(groups: list[int], seed: int) -> None:
    """All rows of a value are in one part, whatever type it has; as the definition says."""
    rows = Rows(len(groups))
    parts = split(rows, SHARES, seed, group=np.array(groups, np.int16))
    homes = {groups[row]: name for name, part in parts.items() for row in listed(part)}
    for name, part in parts.items():
        assert all(homes[groups[row]] == name for row in listed(part))
    for other in (groups, np.array(groups, np.int64), np.array(groups, object)):
        again = split(rows, SHARES, seed, group=other)
        assert [p.digest() for p in again.values()] == [p.digest() for p in parts.values()]
    for value, home in homes.items():
        number = int.from_bytes(hashlib.blake2b(b"i%d" % value, digest_size=8).digest(), "little")
        key = plain.key(number, seed, 0, "split")
        assert home == ("train" if key < 0.8 * 2**64 else "val" if key < 0.9 * 2**64 else "test")


def test_groups_of_strings() -> None:
    """str, bytes and objects of one text are one group; names that are no UTF-8 are names too."""
    names = ["ann", "bob", "ann", "zoë", "caf\udce9", "bob", "", "\ud800"] * 3
    rows = Rows(len(names))
    parts = [part.digest() for part in split(rows, {"a": 0.5}, 3, group=names).values()]
    forms: list[Any] = [np.array(names), np.array(names, object)]
    for form in forms:
        assert [p.digest() for p in split(rows, {"a": 0.5}, 3, group=form).values()] == parts
    texts = ["ann", "zoë", "caf\udce9"] * 2
    raw = np.array([text.encode("utf-8", "surrogateescape") for text in texts])
    for seed in range(8):
        of_str = split(Rows(6), {"a": 0.5}, seed, group=texts)["a"]
        assert split(Rows(6), {"a": 0.5}, seed, group=raw)["a"].digest() == of_str.digest()


def test_a_column_of_the_whole_dataset_will_do() -> None:
    """Its values are those of the rows, not of the places in the selection."""
    values = np.arange(1000) // 7
    rows = Rows(1000)[::3]
    for word in ("group", "stratify"):
        own: Any = {word: values[::3]}
        whole: Any = {word: values}
        assert [p.digest() for p in split(rows, SHARES, 5, **own).values()] == [
            p.digest() for p in split(rows, SHARES, 5, **whole).values()
        ]


@quick
@given(st.lists(st.sampled_from("abcde"), max_size=200), FRACTIONS, SEEDS)
def test_strata_are_exact(labels: list[str], fractions: dict[str, float], seed: int) -> None:
    """Each part has each label's share, up to one row; the rows of lowest keys come first."""
    rows = Rows(len(labels))
    parts = split(rows, fractions, seed, stratify=labels)
    taken = [row for part in parts.values() for row in listed(part)]
    assert len(taken) == len(set(taken))
    for label in set(labels):
        ids = [row for row in range(len(labels)) if labels[row] == label]
        counts = [len(set(listed(part)) & set(ids)) for part in parts.values()]
        for count, share in zip(counts, fractions.values(), strict=True):
            assert abs(count - share * len(ids)) < 1
        assert abs(sum(counts) - sum(fractions.values()) * len(ids)) < 1
        ids.sort(key=lambda row: plain.key(row, seed, 0, "split"))
        for part, count in zip(parts.values(), counts, strict=True):
            assert set(listed(part)) & set(ids) == set(ids[:count])
            del ids[:count]


def test_the_largest_remainders_get_what_is_left() -> None:
    """By hand: 7 rows by halves and thirds, ties to the part named first."""
    for shares, expected in [
        ({"a": 0.5, "b": 0.5}, [4, 3]),
        ({"a": 0.2, "b": 0.7}, [1, 5]),  # 1.4, 4.9 and 0.7 for no part: 1, 5 and 1
        ({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, [3, 2, 2]),
        ({"a": 0.0, "b": 1.0}, [0, 7]),
        ({"a": 0.0}, [0]),
    ]:
        parts = split(Rows(7), shares, 0, stratify=[1] * 7)
        assert [len(part) for part in parts.values()] == expected
    ten = split(Rows(10), {"a": 0.3, "b": 0.7}, 0, stratify=[1] * 10)
    assert [len(part) for part in ten.values()] == [3, 7]


def test_chunks_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes several chunks is the same as what takes one, with many labels too."""
    rows = Rows(20_000, 5)
    values = np.random.default_rng(1).integers(0, 600, len(rows))

    def everything() -> list[bytes]:
        made = [split(rows, SHARES, 1), split(rows, SHARES, 1, group=values)]
        made.append(split(rows, SHARES, 1, stratify=values))
        made.append({"s": subset(rows, 1234, 1)})
        return [part.digest() for parts in made for part in parts.values()]

    at_once = everything()
    monkeypatch.setattr(selection.chunks, "__defaults__", (777,))
    assert everything() == at_once


@quick
@given(selections(), SEEDS, st.data())
def test_subsets_nest(rows: Rows, seed: int, data: st.DataObject) -> None:
    """A subset has the rows of lowest keys, so a smaller one is inside."""
    n = data.draw(st.integers(0, len(rows)))
    part = subset(rows, n, seed)
    keys = {row: plain.key(row, seed, 0, "subset") for row in listed(rows)}
    assert listed(part) == sorted(sorted(keys, key=lambda row: keys[row])[:n])
    assert set(listed(subset(rows, n // 2, seed))) <= set(listed(part))
    assert subset(part, n // 2, seed).digest() == subset(rows, n // 2, seed).digest()


def test_subsets_by_fraction() -> None:
    """Rounded, one row at least; 1 is a row, 1.0 all."""
    rows = Rows(1000)
    sizes = [len(subset(rows, n)) for n in (0.1, 0.2504, 1e-9, 1.0, 1)]
    assert sizes == [100, 250, 1, 1000, 1]
    assert len(subset(Rows(0), 0.5)) == 0
    some: list[Any] = [np.int64(500), np.float32(0.5)]
    assert [subset(rows, n).digest() for n in some] == [subset(rows, 500).digest()] * 2


@pytest.mark.parametrize(
    ("n", "message"),
    [
        (1001, r"subset\(1,001\): the selection has 1,000 rows"),
        (-1, r"subset\(-1\): it takes a number of rows"),
        (True, "subset.True"),
        ("5", "subset.'5'"),
        (0.0, "a fraction is above 0 and at most 1"),
        (1.5, "a fraction is above 0 and at most 1"),
        (float("nan"), "a fraction is above 0"),
    ],
)
def test_sizes_are_checked(n: Any, message: str) -> None:
    """A size that cannot be is refused with both numbers."""
    with pytest.raises(SpecMismatch, match=message):
        subset(Rows(1000), n)


@pytest.mark.parametrize(
    ("fractions", "options", "message"),
    [
        ({"train": 0.8, "val": 0.3}, {}, "train=0.8, val=0.3 add up to 1.1, more than 1"),
        ({"train": -0.1}, {}, "train=-0.1: a fraction is a number from 0 to 1"),
        ({"train": float("nan")}, {}, "train=nan"),
        ({"train": "most"}, {}, "train='most'"),
        ({"train": True}, {}, "train=True"),
        ({}, {}, "at least one fraction"),
        (SHARES, {"seed": -1}, "seed=-1"),
        (SHARES, {"group": [1] * 6, "stratify": [1] * 6}, "not both"),
        (SHARES, {"group": [1] * 5}, r"one value per row, 6 \(or 8, .*not shape \(5,\)"),
        (SHARES, {"group": [[1] * 6]}, r"not shape \(1, 6\)"),
        (SHARES, {"group": 3}, r"not shape \(\)"),
        (SHARES, {"group": [[1], [1, 2]]}, "group= has one value per row"),
        (SHARES, {"group": [0.5] * 6}, "whole numbers or strings, not float64"),
        (SHARES, {"stratify": [None, *"abcde"]}, "None or a missing value is neither"),
        (SHARES, {"stratify": np.array([1, "a"] * 3, object)}, "all of one kind"),
    ],
)
def test_what_split_is_given_is_checked(
    fractions: dict[str, float], options: dict[str, Any], message: str
) -> None:
    """One error each, with the numbers, before anything is done."""
    with pytest.raises(SpecMismatch, match=message):
        split(Rows(8, 1, 7), fractions, **options)


def test_sums_that_are_1_but_for_rounding() -> None:
    """All rows belong to a part then, and none is refused."""
    for shares in ({"a": 0.8, "b": 0.1, "c": 0.1}, {f"p{i}": 1 / 49 for i in range(49)}):
        assert sum(map(len, split(Rows(3000), shares).values())) == 3000
    assert sum(map(len, split(Rows(3000), {"a": 0.5, "b": 0.5 + 5e-10}).values())) == 3000
