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

FEW = 16
"""If less than one row in so many has a neighbour, each is read by itself: runs of one length are
copied at once, which is worth more than the few reads."""


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
    run : int64, shape (n,)
        Of each row: its run.
    """

    files: Int64
    starts: Int64
    lengths: Int64
    first: Int64
    inside: Int64
    needed: Int64
    run: Int64

    @classmethod
    def of(cls, files: Int64, offsets: Int64, row_bytes: int, align: int, gap: int = GAP) -> Runs:
        """Return the runs for rows of `row_bytes` at these places.

        Parameters
        ----------
        files, offsets : int64, shape (n,)
            Of each row, sorted; no row twice.
        align
            Bytes, a power of two: a run begins and ends at multiples of it.
        gap
            Bytes from the end of one run to the next at which they become one.
        """
        low = offsets & -align
        high = (offsets + (row_bytes + align - 1)) & -align
        joined = low[1:] <= high[:-1] + gap
        if len(files) and files[0] != files[-1]:
            joined &= files[1:] == files[:-1]
        if FEW * np.count_nonzero(joined) <= len(files):
            edges, inside = np.arange(len(files) + 1), offsets - low
            return cls(files, low, high - low, edges, inside, inside + row_bytes, edges[:-1])
        first = np.flatnonzero(np.concatenate([[True], ~joined]))
        most = max(1, RUN_BYTES // (row_bytes + gap + 2 * align))
        edges = np.append(first, len(files))
        counts = edges[1:] - edges[:-1]
        if counts.max() > most:  # cut long runs into equal ones
            index = np.arange(len(files)) - np.repeat(first, counts)
            first = np.flatnonzero(index % most == 0)
            edges = np.append(first, len(files))
            counts = edges[1:] - edges[:-1]
        run = np.repeat(np.arange(len(first)), counts)
        starts, last = low[first], edges[1:] - 1
        inside = offsets - starts[run]
        return cls(
            files[first], starts, high[last] - starts, edges, inside, inside[last] + row_bytes, run
        )

    def __len__(self) -> int:
        return len(self.files)


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


def spaced(at: Int64) -> list[int]:
    """Return the edges of pieces in which these rising places are at one distance, all in all."""
    if len(at) < 3:
        return [0, len(at)]
    steps = at[1:] - at[:-1]
    largest = int(steps.max())
    if largest * len(steps) == at[-1] - at[0]:  # so all are
        return [0, len(at)]
    return [0, *(np.flatnonzero(steps != largest) + 1).tolist(), len(at)]


def spaced_rows(source: npt.NDArray[Any], at: Int64, row_bytes: int) -> npt.NDArray[np.void]:
    """Return the `row_bytes` bytes from each place `at` in `source`, without a copy.

    Parameters
    ----------
    source : uint8, 1-d, contiguous
    at : int64, shape (k,)
        At least one, each as far from the one before as the second from the first.
    """
    kind = np.dtype(f"V{row_bytes}")
    step = int(at[1] - at[0]) if len(at) > 1 else row_bytes
    return np.ndarray((len(at),), kind, source, int(at[0]), (step,))
