"""The layout of a ring: a segment in which the rows of a stream pass from the reader to consumers.

::

    0        row ids: one u64 for each slot
    ...      the first field: one value for each slot, in the order of the slots
    ...      the second field, and so on; each begins at a multiple of `ALIGN`

The row at position p of the stream lies in slot ``p % slots`` of every field. So a batch is one
slice of each field, but for the one in `slots` rows that wraps around.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.wire import dtypes
from arrayd.wire.layout import PAGE, pages
from arrayd.wire.records import Record

ALIGN = PAGE
"""Bytes at which a field begins: what is read past the page cache wants whole pages."""

_ID = np.dtype("<u8")


@dataclass(frozen=True, slots=True)
class RingField(Record):
    """A field as it lies in a ring: after the cast.

    Parameters
    ----------
    name
        Of the field.
    descr
        Its dtype, as `arrayd.wire.dtypes.descr` gives it.
    row_shape
        Of the value of one row.
    """

    name: str
    descr: Any
    row_shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype."""
        return dtypes.from_descr(self.descr)

    @property
    def row_bytes(self) -> int:
        """Bytes of the value of one row."""
        return math.prod(self.row_shape) * self.dtype.itemsize


@dataclass(frozen=True)
class RingLayout:
    """Where everything in a ring is.

    Parameters
    ----------
    fields
        In order.
    slots
        Rows that it holds at a time.
    """

    fields: tuple[RingField, ...]
    slots: int

    @classmethod
    def of(cls, fields: Sequence[RingField], slots: int) -> RingLayout:
        """Return the layout of a ring of `slots` rows."""
        return cls(tuple(fields), slots)

    @property
    def row_bytes(self) -> int:
        """Bytes that one row takes, its id included."""
        return _ID.itemsize + sum(one.row_bytes for one in self.fields)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where the ids, each field, and the end are."""
        sizes = [_ID.itemsize, *(one.row_bytes for one in self.fields)]
        offsets = [0]
        for size in sizes:
            offsets.append(pages(offsets[-1] + size * self.slots))
        return tuple(offsets)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole ring."""
        return self.offsets[-1]

    def ids(self, ring: memoryview | np.ndarray[Any, Any]) -> npt.NDArray[np.uint64]:
        """Return the ids in a ring that is mapped as `ring`; uint64 ``(slots,)``, no copy."""
        ids: npt.NDArray[np.uint64] = np.ndarray((self.slots,), _ID, ring, 0)
        return ids

    def arrays(self, ring: memoryview | np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """Return the fields in a ring, mapped as `ring`; ``(slots, *row_shape)``, no copy."""
        return {
            one.name: np.ndarray((self.slots, *one.row_shape), one.dtype, ring, offset)
            for one, offset in zip(self.fields, self.offsets[1:], strict=False)
        }
