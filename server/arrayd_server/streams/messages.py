"""What the daemon and the reader process of a stream say to each other.

To the reader go maps with a key ``op``; it answers with maps of one key:

==========  ===============  =====================================================================
``op``      what             answer
==========  ===============  =====================================================================
``start``   `ReaderTask`     ``{ready: version of arrayd}``, once
``window``  `WindowTask`     ``{read: WindowRead}`` when its rows are in the ring; at most two
                             windows are asked for at a time, and may be answered in any order
``ring``    `RingTask`       none: it is for the windows that are asked for from then on
==========  ===============  =====================================================================

``{err: error}`` can come in the place of any answer, and is the last word of a reader.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from arrayd.wire import dtypes
from arrayd.wire.records import Record
from arrayd.wire.ring import RingField, RingLayout


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True, slots=True)
class StreamField(Record):
    """A field of a stream.

    Parameters
    ----------
    name
        Of the field of the manifest.
    descr, row_shape
        Its dtype in the files, and the shape of a row.
    cast
        The dtype wanted, as `arrayd.wire.dtypes.descr` gives it; None: as in the files.
    """

    name: str
    descr: Any = field(metadata={"read": _tuples})
    row_shape: tuple[int, ...]
    cast: Any = field(default=None, metadata={"read": _tuples})

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype in the files."""
        return dtypes.from_descr(self.descr)

    @property
    def target(self) -> np.dtype[Any]:
        """The dtype in the ring."""
        return self.dtype if self.cast is None else dtypes.from_descr(self.cast)

    @property
    def in_ring(self) -> RingField:
        """The field as it lies in the ring."""
        return RingField(self.name, dtypes.descr(self.target), self.row_shape)


@dataclass(frozen=True, slots=True)
class StreamRequest(Record):
    """Which rows, in which order, as which types.

    Parameters
    ----------
    manifest, stat
        Path of the saved manifest, and its state as the client saw it; None: whichever it is.
    ids
        Path of a ``.npy`` file of row ids, of which places `start` to `stop` are the selection;
        None: of all rows those from `start` to `stop`.
    seed, kind, block, buffer
        As in `arrayd.samples.order.EpochOrder`.
    fields, overflow
        What is read of each row; what a cast does, as in `Source`.
    slots
        Rows of the ring.
    share
        Rows of the resident share.
    scratch
        Folder for a pack; None: beside the manifest.
    """

    manifest: str
    stat: tuple[int, ...] | None
    ids: str | None
    start: int
    stop: int
    seed: int
    kind: str
    block: int
    buffer: int
    fields: tuple[StreamField, ...]
    overflow: str
    slots: int
    share: int = 0
    scratch: str | None = None

    def __str__(self) -> str:
        return f"the stream of {', '.join(one.name for one in self.fields)} of {self.manifest}"

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return self.stop - self.start

    @property
    def layout(self) -> RingLayout:
        """How a ring lies in its segment."""
        return RingLayout.of([one.in_ring for one in self.fields], self.slots)

    @property
    def share_layout(self) -> RingLayout:
        """How the resident share lies in its segment: like a ring that is filled once."""
        return RingLayout.of([one.in_ring for one in self.fields], self.share)

    @property
    def row_bytes(self) -> int:
        """Bytes of the values of one row, after the cast."""
        return sum(math.prod(one.row_shape) * one.target.itemsize for one in self.fields)


@dataclass(frozen=True, slots=True)
class ReaderTask(Record):
    """Get ready to fill the ring in the segment at `ring`; `share` is for rows that stay."""

    request: StreamRequest
    ring: str
    share: str | None = None


@dataclass(frozen=True, slots=True)
class WindowTask(Record):
    """Read the rows at positions [start, stop), which lie in one epoch."""

    generation: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class RingTask(Record):
    """Fill the ring in the segment at `ring` from now on."""

    generation: int
    ring: str


@dataclass(frozen=True, slots=True)
class WindowRead(Record):
    """A window is in its ring.

    `stats` has ``bytes_read`` (from files), ``bytes_used`` (of the ring), ``rows_from_share``,
    ``values_changed`` (by casts), ``microseconds``.
    """

    generation: int
    start: int
    stop: int
    stats: dict[str, int]


def checked(message: Any) -> tuple[str, Any]:
    """Return the kind of a reader's answer and what it says; a corrupt file may have corrupted it.

    Raises
    ------
    TypeError, ValueError
        It is none.
    """
    kinds = {"ready": str, "read": dict, "err": dict}
    if isinstance(message, dict) and len(message) == 1:
        ((kind, value),) = message.items()
        if kind in kinds and isinstance(value, kinds[kind]):
            return kind, WindowRead.from_wire(value) if kind == "read" else value
    raise TypeError(f"{str(message)[:80]!r} is no answer")
