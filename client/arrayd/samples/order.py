"""The order in which a training sees its rows: a pure function of (seed, epoch, row).

Every plan, process, restart, batch size and world size computes the same order, and any other
program can: numpy.random is not used, whose streams may differ between versions. This is all of
version `VERSION`, in Python (``&`` binds weaker than ``+`` and ``*``)::

    M = 2**64 - 1
    PHI = 0x9E3779B97F4A7C15

    def mix64(z):                                    # the finaliser of SplitMix64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & M
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & M
        return z ^ (z >> 31)

    def epoch_key(seed, epoch, purpose="order"):     # 0 ≤ seed, epoch < 2**64
        word = int.from_bytes(purpose.encode("ascii"), "little")
        return mix64(mix64(mix64(word) + seed & M) + epoch & M)

    def key(row, seed, epoch, purpose="order"):      # 0 ≤ row < 2**63
        return mix64(mix64(row * PHI + epoch_key(seed, epoch, purpose) & M))

    def order(rows, seed, epoch):                    # row ids: as they lie in the dataset
        return sorted(rows, key=lambda row: (key(row, seed, epoch), row))

No two rows have the same key (`arrayd.samples.keys` says why). A key depends on nothing but its
row, so the order of a selection is the order of all rows with the others left out.

Test vectors (in hexadecimal where they begin with 0x)::

    mix64(1)                     = 0x5692161d100b05e5
    epoch_key(0, 0)              = 0xafc0ea78346aabe0
    epoch_key(7, 3)              = 0xd3324c60067632d9
    key(0, 0, 0)                 = 0xdbe1712eade01c8c
    key(1, 0, 0)                 = 0xc85af0cb20a46bb9
    key(123456789, 7, 3)         = 0xa096e4e1ca6b9317
    key(2**40, 2**64 - 1, 2)     = 0x1b4bcef05e663272
    key(5, 7, 3, "augment")      = 0xa5b43aa13d2fa8ea
    order(range(10), 0, 0)       = [9, 8, 7, 3, 6, 5, 1, 0, 4, 2]
    order(range(10), 7, 3)       = [1, 0, 3, 8, 4, 6, 7, 5, 2, 9]

Other purposes: ``"augment"`` for `row_seeds`, ``"block"`` for the numbers of blocks
(`arrayd.samples.block_order`), ``"split"`` and ``"subset"`` (`arrayd.samples.splits`), ``"share"``
(`arrayd.samples.receipt`).

Time and memory, measured with 8 M rows on one core of a busy machine: the first window 0.15 s (it
hashes each row and sorts a few), sorting all 0.5 to 0.7 s with at most 61 MB, of which 31 MB stay:
8 bytes per row, then 4. (Keys and numpy's argsort of them: 2.9 s and 122 MB in the same run.)
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.common.arguments import one_of, positive, whole
from arrayd.errors import SpecMismatch
from arrayd.samples import block_order
from arrayd.samples.keys import checked_epoch, checked_seed, purpose_key, row_keys
from arrayd.samples.ranking import Table, between, ranked
from arrayd.samples.selection import Ids, Rows

VERSION = "splitmix64-1"
"""Names the definition above; another definition gets another name."""

KINDS = ("exact", "sequential", "block")

BLOCK = 1024
"""Rows per block of the order "block", by default."""

BUFFER = 64
"""Blocks per group of the order "block", by default."""

SPAN = 1 << 16
"""Positions that are found without sorting all rows, from the first window asked for on."""


def row_seeds(rows: Any, seed: int, epoch: int) -> Ids:
    """Return a seed per row, for augmentation that is the same wherever the row is delivered.

    It is the key of the row for the purpose ``"augment"``, which tells nothing of the order.

    Parameters
    ----------
    rows : array-like of integers, shape (n,)
        Row ids.
    seed, epoch
        Those of the order.

    Returns
    -------
    array of uint64, shape (n,)

    Raises
    ------
    SpecMismatch
        `seed` or `epoch` is no whole number from 0 to 2**64 - 1, `rows` are no row ids.
    """
    ids = np.asarray(rows)
    if ids.size and (ids.dtype.kind not in "iu" or int(ids.min()) < 0):
        raise SpecMismatch(f"Row ids are whole numbers from 0 on, not {ids!r}.")
    key = purpose_key("augment", checked_seed(seed), checked_epoch(epoch))
    return row_keys(ids.astype(np.uint64, copy=False), key)


class EpochOrder:
    """The order of one epoch over a selection.

    Parameters
    ----------
    rows
        The selection, of n rows.
    seed, epoch
        Whole numbers from 0 to 2**64 - 1.
    kind
        ``"exact"``: sorted by key, as defined above. ``"sequential"``: as the rows lie in the
        dataset. ``"block"``: see `arrayd.samples.block_order`.
    block, buffer
        Of the kind "block": rows per block, and blocks that are shuffled as one group.

    Notes
    -----
    The first window of the kind "exact" is found without sorting all rows, wherever it lies, and
    the `SPAN` positions that it begins are kept, for those that follow. A window beyond them
    sorts all rows, once, unless `prepare` has done that before; a background thread can call it
    while windows are taken.

    Raises
    ------
    SpecMismatch
        An argument is not as described.
    """

    def __init__(
        self,
        rows: Rows,
        seed: int,
        epoch: int,
        kind: str = "exact",
        *,
        block: int = BLOCK,
        buffer: int = BUFFER,
    ) -> None:
        self.rows = rows
        self.seed = checked_seed(seed)
        self.epoch = checked_epoch(epoch)
        self.kind = one_of("order", kind, KINDS)
        self.block = positive("block", block)
        self.buffer = positive("buffer", buffer)
        self._key = purpose_key("order", self.seed, self.epoch)
        self._sorting = threading.Lock()
        self._table: Table | None = None
        self._blocks: block_order.BlockShuffle | None = None
        # Position of its first index, and the indexes: replaced as one, so it is read without lock.
        self._span: tuple[int, npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<order {self.kind} of {self.rows!r}, seed {self.seed}, epoch {self.epoch}>"

    def bias(self) -> float:
        """Return how much likelier two neighbours in the dataset share a batch than by chance.

        1.0 for the exact order; N / (block · buffer) for "block", but at least 1; N, the most
        there can be, for "sequential", which does not shuffle.
        """
        if self.kind == "block":
            return block_order.bias(len(self), self.block, self.buffer)
        return 1.0 if self.kind == "exact" else max(1.0, float(len(self)))

    def window(self, start: int, stop: int) -> Ids:
        """Return the rows at the positions from `start` to `stop` of the epoch.

        Parameters
        ----------
        start, stop
            0 ≤ start ≤ stop ≤ n.

        Returns
        -------
        array of uint64, shape (stop - start,)
            Row ids of the dataset; the caller's own.

        Raises
        ------
        SpecMismatch
            There are no such positions.
        """
        first, end = whole("start", start), whole("stop", stop)
        if not 0 <= first <= end <= len(self):
            raise SpecMismatch(
                f"Positions {first} to {end}: an epoch has those from 0 to {len(self):,}, its rows."
            )
        if self.kind == "sequential":
            return self.rows.ids(first, end)
        if self.kind == "block":
            return self._block_shuffle().window(first, end)
        return self.rows.at(self._indexes(first, end))

    def prepare(self) -> None:
        """Do now what later windows need: sort. Another thread may take windows meanwhile."""
        if self.kind == "exact":
            self._sorted()
        elif self.kind == "block":
            self._block_shuffle()

    def _indexes(self, start: int, stop: int) -> npt.NDArray[np.integer[Any]]:
        """Return the indexes into the selection at these positions of the exact order."""
        table, span = self._table, self._span
        if table is None and span is None and stop - start <= SPAN < len(self):
            end = min(len(self), start + SPAN)
            span = self._span = start, between(self.rows, self._key, start, end)
        if table is None and span is not None:
            begin, indexes = span
            if begin <= start and stop <= begin + len(indexes):
                return indexes[start - begin : stop - begin]
        return self._sorted()[start:stop]

    def _sorted(self) -> Table:
        """Return the indexes of all rows in the exact order; sort them at the first call."""
        with self._sorting:
            if self._table is None:
                self._table = ranked(self.rows, self._key)
                self._span = None
            return self._table

    def _block_shuffle(self) -> block_order.BlockShuffle:
        """Return the order "block", made at the first call."""
        with self._sorting:
            if self._blocks is None:
                self._blocks = block_order.BlockShuffle(
                    self.rows, self.seed, self.epoch, self.block, self.buffer
                )
            return self._blocks
