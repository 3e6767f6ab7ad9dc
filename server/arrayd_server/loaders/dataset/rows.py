"""Rows of a field at random, read in place from files that hold them as they are in memory.

The rows wanted are sorted by where they lie, which is the order of their ids; `runs` finds the
bytes, `reading` reads them, and from the buffer each row is copied, cast if need be, to its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from arrayd.common.casts.cast import cast_chunk, check_cast
from arrayd.errors import ArraydError, BadFile, CastError, SourceChanged
from arrayd.samples.manifest import Field, Manifest
from arrayd_server.loaders.dataset.manifests import AGAIN
from arrayd_server.loaders.dataset.open_files import OpenFile, OpenFiles
from arrayd_server.loaders.dataset.reading import (
    PAGE,
    ReadError,
    ReadQueues,
    read_large,
)
from arrayd_server.loaders.dataset.runs import Int64, Runs, copy_rows, spaced, spaced_rows

Array = np.ndarray[Any, Any]
Ids = npt.NDArray[np.uint64]

COPY_BYTES = 256 << 10
"""Rows are copied and cast in pieces that stay in the L2 cache on their way."""

LARGE_BYTES = 4 << 20
"""A row of more bytes is read by itself."""

MIN_SPACED = 16
"""Rows that follow each other at one distance, for which it is worth while to copy them alone."""

FILES_AT_A_TIME = 128


@dataclass(slots=True)
class ReadStats:
    """What a read took: bytes read from files, and values that a cast changed."""

    bytes_read: int = 0
    changed: int = 0

    def add(self, other: ReadStats) -> None:
        """Add what another read took."""
        self.bytes_read += other.bytes_read
        self.changed += other.changed


class Placer:
    """Puts rows of a field to their places, as `target`.

    Parameters
    ----------
    manifest, one
        The dataset, and the field.
    target
        The dtype of the result.
    overflow
        As in `Source.overflow`.

    Raises
    ------
    SpecMismatch
        There is no such cast.
    """

    def __init__(
        self, manifest: Manifest, one: Field, target: np.dtype[Any], overflow: str
    ) -> None:
        check_cast(one.dtype, target)
        self.target = target
        self._manifest = manifest
        self._field = one
        self._overflow = overflow

    @property
    def casts(self) -> bool:
        """Whether rows are not copied as they are."""
        return self.target != self._field.dtype

    def put(self, rows: Array, ids: Ids, out: Array, where: Int64) -> int:
        """Put rows in their places; return how many values the cast changed.

        Parameters
        ----------
        rows : array (k, *row_shape)
            As in the file.
        ids : uint64 (k,)
            Their ids, for the error.
        out : array of `target`, (n, *row_shape), C-contiguous
        where : int64 (k,)
            Their places in `out`.

        Raises
        ------
        CastError
            It names field, row, file and value.
        """
        if not self.casts:
            as_void(out)[where] = as_void(rows)
            return 0
        try:
            values, changed = cast_chunk(rows, self.target, self._overflow)
        except CastError as error:
            raise self._blame(error, rows, ids) from None
        as_void(out)[where] = as_void(values)
        return changed

    def _blame(self, error: CastError, rows: Array, ids: Ids) -> CastError:
        row, *index = np.unravel_index(error.details["at"], rows.shape)
        number = int(ids[row])
        files = self._manifest.files[self._field.files]
        path = files.path(int(files.locate(np.array([number]))[0][0]))
        place = f" at {[int(i) for i in index]}" if index else ""
        return CastError(
            f"Field {self._field.name!r}, row {number} ({path}){place}: {error.message}",
            **{**error.details, "row": number, "at": tuple(map(int, index))},
        )


def as_void(rows: Array) -> npt.NDArray[np.void]:
    """Return rows as one item each, so that numpy copies each by one memcpy; no copy."""
    size = rows.nbytes // len(rows) if len(rows) else 1
    flat = rows.reshape(-1) if rows.flags.c_contiguous else np.ascontiguousarray(rows).reshape(-1)
    found: npt.NDArray[np.void] = flat.view(np.uint8).view(f"V{size}")
    return found


class HasOpen(Protocol):
    """The type of `OpenFiles`, and of what stands in for it."""

    def use(self, numbers: Iterable[int]) -> AbstractContextManager[list[OpenFile]]:
        """Have these files open meanwhile."""

    def close(self) -> None:
        """Close all."""


class RowReader:
    """Reads rows of a field whose files are addressable. Threads may share it.

    Parameters
    ----------
    manifest, one
        The dataset, and the field.
    cast
        The dtype wanted; None: as in the files.
    overflow
        What happens to a value that does not fit, as in `Source.overflow`.
    opened
        Makes what has the files open, past the page cache or not; None: `OpenFiles`.
    queues
        What reads, and is closed by whoever made it; None: some of its own.
    """

    def __init__(
        self,
        manifest: Manifest,
        one: Field,
        cast: np.dtype[Any] | None = None,
        overflow: str = "error",
        opened: Callable[[bool], HasOpen] | None = None,
        queues: ReadQueues | None = None,
    ) -> None:
        self._files = manifest.files[one.files]
        self._field = one
        self._placer = Placer(manifest, one, cast or one.dtype, overflow)
        self._queues = queues or ReadQueues(1)
        self._own = None if queues else self._queues
        direct = self._queues.has_direct
        try:
            self._open = opened(direct) if opened else OpenFiles(manifest, one, direct=direct)
        except BaseException:
            self._close_queues()
            raise

    def read(self, ids: Ids, out: Array, where: Int64) -> ReadStats:
        """Read rows into their places.

        Parameters
        ----------
        ids : uint64 (k,)
            Different rows, in any order.
        out : array of the dtype wanted, (n, *row_shape), C-contiguous
        where : int64 (k,)
            Which place in `out` each row is for.

        Raises
        ------
        NotAddressed
            They lie in a file that must be decoded.
        SourceNotFound, SourceChanged, AccessDenied, BadFile, SpecMismatch, CastError
            It names the file, and the row if there is one. Some rows may be in their places.
        """
        stats = ReadStats()
        if not self._field.row_bytes or not len(ids):
            return stats
        order = np.argsort(ids, kind="stable")
        ids, where = ids[order], np.asarray(where, np.int64)[order]
        numbers, inside = self._files.locate(ids)
        alone = numbers[0] == numbers[-1]  # all in one file
        edges = np.zeros(1, np.int64) if alone else np.flatnonzero(np.diff(numbers, prepend=-1))
        for some in [
            edges[at : at + FILES_AT_A_TIME] for at in range(0, len(edges), FILES_AT_A_TIME)
        ]:
            stop = edges[edges > some[-1]]
            cut = slice(int(some[0]), int(stop[0]) if len(stop) else len(ids))
            with self._open.use(map(int, numbers[some])) as held:
                batch = _Batch(held, numbers[cut], inside[cut], ids[cut], where[cut])
                stats.add(self._read(batch, out))
        return stats

    def close(self) -> None:
        """Close the files, and end the threads."""
        self._close_queues()
        self._open.close()

    def _close_queues(self) -> None:
        if self._own is not None:
            self._own.close()

    def _read(self, batch: _Batch, out: Array) -> ReadStats:
        if self._field.row_bytes > LARGE_BYTES:
            return self._read_large(batch, out)
        direct = all(file.align for file in batch.held)
        align = max(file.align for file in batch.held) if direct else PAGE
        offsets = batch.offsets(self._field.row_bytes)
        runs = Runs.of(batch.files, offsets, self._field.row_bytes, align)
        into = self._in_place(batch, runs, align, out) if direct else None
        delivery = _Delivery(self._field, self._placer, batch, runs, out, into)
        try:
            self._read_runs(batch, runs, delivery, direct)
        except ReadError as error:
            row = int(runs.first[error.run])
            raise self._blame(batch, row, error.code) from None
        return ReadStats(int(runs.lengths.sum()), delivery.changed)

    def _in_place(self, batch: _Batch, runs: Runs, align: int, out: Array) -> Int64 | None:
        """Return the address in `out` to which each run is read, 0: to a buffer; None: all are."""
        size = self._field.row_bytes
        if self._placer.casts or size % align or any(file.base % align for file in batch.held):
            return None
        begin = out.ctypes.data
        if begin % align:
            return None
        single = runs.first[1:] - runs.first[:-1] == 1
        return np.where(single, begin + batch.where[runs.first[:-1]] * size, 0)

    def _read_runs(self, batch: _Batch, runs: Runs, delivery: _Delivery, direct: bool) -> None:
        fds = np.array([file.fd for file in batch.held])[runs.files]
        if not direct:
            self._queues.cached.read(fds, runs, delivery)
            return
        with self._queues.direct() as reader:
            reader.read(fds, runs, delivery, delivery.into)

    def _read_large(self, batch: _Batch, out: Array) -> ReadStats:
        """Read rows that no buffer holds, one after another."""
        changed = 0
        row = (
            np.empty((1, *self._field.row_shape), self._field.dtype) if self._placer.casts else None
        )
        for at, (number, offset) in enumerate(
            zip(batch.files, batch.offsets(self._field.row_bytes), strict=True)
        ):
            place = out[batch.where[at]] if row is None else row
            try:
                flat = np.reshape(place, -1).view(np.uint8)
                read_large(batch.held[number].fd, int(offset), flat)
            except ReadError as error:
                raise self._blame(batch, at, error.code) from None
            if row is not None:
                one = slice(at, at + 1)
                changed += self._placer.put(row, batch.ids[one], out, batch.where[one])
        return ReadStats(len(batch.ids) * self._field.row_bytes, changed)

    def _blame(self, batch: _Batch, at: int, code: int) -> ArraydError:
        path = self._files.path(batch.held[int(batch.files[at])].number)
        what = f"{path}, row {int(batch.ids[at])} of field {self._field.name!r}"
        if not code:
            return SourceChanged(
                f"{what}: the file has become shorter since the dataset was made of it: {AGAIN}."
            )
        return BadFile(
            f"{what} cannot be read: {os.strerror(code)}. If the disk is sound (see dmesg), put "
            f"the file back from a copy, or {AGAIN} without it."
        )


class _Batch:
    """Rows that are read together: sorted, from a bounded number of files.

    `files` are indexes into `held`; `rows` count within each file.
    """

    def __init__(
        self, held: list[OpenFile], numbers: Int64, rows: Int64, ids: Ids, where: Int64
    ) -> None:
        self.held = held
        self.files = np.zeros(len(numbers), np.int64)
        if len(held) > 1:
            self.files = np.searchsorted(np.array([file.number for file in held]), numbers)
        self.rows = rows
        self.ids = ids
        self.where = where

    def offsets(self, row_bytes: int) -> Int64:
        """Return where in its file each row begins."""
        found: Int64 = self.rows * row_bytes
        if len(self.held) > 1:
            found += np.array([file.base for file in self.held])[self.files]
        else:
            found += self.held[0].base
        return found


class _Delivery:
    """Takes runs out of the buffer, to where their rows belong."""

    def __init__(
        self,
        one: Field,
        placer: Placer,
        batch: _Batch,
        runs: Runs,
        out: Array,
        into: Int64 | None,
    ) -> None:
        self.changed = 0
        self.into = into  # where runs are read straight to their place, and not delivered
        self._field = one
        self._size = one.row_bytes
        self._placer = placer
        self._batch = batch
        self._runs = runs
        self._out = out
        self._places = as_void(out)

    def __call__(self, first: int, stop: int, buffer: npt.NDArray[np.uint8], begins: Int64) -> None:
        """Put the rows of these runs to their places; `Deliver`."""
        runs = self._runs
        rows = np.arange(runs.first[first], runs.first[stop])
        if self.into is not None:
            rows = rows[self.into[runs.run[rows]] == 0]
            if not len(rows):
                return
        at = begins[runs.run[rows] - first] + runs.inside[rows]
        edges = spaced(at)
        if self._placer.casts or len(edges) > len(rows) // MIN_SPACED + 2:
            self._put(rows, buffer, at)
            return
        where = self._batch.where[rows]
        for low, high in pairwise(edges):
            self._places[where[low:high]] = spaced_rows(buffer, at[low:high], self._size)

    def _put(self, rows: Int64, buffer: npt.NDArray[np.uint8], at: Int64) -> None:
        """Put rows that begin anywhere in the buffer to their places, cast if need be."""
        size, batch = self._size, self._batch
        step = max(1, COPY_BYTES // size)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            raw = copy_rows(buffer, at[start : start + step], size)
            values = raw.view(np.uint8).view(self._field.dtype)
            shaped = values.reshape(len(some), *self._field.row_shape)
            self.changed += self._placer.put(shaped, batch.ids[some], self._out, batch.where[some])
