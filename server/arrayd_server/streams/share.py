"""The resident share: rows that stay in memory, so that later epochs need not read them.

The first rows that are read are kept, until there is no room. In a random order that is a random
subset, and a static one. It is the best there is for one stream: whatever is cached, at the end
of an epoch at most as many rows are there as there is room, so at most so many reads of the next
epoch are saved; and each row of a static subset saves one (MinIO of CoorDL, Mohan et al.,
"Analyzing and Mitigating Data Stalls in DNN Training", VLDB 2021). What was used last is the worst
choice: it is wanted last.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd_server.loaders.dataset.rows import COPY_BYTES, Ids, as_void
from arrayd_server.loaders.dataset.runs import Int64

Array = np.ndarray[Any, Any]


def copy_between(source: Array, taken: Int64, out: Array, where: Int64) -> None:
    """Assign ``out[where] = source[taken]``, row by row, in pieces that stay in the cache.

    Parameters
    ----------
    source, out : arrays (n, *row_shape) and (m, *row_shape) of one dtype, C-contiguous
    taken, where : int64 (k,)
    """
    if not source.size or not out.size:
        return
    rows, places = as_void(source), as_void(out)
    step = max(1, COPY_BYTES // rows.itemsize)
    for at in range(0, len(taken), step):
        places[where[at : at + step]] = rows.take(taken[at : at + step], mode="clip")


class ResidentShare:
    """Rows in a segment. Threads may share it.

    Parameters
    ----------
    ids : uint64 (room,)
        Where the ids of the rows are noted.
    arrays
        Of each field ``(room, *row_shape)``.
    """

    def __init__(self, ids: npt.NDArray[np.uint64], arrays: Mapping[str, Array]) -> None:
        self._ids = ids
        self._arrays = arrays
        self._lock = threading.Lock()
        self._reserved = 0  # slots that are given out
        self._kept: list[tuple[int, int]] = []  # slots that are filled, in ranges
        self._sorted: tuple[Ids, Int64] = (np.zeros(0, np.uint64), np.zeros(0, np.int64))
        self._epoch: int | None = None

    def find(self, ids: Ids, epoch: int) -> Int64:
        """Return the slot of each row, -1: it is not here; int64 (k,).

        No row comes twice in an epoch, so what it adds is looked for in the next one only.
        """
        with self._lock:
            if epoch != self._epoch:
                self._epoch = epoch
                self._sort()
            known, slots = self._sorted
        if not len(known):
            return np.full(len(ids), -1, np.int64)
        at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[at] == ids, slots[at], -1)

    def take(self, slots: Int64, rings: Mapping[str, Array], where: Int64) -> None:
        """Copy rows from their slots to places of a ring."""
        for name, array in self._arrays.items():
            copy_between(array, slots, rings[name], where)

    def keep(self, ids: Ids, rings: Mapping[str, Array], where: Int64) -> None:
        """Keep rows that lie at these places of a ring, as far as there is room."""
        with self._lock:
            first = self._reserved
            count = min(len(ids), len(self._ids) - first)
            self._reserved += count
        if not count:
            return
        slots = np.arange(first, first + count)
        for name, array in self._arrays.items():
            copy_between(rings[name], where[:count], array, slots)
        self._ids[first : first + count] = ids[:count]
        with self._lock:
            self._kept.append((first, first + count))

    def _sort(self) -> None:
        """Find what was kept until now, up to the first slot that is not filled yet."""
        stop = 0
        for first, end in sorted(self._kept):
            stop = end if first == stop else stop
        if stop > len(self._sorted[0]):
            slots = np.argsort(self._ids[:stop])
            self._sorted = self._ids[slots], slots
