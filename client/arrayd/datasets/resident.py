"""Batches from memory: each field is one block, rows are gathered in this process.

No message is needed for a batch, and the block is shared with every other process that reads the
same dataset: another model, the validation of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.samples.order import EpochOrder
from arrayd.samples.selection import Rows

Array = np.ndarray[Any, Any]
Ids = npt.NDArray[np.uint64]

SORT_AHEAD = 1 << 14
"""Rows from which on the order of the next epoch is computed ahead, in a thread: some ms."""

AT_ONCE = 1 << 14
"""Positions whose rows are looked up together: a batch is then a slice of them."""


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
    epochs
        How many are wanted, so that no order is computed ahead for nothing; None: without end.
    """

    def __init__(
        self,
        blocks: Mapping[str, Array],
        rows: Rows,
        *,
        partial: bool,
        order: Callable[[int], EpochOrder],
        epochs: int | None,
    ) -> None:
        self._blocks = {name: np.asarray(block) for name, block in blocks.items()}
        self._rows = rows
        self._partial = partial
        self._order_of = order
        self._epochs = epochs
        self._n = len(rows)
        self._epoch = -1
        self._order: EpochOrder
        self._next: EpochOrder | None = None
        self._sorter = ThreadPoolExecutor(1, thread_name_prefix="order")
        self._sorting: Future[None] | None = None
        # The positions from _first on: which rows, and where these lie in the blocks.
        self._first = 0
        self._ids: Ids = np.empty(0, np.uint64)
        self._places: npt.NDArray[np.int64] = np.empty(0, np.int64)
        # Of each field: its name, how to take rows of it, and into which memory.
        self._takes: list[tuple[str, Callable[..., Array], Array]] = []
        self._taken = -1  # rows of that memory which are in use

    @property
    def ring(self) -> None:
        """There is none."""

    def fetch(self, start: int, stop: int, own: slice) -> tuple[Ids, dict[str, Array]]:
        """Return the rows at the positions from `start` to `stop`, and the fields of some.

        Parameters
        ----------
        start, stop
            Positions of the stream, of one epoch.
        own
            Of which of these rows the fields are wanted; in memory that the next call uses again.
        """
        if not self._first <= start <= stop <= self._first + len(self._ids):
            self._look_up(start, stop)
        low, high = start - self._first, stop - self._first
        places = self._places[low:high][own]
        if len(places) != self._taken:
            self._make_room(len(places))
        # With mode="raise" numpy fills a buffer of its own first (numpy #13182); ids are valid.
        fields = {name: take(places, 0, out, "clip") for name, take, out in self._takes}
        return self._ids[low:high], fields

    def _look_up(self, start: int, stop: int) -> None:
        """Find out which rows are at the positions from `start` on, in a new array."""
        epoch, pos = divmod(start, self._n)
        if epoch != self._epoch:
            self._turn_to(epoch)
        end = min(self._n, pos + max(AT_ONCE, stop - start))
        ids = self._ids = self._order.window(pos, end)
        self._places = self._rows.rank(ids) if self._partial else ids.view(np.int64)
        self._first = start

    def _make_room(self, count: int) -> None:
        """Have memory for so many rows of each field: the last batch of an epoch is shorter."""
        kept = {name: out if out.base is None else out.base for name, _, out in self._takes}
        takes: list[tuple[str, Callable[..., Array], Array]] = []
        for name, block in self._blocks.items():
            room = kept.get(name)
            if room is None or len(room) < count:
                room = np.empty((count, *block.shape[1:]), block.dtype)
            takes.append((name, block.take, room if len(room) == count else room[:count]))
        self._takes, self._taken = takes, count

    def _turn_to(self, epoch: int) -> None:
        """Use the order of another epoch, and have the one after it computed meanwhile."""
        self._join()
        ahead = self._next if epoch == self._epoch + 1 else None
        self._order = self._order_of(epoch) if ahead is None else ahead
        self._epoch, self._next = epoch, None
        if self._n < SORT_AHEAD:
            return
        orders = [self._order]
        if self._epochs is None or epoch + 1 < self._epochs:
            self._next = self._order_of(epoch + 1)
            orders.append(self._next)
        self._sorting = self._sorter.submit(_sort, orders)

    def _join(self) -> None:
        if self._sorting is not None:
            self._sorting.result()
            self._sorting = None

    def pass_to(self, position: int) -> None:
        """Nothing to do: nobody waits for rows to be passed."""

    def close(self) -> None:
        """Let go of the blocks."""
        self._sorter.shutdown()
        self._blocks, self._takes = {}, []


def _sort(orders: Sequence[EpochOrder]) -> None:
    for order in orders:
        order.prepare()
