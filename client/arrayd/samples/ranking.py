"""The rows of a selection sorted by key: all of them, or those at some positions only.

*All.* The upper bits of a key and the row's index in the selection are packed into one number of
64 bits, so that one array is sorted in place, without an array of indexes beside it. Rows whose
keys agree in these upper bits (8 M rows: some ten) are then put right by their whole keys. The
result needs half the memory and takes its place. Peak: 8 bytes per row, 4 afterwards.

*Some.* Keys are spread evenly over the 64-bit numbers, so the row at position p of n has a key
near p / n · 2**64: the number of keys below a threshold t has mean n·t/2**64 and a standard
deviation of at most √n / 2. `between` takes thresholds six deviations outside of the positions
that are wanted, counts the rows below the lower one and sorts those between the two. That is
exact whenever the wanted positions do lie between (which is checked; else the thresholds move
apart), and costs one hash of each row and the sorting of a few: no position waits for a sort of
all.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from arrayd.samples.keys import CHUNK, Keys, row_keys
from arrayd.samples.selection import Rows, chunks

Table: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""Indexes into a selection, in the order of the keys: uint32, or uint64 above 2**32 rows."""

_DEVIATIONS = 6
_SPACE = 2**64


def ranked(rows: Rows, key: int) -> Table:
    """Return the indexes of all rows of a selection, sorted by key.

    Parameters
    ----------
    rows
        The selection, of n rows.
    key
        See `arrayd.samples.keys.purpose_key`.

    Returns
    -------
    array of uint32, shape (n,)
        uint64 for more than 2**32 rows.
    """
    n = len(rows)
    low = np.uint64((1 << max(0, n - 1).bit_length()) - 1)
    packed: Keys = np.empty(n, np.uint64)
    for a, b in chunks(n, CHUNK):
        part = row_keys(rows.ids(a, b), key)
        part &= ~low
        part |= np.arange(a, b, dtype=np.uint64)
        packed[a:b] = part
    packed.sort()
    _settle_ties(packed, low, rows, key)
    return _unpack(packed, low)


def _settle_ties(packed: Keys, low: np.uint64, rows: Rows, key: int) -> None:
    """Order those by their whole keys whose packed keys are equal but for the index, `low`."""
    same = [
        a + np.flatnonzero((packed[a:b] ^ packed[a + 1 : b + 1]) <= low)
        for a, b in chunks(len(packed) - 1, CHUNK)
    ]
    first = np.concatenate([np.empty(0, np.intp), *same])
    tied = np.union1d(first, first + 1)
    # Equal ones are neighbours, and their order among the others is right: so it is enough to sort
    # all that are tied as one list and to put them back into the same places.
    there = packed[tied]
    packed[tied] = there[np.argsort(row_keys(rows.at(there & low), key))]


def _unpack(packed: Keys, low: np.uint64) -> Table:
    """Return the indexes out of `packed`, whose memory they take over."""
    n = len(packed)
    if n > 2**32:
        packed &= low
        return packed
    narrow = packed.view(np.uint32)
    for a, b in chunks(n, CHUNK):
        narrow[a:b] = packed[a:b] & low  # written at half the address of what is read: behind it
    del narrow
    packed.resize((n + 1) // 2, refcheck=False)  # gives the other half back; there is no view now
    return packed.view(np.uint32)[:n]


def between(rows: Rows, key: int, start: int, stop: int) -> npt.NDArray[np.int64]:
    """Return what ``ranked(rows, key)[start:stop]`` holds, without sorting all.

    Parameters
    ----------
    start, stop
        0 ≤ start ≤ stop ≤ len(rows).

    Returns
    -------
    array of int64, shape (stop - start,)
        Indexes into the selection.
    """
    n = len(rows)
    if start == stop:
        return np.empty(0, np.int64)
    factor = _DEVIATIONS
    while True:
        low = max(0, start - _slack(start, n, factor))
        high = min(n, stop + _slack(stop, n, factor))
        below, indexes, keys = _scan(rows, key, low * _SPACE // n, high * _SPACE // n - 1)
        if below <= start and below + len(keys) >= stop:
            return indexes[np.argsort(keys)][start - below : stop - below]
        factor *= 4  # ends: at the latest with low = 0 and high = n, which are all keys


def _slack(position: int, n: int, factor: int) -> int:
    """Return a bound on how far the number of keys below a threshold is from its mean."""
    return factor * (10 + math.isqrt(position * (n - position) // n))


def _scan(rows: Rows, key: int, first: int, last: int) -> tuple[int, npt.NDArray[np.int64], Keys]:
    """Count the rows with a key below `first`; return indexes and keys of those up to `last`."""
    below = 0
    indexes = [np.empty(0, np.int64)]
    found = [np.empty(0, np.uint64)]
    for a, b in chunks(len(rows), CHUNK):
        keys = row_keys(rows.ids(a, b), key)
        if first:
            below += int(np.count_nonzero(keys < np.uint64(first)))
        # first ≤ key ≤ last in one comparison: what is below wraps round to a large number
        inside = np.flatnonzero(keys - np.uint64(first) <= np.uint64(last - first))
        indexes.append(inside.astype(np.int64) + a)
        found.append(keys[inside])
    return below, np.concatenate(indexes), np.concatenate(found)
