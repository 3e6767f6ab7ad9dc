"""A selection: which rows of a dataset, as a range or a strictly increasing array of row ids.

A selection is never a copy of data, and its rows are always in the dataset's order; in which
order a training sees them is decided in `arrayd.samples.order`.

Memory: a range costs nothing, an array 4 bytes per row (8 in a dataset of more than 2**32 rows).
Whatever walks over a selection does so in chunks of `CHUNK` rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from arrayd.common.arguments import whole
from arrayd.errors import SpecMismatch

Ids = npt.NDArray[np.uint64]
Indexes = npt.NDArray[np.integer[Any]]

CHUNK = 1 << 20
"""Rows that are handled at a time."""


class Rows:
    """A selection of the rows of a dataset: by default a range, all of them.

    Parameters
    ----------
    total
        Rows of the dataset.
    start, stop
        The rows start, start + 1, …, stop - 1; stop None: to the end.

    Attributes
    ----------
    total : int
        Rows of the dataset.
    start, stop : int
        The lowest row, and the highest plus 1; both 0 of an empty selection.
    array : array of uint32 or uint64, shape (n,), or None
        The row ids, read-only; None: they are the range from `start` to `stop`. Ids that follow
        each other without a gap are always a range. uint64 if the dataset has over 2**32 rows.

    Raises
    ------
    SpecMismatch
        Not 0 ≤ start ≤ stop ≤ total.
    """

    __slots__ = ("_digest", "array", "start", "stop", "total")

    def __init__(self, total: int, start: int = 0, stop: int | None = None) -> None:
        self.total = whole("total", total)
        self.start = whole("start", start)
        self.stop = self.total if stop is None else whole("stop", stop)
        if not 0 <= self.start <= self.stop <= self.total:
            raise SpecMismatch(
                f"Rows {self.start} to {self.stop} of a dataset of {self.total:,}: they lie from 0 "
                f"to {self.total}, the first before the end."
            )
        if self.start == self.stop:
            self.start = self.stop = 0
        self.array: npt.NDArray[np.unsignedinteger[Any]] | None = None
        self._digest: bytes | None = None

    @classmethod
    def of(cls, ids: Any, total: int) -> Self:
        """Return the selection of these rows.

        Parameters
        ----------
        ids : array-like of integers, shape (n,)
            Strictly increasing, from 0 to `total` - 1. An array of the dtype of `Rows.array` is
            not copied: nobody may write to it afterwards.
        total
            Rows of the dataset.

        Raises
        ------
        SpecMismatch
            They are no such row ids; it names the first that is wrong.
        """
        rows = cls(total)
        found = np.asarray(ids)
        if found.ndim != 1 or (found.dtype.kind not in "iu" and found.size):
            raise SpecMismatch(
                f"Row ids are a list of whole numbers, not {found.ndim}-dimensional {found.dtype}."
                " (Of a mask, True where a row is wanted, take filter.)"
            )
        _check_increasing(found, rows.total)
        return rows._chosen(found.astype(id_type(rows.total), copy=False))

    def _chosen(self, ids: npt.NDArray[np.unsignedinteger[Any]]) -> Self:
        """Return the selection of `ids`, which are right, in the form that is kept."""
        first, last = (int(ids[0]), int(ids[-1])) if len(ids) else (0, -1)
        rows = type(self)(self.total, first, last + 1)
        if len(ids) != last + 1 - first:
            rows.array = ids.view()
            rows.array.flags.writeable = False
        return rows

    def __len__(self) -> int:
        return self.stop - self.start if self.array is None else len(self.array)

    def __repr__(self) -> str:
        if self.array is None:
            return f"<rows {self.start:,} to {self.stop:,} of {self.total:,}>"
        return f"<{len(self):,} of {self.total:,} rows>"

    def __getitem__(self, key: slice) -> Self:
        """Return the rows at these places of the selection, as a slice of a list would.

        Raises
        ------
        SpecMismatch
            No slice, or one that goes backwards.
        """
        try:
            start, stop, step = key.indices(len(self))
        except (AttributeError, TypeError, ValueError):
            step = 0
        if step < 1:
            raise SpecMismatch(
                f"rows[{key!r}]: a selection is cut by a slice that goes forwards, rows[10:20] or "
                "rows[::2]. Rows keep the dataset's order; the order of a training is its own."
            )
        if self.array is None and step == 1:
            return type(self)(self.total, self.start + start, self.start + max(start, stop))
        if self.array is None:
            kind = id_type(self.total)
            return self._chosen(np.arange(self.start + start, self.start + stop, step, dtype=kind))
        return self._chosen(self.array[start:stop:step].copy() if step > 1 else self.array[key])

    def filter(self, mask: Any) -> Self:
        """Return the rows where `mask` is True.

        Parameters
        ----------
        mask : array-like of bool, shape (len(self),)

        Raises
        ------
        SpecMismatch
            It is of another shape or type.
        """
        wanted = np.asarray(mask)
        if wanted.dtype != bool or wanted.shape != (len(self),):
            raise SpecMismatch(
                f"filter takes {len(self):,} bools, one per row of the selection, not an array of "
                f"{wanted.dtype} of shape {wanted.shape}."
            )
        pieces = [self.ids(a, b)[wanted[a:b]] for a, b in chunks(len(self))]
        return self.joined(pieces)

    def joined(self, pieces: list[Ids]) -> Self:
        """Return the selection of ids that lie in consecutive pieces; the list is emptied.

        They are row ids of this dataset and strictly increasing, which is not checked again.
        """
        kind = id_type(self.total)
        out = np.empty(sum(map(len, pieces)), kind)
        at = 0
        pieces.reverse()
        while pieces:
            piece = pieces.pop()
            out[at : at + len(piece)] = piece
            at += len(piece)
        return self._chosen(out)

    def take(self, k: int) -> Self:
        """Return the first `k` rows.

        Raises
        ------
        SpecMismatch
            There are not so many.
        """
        number = whole("k", k)
        if not 0 <= number <= len(self):
            raise SpecMismatch(f"take({number:,}): the selection has {len(self):,} rows.")
        return self[:number]

    def ids(self, start: int, stop: int) -> Ids:
        """Return the row ids at the places from `start` to `stop` of the selection.

        Parameters
        ----------
        start, stop
            0 ≤ start ≤ stop ≤ len(self).

        Returns
        -------
        array of uint64, shape (stop - start,)
            A copy.
        """
        if self.array is None:
            return np.arange(self.start + start, self.start + stop, dtype=np.uint64)
        return self.array[start:stop].astype(np.uint64)

    def at(self, indexes: Indexes) -> Ids:
        """Return the row ids at these places of the selection (from 0 to len(self) - 1)."""
        if self.array is None:
            return indexes.astype(np.uint64) + np.uint64(self.start)
        return self.array[indexes].astype(np.uint64)

    def rank(self, values: Ids) -> npt.NDArray[np.int64]:
        """Return how many rows of the selection lie below each of `values` (uint64)."""
        if self.array is None:
            low, high = np.uint64(self.start), np.uint64(self.stop)
            return (np.clip(values, low, high) - low).astype(np.int64)
        return np.searchsorted(self.array, values).astype(np.int64)

    def position_of(self, ids: Any) -> npt.NDArray[np.int64]:
        """Return at which place of the selection each of these rows is.

        Parameters
        ----------
        ids : integer or array-like of integers

        Returns
        -------
        array of int64, shape of `ids`

        Raises
        ------
        SpecMismatch
            One of them is not in the selection.
        """
        given = np.asarray(ids)
        if given.dtype.kind not in "iu" and given.size:
            raise SpecMismatch(f"Row ids are whole numbers, not {given.dtype}.")
        known = (given >= 0) & (given < self.total)
        places = self.rank(np.where(known, given, 0).astype(np.uint64))
        known &= places < len(self)
        if len(self):
            known &= self.at(np.where(known, places, 0)) == given
        if not known.all():
            raise SpecMismatch(f"Row {given[~known][0]} is not in the selection, {self!r}.")
        return places

    def digest(self) -> bytes:
        """Return 16 bytes that name the row ids, however they are kept; computed once.

        It is blake2b over ``range START STOP``, in decimal, if no row is left out between the
        first and the last, else over ``rows N`` and the ids as little-endian uint64. The size of
        the dataset is not part of it: rows 0 to 100 stay the same when rows are appended.
        """
        if self._digest is None:
            state = hashlib.blake2b(digest_size=16)
            if self.array is None:
                state.update(f"range {self.start} {self.stop}".encode())
            else:
                state.update(f"rows {len(self)}".encode())
                for a, b in chunks(len(self)):
                    state.update(self.ids(a, b).astype("<u8", copy=False).data)
            self._digest = state.digest()
        return self._digest


def chunks(n: int, size: int = CHUNK) -> Iterator[tuple[int, int]]:
    """Yield ranges of at most `size` that cover 0 to `n`."""
    for start in range(0, n, size):
        yield start, min(n, start + size)


def id_type(total: int) -> npt.DTypeLike:
    """Return the type in which row ids of a dataset of `total` rows are kept."""
    return np.uint32 if total <= 2**32 else np.uint64


def _check_increasing(ids: npt.NDArray[Any], total: int) -> None:
    """Raise `SpecMismatch` unless 0 ≤ ids[0] < ids[1] < … < total."""
    previous = -1
    for a, b in chunks(len(ids)):
        part = ids[a:b]
        steps = part[1:] > part[:-1]
        if not steps.all() or int(part[0]) <= previous:
            bad = a if int(part[0]) <= previous else a + 1 + int(np.argmin(steps))
            before = previous if bad == a else int(ids[bad - 1])
            raise SpecMismatch(
                f"Row ids rise strictly from 0: {int(ids[bad])}, at place {bad}, comes after "
                f"{before}. np.unique(ids) sorts them and drops repetitions."
                if bad
                else f"Row ids rise strictly from 0: the first one is {int(ids[0])}."
            )
        previous = int(part[-1])
    if previous >= total:
        raise SpecMismatch(f"Row {previous}: the dataset has {total:,} rows, from 0 on.")
