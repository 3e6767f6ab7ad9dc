"""Arrays larger than memory, written row by row: a ``.npy`` that is valid at every flush.

`RowWriter.append` writes rows at the end of the file, `RowWriter.flush` counts them in its header:
what is flushed outlives a ``kill -9`` and a power cut, and what is not flushed is not there. How
that is done is told in `arrayd.datasets.row_file`.

An ``append`` is all or nothing: where it fails, no row of it counts. An exception inside the
``with`` ends it like its regular end, as with `h5py.File`: the rows that were appended stay, are
flushed, and ``resume=True`` goes on from there.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from arrayd.common import arguments, failpoints
from arrayd.common.bytesize import parse_bytes
from arrayd.common.casts.cast import cast_chunk, check_cast
from arrayd.common.casts.changes import values_in
from arrayd.datasets.npy_header import GrowingHeader
from arrayd.datasets.row_file import RowFile
from arrayd.errors import ArraydError, CastError, SpecMismatch
from arrayd.source import OVERFLOWS
from arrayd.wire import dtypes

Array = np.ndarray[Any, Any]

FLUSH_BYTES = 256 << 20
"""Bytes that are appended between two flushes, unless the caller says otherwise."""

_PIECE_BYTES = 16 << 20  # in one write: bounds the copies of a cast


def writer(
    path: str | os.PathLike[str],
    dtype: npt.DTypeLike,
    row_shape: int | Sequence[int] = (),
    *,
    flush_every: int | str = FLUSH_BYTES,
    resume: bool = False,
    replace: bool = False,
    cast: bool = False,
    overflow: str = "error",
) -> RowWriter:
    """Write an array that may be larger than memory to a ``.npy`` file, by appending rows.

    >>> with arrayd.writer("aug.npy", "f4", (64, 64)) as out:  # doctest: +SKIP
    ...     for batch in batches:
    ...         out.append(batch)

    Whoever opens the file at any time, with ``np.load(path, mmap_mode="r")`` or `arrayd.get`, sees
    the rows that were flushed by then.

    Parameters
    ----------
    path
        Of the file; its folder exists.
    dtype
        Of the values, without Python objects. Types of ml_dtypes are stored as their bits, as
        by `numpy.save`: ask for them with ``dtype="bfloat16"``.
    row_shape
        Shape of a row; the file has the shape ``(rows, *row_shape)``.
    flush_every
        Bytes (``256 << 20``, ``"1G"``) after which an append flushes by itself.
    resume
        Go on with the file if it is there: what was flushed stays. It has this dtype and
        row shape.
    replace
        Take the place of the file if it is there; who has it open keeps the old one.
    cast
        Values may be rounded to `dtype`. False: what `dtype` does not hold exactly is refused.
    overflow
        With `cast`, what becomes of values beyond `dtype`, as for `arrayd.get`.

    Returns
    -------
    RowWriter
        To be used in a ``with``, or closed.

    Raises
    ------
    TargetExists
        The file is there, is not empty, and neither `resume` nor `replace` is set.
    SpecMismatch
        An argument is wrong, or the file to go on with has another dtype or row shape.
    BadFile
        The file to go on with is no ``.npy``, or is truncated.
    SourceBusy
        Somebody writes the file.
    SourceNotFound, AccessDenied
        The file cannot be made there.
    NoRoom
        The disk is full.
    """
    return RowWriter(
        path,
        dtype,
        row_shape,
        flush_every=flush_every,
        resume=resume,
        replace=replace,
        cast=cast,
        overflow=overflow,
    )


class RowWriter:
    """A ``.npy`` file to which rows are appended; see `writer` for the parameters.

    Its methods may be called from several threads, but only in the process that made it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        dtype: npt.DTypeLike,
        row_shape: int | Sequence[int] = (),
        *,
        flush_every: int | str = FLUSH_BYTES,
        resume: bool = False,
        replace: bool = False,
        cast: bool = False,
        overflow: str = "error",
    ) -> None:
        self._file: RowFile | None = None
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._path = os.path.realpath(path)
        kind = dtypes.parsed("dtype", dtype)
        if kind.itemsize == 0:
            raise SpecMismatch(f"dtype={kind}: a value of no bytes. Say the length, such as S10.")
        self._dtype = kind.base
        self._row_shape = tuple(arguments.shape(row_shape, kind, key="row_shape"))
        self._row_bytes = math.prod(self._row_shape) * self._dtype.itemsize
        self._flush_bytes = _bytes(flush_every)
        self._cast, self._overflow = _casting(cast, overflow)
        self._broken: ArraydError | None = None
        resume, replace = arguments.flag("resume", resume), arguments.flag("replace", replace)
        if resume and replace:
            raise SpecMismatch("resume=True goes on with a file, replace=True does not: say one.")
        header = GrowingHeader.of(self._dtype, self._row_shape)
        self._file = RowFile(self._path, header, resume=resume, replace=replace)
        self._rows = self._flushed = self._file.header.rows

    # ---- what it is ----------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Of the file, absolute."""
        return self._path

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return self._dtype

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return self._row_shape

    @property
    def rows(self) -> int:
        """How many rows were appended, by earlier writers too."""
        return self._rows

    @property
    def flushed(self) -> int:
        """How many of them the file counts: the others are lost with the process."""
        return self._flushed

    def __repr__(self) -> str:
        state = "closed" if self._file is None else "open"
        kind = f"{self._rows} rows, each {self._row_shape} {self._dtype}"
        return f"<arrayd.writer {self._path}: {kind}, {state}>"

    # ---- writing -------------------------------------------------------------------------

    def append(self, batch: npt.ArrayLike) -> None:
        """Write rows at the end: all of them, or none where it fails.

        Parameters
        ----------
        batch
            Of shape ``(k, *row_shape)``, or one row. What numpy would silently drop or round
            of it is an error, as for `arrayd.put`.

        Raises
        ------
        SpecMismatch
            It has another shape, or a type that does not go to that of the file.
        CastError
            A value does not fit, or, without ``cast=True``, would be rounded.
        NoRoom
            The disk is full. The file is valid, and has the rows of the last flush.
        """
        values = self._shaped(arguments.array(batch, "append"))
        with self._lock:
            file = self._usable()
            step = max(1, _PIECE_BYTES // max(1, self._row_bytes))
            try:
                for start in range(0, len(values), step):
                    piece = self._converted(values[start : start + step], start)
                    file.write(self._rows + start, piece)
            except BaseException:
                file.cut(self._rows)
                raise
            failpoints.hit("client.appended")
            self._rows += len(values)
            if (self._rows - self._flushed) * self._row_bytes >= self._flush_bytes:
                self.flush()

    def flush(self) -> None:
        """Have all rows on the disk, and in the file's header: then they outlive a power cut.

        Raises
        ------
        NoRoom, ArraydError
            The disk is full or fails. The file stays as it was at the last flush, and this
            writer writes no more.
        """
        with self._lock:
            file = self._usable()
            if self._rows != self._flushed:
                self._count(file, self._rows)

    def truncate(self, rows: int) -> None:
        """Keep the first `rows` rows only: back to where one's own account of them stands.

        Raises
        ------
        SpecMismatch
            There are fewer.
        """
        with self._lock:
            file = self._usable()
            keep = arguments.whole("rows", rows)
            if not 0 <= keep <= self._rows:
                raise SpecMismatch(f"rows={keep}: {self._path} has {self._rows} rows to keep.")
            if keep < self._flushed:
                self._count(file, keep)
            self._rows = keep
            file.cut(keep)

    def close(self) -> None:
        """Flush, and end the writing; closing it again does nothing."""
        with self._lock:
            file = self._file
            if file is None:
                return
            if self._pid != os.getpid():
                self._file = None
                file.abandon()
                return
            try:
                if self._broken is None:
                    self.flush()
            finally:
                self._file = None
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            with contextlib.suppress(Exception):  # nobody is there to hear of it
                self.close()

    # ---- values --------------------------------------------------------------------------

    def _count(self, file: RowFile, rows: int) -> None:
        try:
            file.count(rows)
            self._flushed = rows
        except ArraydError as error:
            # After an error the kernel may take pages for written that are not: no second try.
            self._broken = error
            raise

    def _usable(self) -> RowFile:
        """Return the file, if it can be written to."""
        if self._pid != os.getpid():
            raise SpecMismatch(
                f"{self._path} is written by process {self._pid}, from which this one was forked: "
                "append there, or give each process a file of its own."
            )
        if self._file is None:
            raise SpecMismatch(f"{self._path} is closed. Open it again with resume=True.")
        if self._broken is not None:
            raise ArraydError(
                f"{self._path} has the {self.flushed} rows of the last flush; the next one failed: "
                f"{self._broken.message} Then open it again with resume=True."
            )
        return self._file

    def _shaped(self, values: Array) -> Array:
        """Return a batch as an array of rows."""
        rows = values[None] if values.ndim == len(self._row_shape) else values
        if rows.ndim == 0 or rows.shape[1:] != self._row_shape:
            raise SpecMismatch(
                f"append got an array of shape {values.shape}; {self._path} has rows of shape "
                f"{self._row_shape}: give one, or several as (k, {str(self._row_shape)[1:]}."
            )
        return rows

    def _converted(self, piece: Array, start: int) -> Array:
        """Return rows as they are stored; `start` is the first one's index in the batch."""
        if piece.dtype == self._dtype:
            return piece
        check_cast(piece.dtype, self._dtype, self._overflow)
        try:
            result, changed = cast_chunk(piece, self._dtype, self._overflow)
        except CastError as error:
            raise placed(error, "append", piece.shape, start) from None
        if changed and not self._cast:
            count = piece.size * values_in(piece.dtype)
            raise CastError(
                f"append would round {changed} of {count} values of {piece.dtype} to "
                f"{self._dtype}. Pass cast=True to arrayd.writer if that is meant, or write "
                f"{piece.dtype}.",
                changed=changed,
                of=count,
            )
        return result


def placed(error: CastError, where: str, shape: tuple[int, ...], first: int) -> CastError:
    """Return an error of `cast_chunk` that says where the value is.

    Parameters
    ----------
    error
        With the index of the value in the flat chunk.
    where
        What the chunk is a part of.
    shape
        Of the chunk: rows along axis 0.
    first
        Index of its first row in all that it is a part of.
    """
    place = np.unravel_index(error.details["at"], shape)
    at = (first + int(place[0]), *map(int, place[1:]))
    return CastError(f"{where}, at {list(at)}: {error.message}", **{**error.details, "at": at})


def _bytes(value: int | str) -> int:
    """Return the bytes of ``flush_every=``."""
    try:
        number = parse_bytes(value) if isinstance(value, str) else arguments.whole("", value)
        if number > 0:
            return number
    except (ValueError, SpecMismatch):
        pass
    raise SpecMismatch(f"flush_every={value!r}: it is a number of bytes from 1 on, or '64M', '1G'.")


def _casting(cast: bool, overflow: str) -> tuple[bool, str]:
    flag = arguments.flag("cast", cast)
    how = arguments.one_of("overflow", overflow, OVERFLOWS)
    if how != "error" and not flag:
        raise SpecMismatch(f"overflow={how!r} says what a cast does, and cast=True is not set.")
    return flag, how
