"""What must be decoded to be read: in which units, how often, and whether a pack has room.

A *unit* is what is decoded together: the rows of a chunk, a part of a text, a file that is one row.

How often
=========
Of a unit with k wanted rows, a window of w of the n rows of an epoch has none with probability
``(1 - w/n) ** k``, for the order is random. So without a pack a unit is decoded, per epoch, ::

    n/w (1 - (1 - w/n) ** k)

times: n/w times where each window has some of its rows, k times where no window has two. Rows that
stay in memory are not wanted from the files: of a part s of them, w/n becomes (1 - s) w/n.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from arrayd.samples.manifest import Files
from arrayd.samples.pack_spec import PackSpec
from arrayd.samples.selection import Rows


@dataclass(frozen=True, slots=True)
class WantedUnits:
    """The units of a field that have wanted rows.

    Parameters
    ----------
    rows
        Of all of them, wanted or not.
    row_bytes, cast_bytes
        Of a row of the field in its files, and after the cast.
    wanted
        How many units have so many wanted rows: pairs (rows, units).
    unit_bytes
        Of the largest unit, decoded.
    """

    rows: int
    row_bytes: int
    cast_bytes: int
    wanted: tuple[tuple[int, int], ...]
    unit_bytes: int = 0

    @classmethod
    def of(
        cls, files: Files, unit: int, rows: Rows, row_bytes: int, cast_bytes: int
    ) -> WantedUnits:
        """Return the units of files that are decoded `unit` rows at a time."""
        if unit == 1:
            return cls(len(rows), row_bytes, cast_bytes, ((1, len(rows)),), row_bytes)
        edges = _edges(files, unit)
        if rows.array is None:
            wanted = np.diff(edges.clip(rows.start, rows.stop))
        else:
            wanted = np.diff(np.searchsorted(rows.array, edges.astype(rows.array.dtype)))
        touched = wanted > 0
        counts, many = np.unique(wanted[touched], return_counts=True)
        pairs = tuple(zip(counts.tolist(), many.tolist(), strict=True))
        largest = int(np.diff(edges).max(initial=0)) * row_bytes
        return cls(int(np.diff(edges)[touched].sum()), row_bytes, cast_bytes, pairs, largest)

    @property
    def nbytes(self) -> int:
        """Bytes that come of decoding each once."""
        return self.rows * self.row_bytes

    def decodes(self, window: int, n: int, kept: float) -> float:
        """Return how often a unit is decoded per epoch, on average.

        Parameters
        ----------
        window
            Rows of each window but the last, which has what is left.
        n
            Rows of an epoch.
        kept
            Part of the rows that stay in memory.
        """
        times = 0.0
        for size, count in ((window, n // window), (n % window, 1)):
            for k, many in self.wanted:
                times += many * count * (1 - (1 - size / n * (1 - kept)) ** k)
        return times / max(1, sum(many for _, many in self.wanted))


def _edges(files: Files, unit: int) -> npt.NDArray[np.int64]:
    """Return the first row of each unit, and at the end the number of rows."""
    counts = -(-np.diff(files.starts) // unit)
    before = np.cumsum(counts) - counts
    inside = np.arange(int(counts.sum())) - np.repeat(before, counts)
    return np.append(np.repeat(files.starts[:-1], counts) + inside * unit, files.rows)


@dataclass(frozen=True, slots=True)
class PackRoom:
    """What packs still take of a file system, and what it has.

    Parameters
    ----------
    folder
        Where they lie.
    needed
        Bytes that are not written yet.
    free
        Bytes that this user may still write there.
    """

    folder: str
    needed: int
    free: int

    @property
    def short(self) -> bool:
        """Whether they do not fit."""
        return self.needed > self.free

    @classmethod
    def of(cls, folder: str, packs: Sequence[tuple[PackSpec, WantedUnits]]) -> PackRoom | None:
        """Return the room for these packs; None: it cannot be told, and the reader will say why."""
        try:
            room = os.statvfs(folder)
        except OSError:
            return None
        needed = sum(
            max(0, units.rows * units.cast_bytes - _written(spec.path(folder)))
            for spec, units in packs
        )
        return cls(folder, needed, room.f_bavail * room.f_frsize)


def _written(path: str) -> int:
    """Return how many bytes of a pack are there, from an earlier run: it has holes."""
    try:
        return os.stat(path).st_blocks * 512
    except OSError:
        return 0
