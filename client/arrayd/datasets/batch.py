"""`Batch`: the arrays of some rows, and which rows these are."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from arrayd.samples.order import row_seeds

Array = np.ndarray[Any, Any]


class Batch(dict[str, Array]):
    """A dict of arrays by field, each of shape ``(rows, *row_shape)``; columns are ``(rows,)``.

    It is valid until the next batch is asked for: the memory is used again. `copy` makes one of
    your own.

    Attributes
    ----------
    ids : array of uint64, shape (rows,)
        Row numbers in the dataset.
    epoch : int
    pos : int
        Position of the first row in the epoch.
    """

    __slots__ = ("_seed", "epoch", "ids", "pos")

    def __init__(
        self, values: dict[str, Array], ids: npt.NDArray[np.uint64], seed: int, epoch: int, pos: int
    ) -> None:
        super().__init__(values)
        self.ids = ids
        self.epoch = epoch
        self.pos = pos
        self._seed = seed

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}: {array.dtype}{array.shape}" for name, array in self.items())
        return f"<batch of {len(self.ids)} rows, epoch {self.epoch}, pos {self.pos}: {inside}>"

    @property
    def seeds(self) -> npt.NDArray[np.uint64]:
        """A seed for each row, uint64 ``(rows,)``, from the stream's seed, the epoch and the row.

        Augmentation drawn from it is the same after a restart, in any batch size and world size.
        """
        return row_seeds(self.ids, self._seed, self.epoch)

    def copy(self) -> Self:
        """Return the same batch in memory of its own."""
        values = {name: array.copy() for name, array in self.items()}
        return type(self)(values, self.ids.copy(), self._seed, self.epoch, self.pos)
