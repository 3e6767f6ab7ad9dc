"""The order "block": for data of which only whole chunks can be read, when asked for.

The rows of a dataset are cut into *blocks*: row i belongs to block ``i // block``, in every
selection. The blocks of an epoch are sorted by the key of their number (purpose ``"block"``),
`buffer` of them in a row form a *group*, and the rows of a group are sorted by their own key, the
one of the exact order. So a reader holds one group at a time and reads each block once. This is
CorgiPile (Xu et al.: In-Database Machine Learning with CorgiPile, SIGMOD 2022), with keys for
chance.

It is no uniform order: rows of one block lie in one group. The chance that two of them meet in a
mini-batch is N / (block · buffer) times that of the exact order, see `bias`. Where blocks are as
similar inside as files sorted by label are, batches are as biased. With one group for all blocks
it is the exact order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.samples.keys import purpose_key, row_keys
from arrayd.samples.selection import Ids, Rows

_Places = npt.NDArray[np.int64]


def bias(n: int, block: int, buffer: int) -> float:
    """Return how much likelier than in the exact order two rows of a block share a batch."""
    return max(1.0, n / (block * buffer))


class BlockShuffle:
    """The rows of a selection in the order "block".

    Parameters
    ----------
    rows
        The selection, of n rows.
    seed, epoch
        As of the exact order.
    block
        Rows per block, from 1 on.
    buffer
        Blocks per group, from 1 on.

    Notes
    -----
    Memory: 24 bytes per block, and the group that was asked for last (8 bytes per row). May be
    used by several threads.
    """

    def __init__(self, rows: Rows, seed: int, epoch: int, block: int, buffer: int) -> None:
        self._rows = rows
        self._row_key = purpose_key("order", seed, epoch)
        first, last = rows.start // block, max(rows.stop - 1, 0) // block
        numbers = np.arange(first, last + 1, dtype=np.uint64)
        edges = rows.rank(np.append(numbers * np.uint64(block), np.uint64(rows.stop)))
        order = np.argsort(row_keys(numbers, purpose_key("block", seed, epoch)))
        sizes = np.diff(edges)[order]
        held = sizes > 0  # a selection may have no row of a block
        self._firsts: _Places = edges[:-1][order][held]
        self._sizes: _Places = sizes[held]
        self._buffer = buffer
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._sizes)])
        self._groups: _Places = np.append(ends[:-1:buffer], ends[-1])
        self._last: tuple[int, Ids] = (-1, np.empty(0, np.uint64))

    def window(self, start: int, stop: int) -> Ids:
        """Return the row ids at the positions from `start` to `stop`; uint64."""
        pieces: list[Any] = [np.empty(0, np.uint64)]
        while start < stop:
            group = int(np.searchsorted(self._groups, start, side="right")) - 1
            begin, end = int(self._groups[group]), int(self._groups[group + 1])
            pieces.append(self._group(group)[start - begin : stop - begin])
            start = end
        return np.concatenate(pieces)

    def _group(self, group: int) -> Ids:
        """Return the rows of a group in their order."""
        number, ids = self._last  # one read: another thread may replace the pair at any time
        if number != group:
            part = slice(group * self._buffer, (group + 1) * self._buffer)
            sizes = self._sizes[part]
            before = np.cumsum(sizes) - sizes
            places = np.arange(sizes.sum()) + np.repeat(self._firsts[part] - before, sizes)
            ids = self._rows.at(places)
            ids = ids[np.argsort(row_keys(ids, self._row_key))]
            self._last = group, ids
        return ids
