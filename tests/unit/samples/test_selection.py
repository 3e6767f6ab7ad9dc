"""Selections: a range or rising row ids, and all that is taken of them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrayd.errors import SpecMismatch
from arrayd.samples import selection
from arrayd.samples.selection import Rows
from tests.unit.samples.plain import ints, listed, quick, selections

PLACES = st.none() | st.integers(-320, 320)


@quick
@given(selections(), PLACES, PLACES, st.none() | st.integers(1, 9))
def test_a_slice_is_that_of_a_list(
    rows: Rows, start: int | None, stop: int | None, step: int | None
) -> None:
    """With any bounds and step; a slice of a slice too."""
    part = rows[start:stop:step]
    assert listed(part) == listed(rows)[start:stop:step]
    assert listed(part[1:][::2]) == listed(part)[1::2]
    assert part.total == rows.total


@quick
@given(selections(), st.data())
def test_filter_take_and_places(rows: Rows, data: st.DataObject) -> None:
    """They are what a list would give."""
    ids = listed(rows)
    mask = data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    part = rows.filter(np.array(mask, bool))
    assert listed(part) == [row for row, wanted in zip(ids, mask, strict=True) if wanted]
    k = data.draw(st.integers(0, len(ids)))
    assert listed(rows.take(k)) == ids[:k]
    assert ints(rows.position_of(np.array(listed(part), np.int64))) == [
        ids.index(row) for row in listed(part)
    ]
    assert ints(rows.at(np.arange(k))) == ids[:k]
    assert ints(rows.rank(np.arange(rows.total + 1, dtype=np.uint64))) == [
        sum(row < value for row in ids) for value in range(rows.total + 1)
    ]


@quick
@given(selections())
def test_equal_rows_have_equal_digests(rows: Rows) -> None:
    """However they were made; and other rows have another one."""
    ids = listed(rows)
    for other in (
        Rows.of(ids, rows.total),
        Rows.of(np.array(ids, np.int64), rows.total),
        Rows.of(np.array(ids, np.uint16), rows.total + 5),
        Rows.of(np.array(ids, np.uint64), 2**40),
        Rows(rows.total).filter(np.isin(np.arange(rows.total), ids)),
    ):
        assert other.digest() == rows.digest()
        assert listed(other) == ids
        assert (other.array is None) == (rows.array is None)
    for i in range(min(3, len(ids))):
        assert rows.filter(np.arange(len(ids)) != i).digest() != rows.digest()


def test_the_digest_is_what_is_documented() -> None:
    """blake2b of 16 bytes over the words and the ids."""
    assert Rows(9, 2, 7).digest() == hashlib.blake2b(b"range 2 7", digest_size=16).digest()
    assert Rows(9, 4, 4).digest() == hashlib.blake2b(b"range 0 0", digest_size=16).digest()
    text = b"rows 2" + (1).to_bytes(8, "little") + (300).to_bytes(8, "little")
    assert Rows.of([1, 300], 301).digest() == hashlib.blake2b(text, digest_size=16).digest()


def test_chunks_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes several chunks is the same as what takes one."""
    mask = np.arange(100_000) % 3 > 0
    at_once = Rows(100_000).filter(mask)
    monkeypatch.setattr(selection.chunks, "__defaults__", (777,))
    parts = Rows(100_000).filter(mask)
    assert np.array_equal(parts.ids(0, len(parts)), np.flatnonzero(mask))
    assert parts.digest() == at_once.digest()
    assert Rows.of(np.flatnonzero(mask), 100_000).digest() == at_once.digest()
    with pytest.raises(SpecMismatch, match="777, at place 777, comes after 777"):
        Rows.of([*range(1, 778), *range(777, 2000)], 5000)


def test_memory_of_a_selection() -> None:
    """A range has none; ids have four bytes, or eight where four are too few; they are final."""
    assert Rows(10**12).array is None
    small, large = Rows.of([1, 3], 2**32).array, Rows.of([1, 2**32], 2**32 + 1).array
    assert small is not None
    assert large is not None
    assert small.dtype == np.uint32
    assert large.dtype == np.uint64
    with pytest.raises(ValueError, match="read-only"):
        small[0] = 2
    given = np.array([1, 3], np.uint32)
    kept = Rows.of(given, 9).array
    assert kept is not None
    assert np.shares_memory(kept, given)
    part = Rows.of(given, 9)[::2]
    assert repr(part) == "<rows 1 to 2 of 9>"
    assert repr(Rows.of(given, 9)) == "<2 of 9 rows>"
    assert given.flags.writeable


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 1], "1, at place 1, comes after 1.*np.unique"),
        ([0, 5, 4], "4, at place 2, comes after 5"),
        ([-1, 2], "the first one is -1"),
        ([3, 10], "Row 10: the dataset has 10 rows"),
        ([0.5], "whole numbers, not 1-dimensional float64"),
        ([True, False], "of a mask, True|Of a mask, True"),
        ([[1]], "2-dimensional"),
        (3, "0-dimensional"),
        (np.array([2**63], np.uint64), "Row 9223372036854775808: the dataset has 10"),
    ],
)
def test_ids_are_checked(ids: Any, message: str) -> None:
    """The first one that is wrong is named."""
    with pytest.raises(SpecMismatch, match=message):
        Rows.of(ids, 10)


@pytest.mark.parametrize("bounds", [(-1, 3), (4, 3), (0, 11), (11, 11)])
def test_ranges_are_checked(bounds: tuple[int, int]) -> None:
    """A range lies in the dataset."""
    with pytest.raises(SpecMismatch, match="they lie from 0 to 10"):
        Rows(10, *bounds)


@pytest.mark.parametrize("rows", [Rows(10), Rows.of([1, 4, 9], 10)], ids=["range", "ids"])
def test_what_is_taken_is_checked(rows: Rows) -> None:
    """Slices that go backwards, masks of other lengths, too many rows, rows that are not in it."""
    for key in (slice(None, None, -1), slice(0, 3, 0), slice("a"), 3):
        with pytest.raises(SpecMismatch, match="a slice that goes forwards"):
            rows[key]  # type: ignore[index]
    for mask in (np.ones(len(rows) + 1, bool), np.ones(len(rows), int), np.ones((1, 3), bool)):
        with pytest.raises(SpecMismatch, match=f"filter takes {len(rows)} bools"):
            rows.filter(mask)
    for k in (-1, len(rows) + 1):
        with pytest.raises(SpecMismatch, match=rf"take\({k}\): the selection has {len(rows)} rows"):
            rows.take(k)
    for ids, bad in [([1, 4, -1], -1), ([10, 1], 10), (2**40, 2**40)]:
        with pytest.raises(SpecMismatch, match=f"Row {bad} is not in the selection"):
            rows.position_of(ids)
    with pytest.raises(SpecMismatch, match="whole numbers, not float64"):
        rows.position_of([1.0])
    with pytest.raises(SpecMismatch, match="Row 3 is not in"):
        Rows.of([1, 4, 9], 10).position_of([1, 3])
    with pytest.raises(SpecMismatch, match="Row 0 is not in"):
        Rows(0).position_of(0)
    assert rows.position_of(4).shape == ()
