"""Which bytes of which files hold the rows that are wanted: arithmetic on sorted rows.

Rows that lie side by side, or nearly so, are read together as one *run*. A run begins and ends at
multiples of the alignment that reading past the page cache needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

GAP = 512
"""Bytes between two rows that are read along rather than skipped.

As many as a disk reads in the time of one more request would be 10 KiB and more, but then up to
a third of what is read would be for nothing.
"""

RUN_BYTES = 256 << 10
"""Aim for the length of the longest run."""


@dataclass(frozen=True, slots=True)
class Runs:
    """What to read for rows that are sorted by file and offset.

    Parameters
    ----------
    files, starts, lengths : int64, shape (r,)
        Of each run: its file (as the rows name them), and its bytes.
    first : int64, shape (r + 1,)
        Index of the first row of each run; at the end the number of rows.
    inside : int64, shape (n,)
        Of each row: at which byte of its run it begins.
    needed : int64, shape (r,)
        Bytes of the run up to the end of its last row: a file may end before the run does.
    """

    files: Int64
    starts: Int64
    lengths: Int64
    first: Int64
    inside: Int64
    needed: Int64

    @classmethod
    def of(cls, files: Int64, offsets: Int64, row_bytes: int, align: int, gap: int = GAP) -> Runs:
        """Return the runs for rows of `row_bytes` at these places.

        Parameters
        ----------
        files, offsets : int64, shape (n,)
            Of each row, sorted; no row twice.
        align
            Bytes: a run begins and ends at multiples of it.
        gap
            Bytes from the end of one run to the next at which they become one.
        """
        low = offsets // align * align
        high = -(-(offsets + row_bytes) // align) * align
        breaks = (files[1:] != files[:-1]) | (low[1:] > high[:-1] + gap)
        first = np.flatnonzero(np.concatenate([[True], breaks])) if len(files) else np.zeros(0, int)
        most = max(1, RUN_BYTES // (row_bytes + gap + 2 * align))
        counts = np.diff(np.append(first, len(files)))
        if counts.max(initial=0) > most:  # cut long runs into equal ones
            index = np.arange(len(files)) - np.repeat(first, counts)
            first = np.flatnonzero(index % most == 0)
            counts = np.diff(np.append(first, len(files)))
        starts = low[first]
        last = np.append(first[1:], len(files))[: len(first)] - 1
        inside = offsets - np.repeat(starts, counts)
        needed = inside[last] + row_bytes
        edges = np.append(first, len(files)).astype(np.int64)
        return cls(files[first], starts, high[last] - starts, edges, inside, needed)

    def __len__(self) -> int:
        return len(self.files)

    def rows_of(self, runs: Int64) -> tuple[Int64, Int64]:
        """Return the rows of some runs, and for each the index of its run in `runs`."""
        counts = self.first[runs + 1] - self.first[runs]
        which = np.repeat(np.arange(len(runs)), counts)
        begins = np.cumsum(counts) - counts
        rows = (
            np.arange(len(which)) - np.repeat(begins, counts) + np.repeat(self.first[runs], counts)
        )
        return rows, which


def copy_rows(source: npt.NDArray[Any], at: Int64, row_bytes: int) -> npt.NDArray[np.void]:
    """Return the `row_bytes` bytes from each place `at` in `source`; void, ``(len(at),)``.

    Parameters
    ----------
    source : uint8, 1-d, contiguous
    at : int64
        No two need be a multiple of anything apart.
    """
    kind = np.dtype(f"V{row_bytes}")
    # Overlapping items, one from each byte on: numpy then copies each by one memcpy.
    windows = np.lib.stride_tricks.as_strided(
        source[:row_bytes].view(kind), (source.size - row_bytes + 1,), (1,), writeable=False
    )
    found: npt.NDArray[np.void] = windows[at]
    return found
