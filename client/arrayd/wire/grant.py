"""What a block is, as plain data: `Spec` (shape, dtype, order) and `Grant` (where it lies).

No numpy here: the daemon's core decides over these without ever touching an array.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from arrayd.wire.records import Record, later


@dataclass(frozen=True, slots=True)
class Spec(Record):
    """The array in a block.

    Parameters
    ----------
    shape
        Of the array; ``()`` for 0-d.
    descr
        The dtype as `arrayd.wire.dtypes.descr` gives it.
    order
        ``"C"`` or ``"F"``.
    itemsize
        Bytes of one element.
    """

    shape: tuple[int, ...]
    descr: Any
    order: str
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * self.itemsize


@dataclass(frozen=True, slots=True)
class Grant(Record):
    """The daemon's answer to a request for an array: what to attach, and as what.

    Parameters
    ----------
    segment
        Name of the segment in /dev/shm; never used twice.
    spec
        The array in it.
    seq
        Number of this grant. A release names it; a release of an older grant is ignored.
    source
        What the block holds, in words.
    sealed
        False for a block that is still being written (`arrayd.create`).
    window
        True if the block holds the whole source, of which the client is to take ``rows=``.
    lost
        Number of values that the cast changed.
    key
        Empty if the request identifies the contents. Else the block is made of several files
        (links of HDF5), of which a client knows the ``stat`` of one: only the daemon can say
        whether it is up to date. Equal keys mean equal contents.
    offset, extent
        Where the array begins in the block's data, and the bytes of these if the block has
        several arrays: the *members*. Else 0. A client whose hello did not say ``members`` is
        granted none, for it would take what lies at 0.
    """

    segment: str
    spec: Spec
    seq: int
    source: str
    sealed: bool = True
    window: bool = False
    lost: int = 0
    key: bytes = later(b"")
    offset: int = later(0)
    extent: int = later(0)
