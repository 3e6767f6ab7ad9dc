"""Packs the rows of many files into one ``.npy``, resumably and in bounded memory.

Everything is written to ``OUT.part`` by a `RowWriter`, and what was done is noted in
``OUT.progress`` (`arrayd.datasets.pack_note`): every 64 MiB the rows are flushed, and only then the
note counts them. So whenever the process ends, the rows that the note counts are on the disk; those
behind them are cut off and packed again. At the end ``OUT.part`` is renamed: ``OUT`` is complete as
soon as it exists.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.client import Client
from arrayd.common import arguments, failpoints
from arrayd.common.casts.cast import cast_chunk, check_cast
from arrayd.datasets.field_files import listed_in
from arrayd.datasets.npy_look import NpyHeaders
from arrayd.datasets.pack_note import PackNote
from arrayd.datasets.patterns import expanded
from arrayd.datasets.report import FieldReports
from arrayd.datasets.slices import SLICE_BYTES, Sliced, in_turn
from arrayd.datasets.writer import RowWriter, placed
from arrayd.errors import CastError, SpecMismatch
from arrayd.session.request import SourceLike
from arrayd.source import OVERFLOWS, Source
from arrayd.wire import dtypes

Array = np.ndarray[Any, Any]
DType = np.dtype[Any]

PART, PROGRESS = ".part", ".progress"
"""What the names of an unfinished pack and of its note end with."""

_PIECE_BYTES = 16 << 20  # cast in one go
_PROBES = 8  # files looked into at a time


@dataclass(frozen=True, slots=True)
class PackResult:
    """What was packed.

    Parameters
    ----------
    path
        Of the file, absolute.
    rows, row_shape, dtype
        Of the array in it.
    sources
        How many there were.
    report
        What the cast did; None: there was none.
    """

    path: str
    rows: int
    row_shape: tuple[int, ...]
    dtype: DType
    sources: int
    report: FieldReports | None


def pack(
    client: Client,
    sources: Iterable[SourceLike],
    out: str | os.PathLike[str],
    *,
    cast: npt.DTypeLike | None = None,
    overflow: str = "error",
    restart: bool = False,
    written: Callable[[int, int], None] | None = None,
    **options: Any,
) -> PackResult:
    """Write the rows of many sources, in their order, into one ``.npy``.

    A run that ended early, in whatever way, goes on where it was if it is called again with the
    same sources.

    Parameters
    ----------
    client
        Session with the daemon that reads them.
    sources
        As for `arrayd.get`, patterns of files, and lists of files as for `arrayd.dataset`, each
        file one row; all with one dtype and row shape.
    out
        The file, which is replaced at the end. Beside it lie ``out.part`` and ``out.progress``
        meanwhile.
    cast, overflow
        As for `arrayd.get`.
    restart
        Begin anew, whatever an earlier run has left.
    written
        Called with bytes read and bytes in total.
    options
        How the files are read, as for `arrayd.get`.

    Raises
    ------
    SpecMismatch
        Sources have different dtypes or row shapes, or an unfinished run had other sources.
    SourceChanged
        A file changed since an unfinished run, or while it was read.
    CastError
        A value does not fit; what was packed before it stays, for a run with another `overflow`.
    SourceBusy
        Another process packs to the same file.
    NoRoom
        The disk, or the daemon's memory, is full.
    """
    target = None if cast is None else dtypes.parsed("cast", cast)
    how = arguments.one_of("overflow", overflow, OVERFLOWS)
    if how != "error" and target is None:
        raise SpecMismatch(f"overflow={how!r} says what a cast does, and there is no cast=.")
    path = os.path.realpath(out)
    if os.path.isdir(path):
        raise SpecMismatch(f"{path} is a folder; the name of a file is needed.")
    inputs = _looked_at(client, expanded(arguments.sources(sources)), path, options)
    job = _Job(inputs, path, target, how)
    return job.run(client, arguments.flag("restart", restart), written)


# ---- the inputs --------------------------------------------------------------------------


def _meant(source: SourceLike, options: dict[str, Any]) -> list[tuple[Source, bool]]:
    """Return what a source means: itself, or the files of a list; and whether each is one row."""
    listed = listed_in(source, options)
    if listed is None:
        return [(Source.of(source, **options), False)]
    return [(one, True) for one in listed]


def _looked_at(
    client: Client, sources: Sequence[SourceLike], out: str, options: dict[str, Any]
) -> list[Sliced]:
    """Look into all files before anything is written.

    Raises
    ------
    SpecMismatch
        There are none, they differ, or one of them is `out`.
    """
    wanted = [one for source in sources for one in _meant(source, options)]
    if not wanted:
        raise SpecMismatch("Nothing to pack: name at least one source.")
    for source, _ in wanted:
        if source.path and os.path.realpath(source.path) == out:
            raise SpecMismatch(f"{out} is to be written, and is one of the sources.")
    headers = NpyHeaders()

    def look(one: tuple[Source, bool]) -> Sliced:
        source, is_row = one
        sliced = Sliced.of(client, source, headers)
        return sliced.as_row() if is_row else sliced

    with ThreadPoolExecutor(_PROBES) as pool:
        found = list(pool.map(look, wanted))
    first = found[0]
    for one in found:
        if not one.shape:
            raise SpecMismatch(f"{one.source} is 0-d: it has no rows to pack.")
        if (one.shape[1:], one.dtype) != (first.shape[1:], first.dtype):
            raise SpecMismatch(
                f"{one.source} has rows of shape {one.shape[1:]} and dtype {one.dtype}; "
                f"{first.source}, the first one, has {first.shape[1:]} and {first.dtype}. One "
                "array has rows of one kind: pack them apart, or convert one of them first."
            )
    return found


# ---- the work ----------------------------------------------------------------------------


class _Job:
    """One pack: its inputs, its file, and what was done."""

    def __init__(
        self, inputs: Sequence[Sliced], path: str, cast: DType | None, overflow: str
    ) -> None:
        self._inputs = inputs
        self._path = path
        origin = inputs[0].dtype
        self._dtype = origin if cast is None else cast
        self._overflow = overflow
        self._report = None
        if cast is not None:
            check_cast(origin, cast, overflow)
            self._report = FieldReports(origin, cast)
        self._note = PackNote(path + PROGRESS, inputs, self._dtype, overflow)
        self._row_bytes = math.prod(inputs[0].shape[1:]) * origin.itemsize
        self._nbytes = sum(one.nbytes for one in inputs)
        self._done = 0
        self._noted = 0

    def run(
        self, client: Client, restart: bool, written: Callable[[int, int], None] | None
    ) -> PackResult:
        """Do what is left; rename the file at the end."""
        part, row_shape = self._path + PART, self._inputs[0].shape[1:]
        if not restart and os.path.exists(part):
            self._note.check()
        with RowWriter(
            part,
            self._dtype,
            row_shape,
            resume=not restart,
            replace=restart,
            flush_every=1 << 62,  # the note says when
        ) as writer:
            self._begin(writer)
            for one, first, rows in in_turn(client, self._left()):
                self._append(writer, one, first, rows)
                del rows
                if written is not None:
                    written(self._done * self._row_bytes, self._nbytes)
            for one in self._inputs:
                one.check_unchanged()
            self._save(writer)
        os.replace(part, self._path)
        failpoints.hit("client.packed")
        self._note.remove()
        return PackResult(
            self._path, self._done, row_shape, self._dtype, len(self._inputs), self._report
        )

    def _begin(self, writer: RowWriter) -> None:
        """Bring the file and the counts to where the note says that they were."""
        noted = self._note.take(writer.rows)
        writer.truncate(noted.rows)
        self._done = self._noted = noted.rows
        if self._report is not None and noted.report:
            self._report.take_plain(noted.report)

    def _left(self) -> list[tuple[Sliced, int]]:
        """Return the sources that are not done, and the row from which each is wanted."""
        left, begin = [], 0
        for one in self._inputs:
            end = begin + one.shape[0]
            if self._done < end:
                left.append((one, max(0, self._done - begin)))
            begin = end
        return left

    def _append(self, writer: RowWriter, one: Sliced, first: int, rows: Array) -> None:
        """Write a slice; note it with the others of the last 64 MiB."""
        step = max(1, _PIECE_BYTES // max(1, self._row_bytes))
        for start in range(0, len(rows), step):
            part = np.asarray(rows[start : start + step])
            writer.append(part if self._report is None else self._cast(one, first + start, part))
            if self._report is not None:
                self._report.add(part)
            self._done += len(part)
        if (self._done - self._noted) * self._row_bytes >= SLICE_BYTES:
            self._save(writer)

    def _cast(self, one: Sliced, first: int, part: Array) -> Array:
        try:
            return cast_chunk(part, self._dtype, self._overflow)[0]
        except CastError as error:
            raise placed(error, str(one.source), part.shape, first) from None

    def _save(self, writer: RowWriter) -> None:
        """Have all on the disk, and only then the note that counts it."""
        writer.flush()
        failpoints.hit("client.saving")
        report = None if self._report is None else self._report.to_plain()
        self._note.add(self._done, report)
        self._noted = self._done
