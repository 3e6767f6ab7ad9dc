"""Reads a source through the daemon in slices of its rows, so that memory is bounded."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from arrayd.client import Client
from arrayd.datasets.npy_look import NpyHeaders
from arrayd.errors import (
    ArraydError,
    NoRoom,
    ProtocolMismatch,
    SourceChanged,
    SourceError,
    SpecMismatch,
)
from arrayd.session.request import FileRequest
from arrayd.source import Source
from arrayd.wire.protocol import Stat

Array = np.ndarray[Any, Any]

SLICE_BYTES = 64 << 20
"""Of a slice; two are in the daemon's memory at a time, and each is at most 1/8 of its budget."""

SMALL_BYTES = 256 << 10
"""Of the largest array that is loaded together with others."""

_MOST = 256  # arrays that are loaded together

_CHEAP = ("npy", "raw", "hdf5")
"""Formats of which some rows cost no more than they have bytes; the others are read whole."""


@dataclass(frozen=True, slots=True)
class Sliced:
    """A source that is read slice by slice.

    Parameters
    ----------
    source
        What is read; without a cast.
    shape, dtype
        Of the whole array.
    stat
        Of its file, when that was found out; None: of a published block.
    cheap
        Whether a slice costs no more than its bytes. Else there is one slice, the whole.
    is_row
        Whether it is one row: `shape` is that of a file with it alone, so begins with 1.
    """

    source: Source
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stat: Stat | None
    cheap: bool
    is_row: bool = False

    @classmethod
    def of(cls, client: Client, source: Source, headers: NpyHeaders | None = None) -> Sliced:
        """Look at a source; the header of a sound ``.npy`` is read with `headers`, if given.

        Raises
        ------
        SourceError
            It cannot be had, or holds several arrays.
        """
        stat = FileRequest.of(source, {}).stat
        plain = source.rows is None and source.cast is None
        if headers is not None and stat is not None and plain:
            with contextlib.suppress(OSError):  # the daemon says what is wrong with it
                found = headers.look(source, source.path, stat[2])
                if found is not None:
                    cheap = found.unit is not None and bool(found.shape)
                    return cls(source, found.shape, found.dtype, stat, cheap)
        info = client.info(source)
        if info.shape is None or info.dtype is None:
            names = ", ".join(member.name for member in info.members)
            raise SpecMismatch(f"{source} holds several arrays: add :NAME, one of {names}.")
        if info.dtype.hasobject or not info.dtype.itemsize:
            raise SpecMismatch(
                f"{source} holds text of varying length, and rows of one size are needed. Make it "
                "text of a fixed length first, such as S16: np.save of arrayd.get(…, cast='S16')."
            )
        straight = info.order != "F" or len(info.shape) < 2
        cheap = info.format in _CHEAP and straight and bool(info.shape) and not source.rows
        return cls(source, info.shape, info.dtype, stat, cheap)

    def as_row(self) -> Sliced:
        """Return the same as one row."""
        return replace(self, shape=(1, *self.shape), cheap=False, is_row=True)

    @property
    def nbytes(self) -> int:
        """Of all values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def check_unchanged(self) -> None:
        """Raise if the file is another one than at the beginning.

        Raises
        ------
        SourceChanged
        """
        if FileRequest.of(self.source, {}).stat != self.stat:
            raise SourceChanged(f"{self.source} changed while it was read. Begin anew.")

    def slices(self, client: Client, start: int = 0) -> Iterator[tuple[int, Array]]:
        """Yield the index of its first row and the rows of each slice; from row `start` on.

        While one is looked at, the daemon loads the next. A slice must be dropped before the
        next one is asked for.

        Raises
        ------
        SourceChanged
            The file changed since the beginning.
        SourceError, LoadError, DaemonError
            As for `arrayd.get`.
        """
        parts = self._parts(client, start)
        for number, (first, part) in enumerate(parts):
            array: Array = client.get(part)
            self.check_unchanged()
            if number + 1 < len(parts):
                with contextlib.suppress(
                    SourceError, NoRoom, ProtocolMismatch
                ):  # the get raises it
                    client._prefetch_for_itself(parts[number + 1][1])
            yield first, array if self.cheap else self._from(array, start)
            del array
            if self.cheap:  # nobody will ask for just these rows: make room for others
                with contextlib.suppress(ArraydError):
                    client.evict(part)

    def _from(self, whole: Array, start: int) -> Array:
        rows = whole[None] if self.is_row else whole
        return rows[start:] if self.shape else rows

    def _parts(self, client: Client, start: int) -> list[tuple[int, Source]]:
        length = self.shape[0] if self.shape else 1
        if not self.cheap:
            return [(start, self.source)] if start < length or not start else []
        row = max(1, self.nbytes // max(1, length))
        room = min(SLICE_BYTES, client.status().budget // 8)
        step = max(1, room // row)
        starts = range(start, length, step) if length else [0]
        return [(n, replace(self.source, rows=(n, n + step, None))) for n in starts]


def in_turn(
    client: Client, wanted: Sequence[tuple[Sliced, int]]
) -> Iterator[tuple[Sliced, int, Array]]:
    """Yield the rows of sources, each from a row on, as `Sliced.slices` has them.

    Small ones are loaded together: one by one, each would cost some ms. What was loaded for this
    alone is evicted, as slices are.
    """
    status = client.status()
    room = min(SLICE_BYTES, status.budget // 8)
    earlier = {block.segment for block in status.blocks}
    for batch in _batches(wanted, room):
        if len(batch) > 1:
            yield from _together(client, batch, earlier)
        else:
            for one, start in batch:
                for first, rows in one.slices(client, start):
                    yield one, first, rows
                    del rows


def _batches(wanted: Sequence[tuple[Sliced, int]], room: int) -> Iterator[list[tuple[Sliced, int]]]:
    """Yield them in order: small ones together, as many as there is room for."""
    batch, size = list[tuple[Sliced, int]](), 0
    for one, start in wanted:
        nbytes = max(1, one.nbytes) if one.nbytes <= SMALL_BYTES else room
        if batch and (size + nbytes > room or len(batch) == _MOST):
            yield batch
            batch, size = [], 0
        batch.append((one, start))
        size += nbytes
    yield batch


def _together(
    client: Client, batch: Sequence[tuple[Sliced, int]], earlier: set[str]
) -> Iterator[tuple[Sliced, int, Array]]:
    results = deque(client.get_many([one.source for one, _ in batch], return_errors=True))
    loaded = set[str]()
    for one, start in batch:
        array = results.popleft() if results else None
        if array is None or isinstance(array, NoRoom):  # its user may have fewer at a time
            results.clear()
            for first, rows in one.slices(client, start):
                yield one, first, rows
                del rows
            continue
        if isinstance(array, ArraydError):
            results.clear()  # or the error would keep the arrays alive
            raise array
        one.check_unchanged()
        if (one.cheap or one.is_row) and array.block is not None:
            loaded.add(array.block.name)
        yield one, start, one._from(array, start)
        del array
    for name in loaded - earlier:
        with contextlib.suppress(ArraydError):
            client.evict(block=name)
