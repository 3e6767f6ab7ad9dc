"""One sample per file: a hundred thousand small files, each one row of a field.

``.npy`` files that were written alike have the same header, byte for byte. So the first is read
with all checks, and of each one after it header and values are read by one ``preadv`` into their
places, and the header compared. A file that differs is read with all checks. So 100,000 files of
12 KiB take 4 s of a processor, those of `numpy.load` in a loop 18 s. Several threads read, each
some files in a row: where files are not in the page cache, most of the time goes by waiting.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from arrayd.common.casts.padding import as_items
from arrayd.samples.manifest import Field, Manifest
from arrayd.source import Source
from arrayd_server.loaders import formats
from arrayd_server.loaders.contiguous import Selection
from arrayd_server.loaders.dataset import file_rows
from arrayd_server.loaders.dataset.manifests import Stat, check_path, missing, stat_of
from arrayd_server.loaders.recognise import recognised
from arrayd_server.loaders.validation import os_errors

Array = np.ndarray[Any, Any]

THREADS = 8

FILES_IN_A_ROW = 16
"""Files that a thread reads before another may have its place."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class WholeFiles:
    """Reads the files of a field of which each is one row.

    Parameters
    ----------
    manifest, one
        The dataset, and the field.
    """

    def __init__(self, manifest: Manifest, one: Field) -> None:
        self._manifest = manifest
        self._field = one
        self._files = manifest.files[one.files]
        self._header = b""  # of .npy files like the first; empty: not known
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="files")

    def read(self, numbers: Iterable[int], out: Array) -> None:
        """Read files, each to its place.

        Parameters
        ----------
        numbers
            Of the files, k.
        out : array of the field's dtype, shape (k, *row_shape), C-contiguous
            Takes their values.

        Raises
        ------
        SourceNotFound, SourceChanged, AccessDenied, BadFile, SpecMismatch
            A file is gone, has changed since it was scanned, or is not like the others.
        """
        todo = [int(number) for number in numbers]
        if not todo or not out.size:
            return
        if not self._header:
            self._read_one(todo[0], out[:1])
        starts = range(0, len(todo), FILES_IN_A_ROW)
        if len(starts) < 2:
            self._read_row(todo, out)
            return
        works = [
            self._threads.submit(
                self._read_row, todo[at : at + FILES_IN_A_ROW], out[at : at + FILES_IN_A_ROW]
            )
            for at in starts
        ]
        wait(works)
        for work in works:
            work.result()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _read_row(self, numbers: list[int], out: Array) -> None:
        stats = [tuple(stat) for stat in self._files.stats[numbers].tolist()]
        data = out.reshape(len(numbers), -1).view(np.uint8)
        for at, (number, stat) in enumerate(zip(numbers, stats, strict=True)):
            if not (self._header and self._read_alike(number, stat, data[at].data)):
                self._read_one(number, out[at : at + 1])

    def _read_one(self, number: int, out: Array) -> None:
        """Read one file with all checks; `out` is ``(1, *row_shape)``."""
        with file_rows.ONE_AT_A_TIME:
            check_path(self._files, number, self._field)
            source = self._manifest.source_of(self._field, number)
            values = file_rows.whole_array(source, self._field)
            as_items(out.reshape(-1))[:] = as_items(values.reshape(-1))
            if not self._header:
                self._learn(source)
            check_path(self._files, number, self._field)

    def blocks(self, numbers: range | Array, rows: int) -> Iterator[Array]:
        """Yield the rows of these files, `rows` at a time; each block is overwritten by the next.

        Yields
        ------
        array of the field's dtype, shape (k, *row_shape)
        """
        shape = (min(rows, len(numbers)), *self._field.row_shape)
        block = np.zeros(shape, self._field.dtype)
        for start in range(0, len(numbers), rows):
            some = numbers[start : start + rows]
            self.read(some, block[: len(some)])
            yield block[: len(some)]

    def _learn(self, source: Source) -> None:
        """Remember the header of a plain ``.npy``; other files are always read with all checks."""
        source = recognised(source)
        if source.resolved_format() != "npy":
            return
        plan = formats.look(source)
        if plan.order == "C" and isinstance(plan.detail, Selection):
            with os_errors(source.path), open(source.path, "rb") as file:
                self._header = file.read(plan.detail.offset)

    def _read_alike(self, number: int, stat: Stat, out: memoryview) -> bool:
        """Read a file that begins with the known header; False: it does not, or has changed."""
        path, found = self._files.path(number), bytearray(len(self._header))
        with os_errors(path):
            try:
                fd = os.open(path, _FLAGS)
            except OSError as error:
                raise missing(self._files, number, self._field, error) from None
            try:
                got = os.preadv(fd, [found, out], 0) if stat_of(os.fstat(fd)) == stat else -1
                same = stat_of(os.fstat(fd)) == stat
            finally:
                os.close(fd)
        return same and got == len(self._header) + len(out) and found == self._header
