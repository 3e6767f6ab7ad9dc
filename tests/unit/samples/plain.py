"""The order as its definition says it, in plain Python: no numpy, nothing of the product."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from arrayd.samples.selection import Rows

M = 2**64 - 1
PHI = 0x9E3779B97F4A7C15

quick = settings(max_examples=50, deadline=None)
"""Few examples, as each has many rows, and no deadline: the machine may be busy."""

SEEDS = st.integers(0, M)


def mix64(z: int) -> int:
    """Return the finaliser of SplitMix64."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & M
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & M
    return z ^ (z >> 31)


def unmix64(z: int) -> int:
    """Return the number whose `mix64` is `z`."""
    z ^= (z >> 31) ^ (z >> 62)
    z = z * pow(0x94D049BB133111EB, -1, 2**64) & M
    z ^= (z >> 27) ^ (z >> 54)
    z = z * pow(0xBF58476D1CE4E5B9, -1, 2**64) & M
    return z ^ (z >> 30) ^ (z >> 60)


def epoch_key(seed: int, epoch: int, purpose: str = "order") -> int:
    """Return what all keys of an epoch have in common."""
    word = int.from_bytes(purpose.encode("ascii"), "little")
    return mix64((mix64((mix64(word) + seed) & M) + epoch) & M)


def key(row: int, seed: int, epoch: int, purpose: str = "order") -> int:
    """Return the key of a row."""
    return mix64(mix64((row * PHI + epoch_key(seed, epoch, purpose)) & M))


def row_of(wanted: int, seed: int, epoch: int, purpose: str = "order") -> int:
    """Return the row that has this key."""
    inner = unmix64(unmix64(wanted)) - epoch_key(seed, epoch, purpose)
    return inner * pow(PHI, -1, 2**64) & M


def order(rows: Iterable[int], seed: int, epoch: int) -> list[int]:
    """Return the rows in the exact order of an epoch."""
    return sorted(rows, key=lambda row: (key(row, seed, epoch), row))


def same_key_rows(count: int, top: int, seed: int, epoch: int = 0, purpose: str = "order") -> Rows:
    """Return rows whose keys are neighbours: all but their lowest bits are those of `top`."""
    found = (row_of(top + i, seed, epoch, purpose) for i in range(4 * count + 64))
    rows = [row for row in found if row < 2**63 - 1][:count]
    assert len(rows) == count
    return Rows.of(np.array(sorted(rows), np.uint64), 2**63 - 1)


@st.composite
def selections(draw: st.DrawFn, most: int = 300) -> Rows:
    """Draw a range, or a selection with gaps."""
    total = draw(st.integers(0, most))
    if draw(st.booleans()):
        start = draw(st.integers(0, total))
        return Rows(total, start, draw(st.integers(start, total)))
    mask = draw(st.lists(st.booleans(), min_size=total, max_size=total))
    return Rows(total).filter(np.array(mask, bool))


def listed(rows: Rows) -> list[int]:
    """Return the row ids of a selection."""
    return [int(one) for one in rows.ids(0, len(rows))]


def ints(array: Any) -> list[int]:
    """Return the elements of an array of integers."""
    return [int(one) for one in array]
