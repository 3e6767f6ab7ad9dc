"""Batches from memory: each field is one block, rows are gathered in this process.

No message is needed for a batch, and the block is shared with every other process that reads the
same dataset: another model, the validation of this one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.samples.order import EpochOrder
from arrayd.samples.selection import Rows

Array = np.ndarray[Any, Any]
Ids = npt.NDArray[np.uint64]

SORT_AHEAD = 1 << 17
"""Rows from which on the order of the next epoch is computed ahead, in a thread: some 10 ms."""


class ResidentRows:
    """Rows of blocks in memory, in the order of a stream.

    Parameters
    ----------
    blocks
        One array for each field: ``(total, *row_shape)``, or the rows of the selection alone.
    rows
        The selection.
    partial
        The blocks hold the rows of the selection alone.
    order
        Makes the order of an epoch.
    """

    def __init__(
        self,
        blocks: Mapping[str, Array],
        rows: Rows,
        *,
        partial: bool,
        order: Callable[[int], EpochOrder],
    ) -> None:
        self._blocks = {name: np.asarray(block) for name, block in blocks.items()}
        self._rows = rows
        self._partial = partial
        self._order_of = order
        self._epoch = -1
        self._order: EpochOrder
        self._next: EpochOrder | None = None
        self._sorting: threading.Thread | None = None
        self._buffers: dict[str, Array] = {}

    def fetch(self, start: int, stop: int, own: slice) -> tuple[Ids, dict[str, Array]]:
        """Return the rows at the positions from `start` to `stop`, and the fields of some.

        Parameters
        ----------
        start, stop
            Positions of the stream, of one epoch.
        own
            Of which of these rows the fields are wanted; in memory that the next call uses again.
        """
        n = len(self._rows)
        epoch = start // n
        if epoch != self._epoch:
            self._turn_to(epoch)
        ids = self._order.window(start - epoch * n, stop - epoch * n)
        places = self._rows.rank(ids[own]) if self._partial else ids[own].view(np.int64)
        return ids, {name: self._gathered(name, places) for name in self._blocks}

    def _gathered(self, name: str, rows: npt.NDArray[np.int64]) -> Array:
        block = self._blocks[name]
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < len(rows):
            buffer = np.empty((len(rows), *block.shape[1:]), block.dtype)
            self._buffers[name] = buffer
        out = buffer[: len(rows)]
        # With mode="raise" numpy fills a buffer of its own first (numpy #13182); ids are valid.
        np.take(block, rows, axis=0, out=out, mode="clip")
        return out

    def _turn_to(self, epoch: int) -> None:
        """Use the order of another epoch, and have the one after it computed meanwhile."""
        self._join()
        ahead = self._next
        known = ahead is not None and epoch == self._epoch + 1
        self._order = ahead if known and ahead is not None else self._order_of(epoch)
        self._epoch, self._next = epoch, None
        if len(self._rows) >= SORT_AHEAD:
            self._next = self._order_of(epoch + 1)
            self._sorting = threading.Thread(
                target=_sort, args=([self._order, self._next],), daemon=True
            )
            self._sorting.start()

    def _join(self) -> None:
        if self._sorting is not None:
            self._sorting.join()
            self._sorting = None

    def pass_to(self, position: int) -> None:
        """Nothing to do: nobody waits for rows to be passed."""

    def close(self) -> None:
        """Let go of the blocks."""
        self._join()
        self._blocks, self._buffers = {}, {}


def _sort(orders: Sequence[EpochOrder]) -> None:
    for order in orders:
        order.prepare()
