"""Rows of a field at random from files that must be decoded: compressed chunks, text, samples.

What is decoded together is a *unit*: the rows of a chunk (HDF5), a part of the loader's plan
(text, compressed npz), or a file that is one row. A unit is decoded when one of its rows is wanted,
and those of one file with the file opened once.

All files are of one dataset, whose reader may see all of it: so what libhdf5 may pass on of its
heap (see `arrayd_server.loading.apart`) is nobody else's, and no process apart is needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import lru_cache
from typing import Any

import numpy as np

from arrayd.samples.manifest import Field, Manifest
from arrayd.source import Source
from arrayd_server.loaders import formats
from arrayd_server.loaders.base import GAP, Chunks, InUnits, LoadPlan, Part
from arrayd_server.loaders.dataset import file_rows
from arrayd_server.loaders.dataset.manifests import Stat, check_path
from arrayd_server.loaders.dataset.rows import Ids, Placer, ReadStats
from arrayd_server.loaders.dataset.runs import Int64
from arrayd_server.loaders.dataset.whole_files import WholeFiles
from arrayd_server.loaders.recognise import recognised

Array = np.ndarray[Any, Any]

FILES_BYTES = 16 << 20
"""Bytes of small files that are read at a time."""

Keep = Callable[[Ids, Array], None]
"""Takes rows that were decoded, as in the file: rising ids ``(k,)`` and ``(k, *row_shape)``."""


class DecodedRows:
    """Reads rows of a field whatever its files are. Threads may share it.

    Parameters
    ----------
    manifest, one
        The dataset, and the field.
    placer
        Puts rows to their places.
    """

    def __init__(self, manifest: Manifest, one: Field, placer: Placer) -> None:
        self._manifest = manifest
        self._field = one
        self._files = manifest.files[one.files]
        self._placer = placer
        self._whole = WholeFiles(manifest, one) if one.whole_files else None

    def read(self, ids: Ids, out: Array, where: Int64, keep: Keep | None = None) -> ReadStats:
        """Read rows into their places, as `RowReader.read`.

        Parameters
        ----------
        keep
            Is given all rows that were decoded; ``bytes_read`` counts them.

        Raises
        ------
        SourceNotFound, SourceChanged, AccessDenied, BadFile, SpecMismatch, CastError
        """
        stats = ReadStats()
        order = np.argsort(ids, kind="stable")
        ids, where = ids[order], np.asarray(where, np.int64)[order]
        numbers, rows = self._files.locate(ids)
        if self._whole is not None:
            return self._read_whole(self._whole, numbers, ids, out, where, keep)
        edges = np.append(np.flatnonzero(np.diff(numbers, prepend=-1)), len(ids))
        for low, high in itertools.pairwise(edges):
            number = int(numbers[low])
            first = int(self._files.starts[number])
            for at, block in self._decoded(number, rows[low:high]):
                if keep is not None:
                    begin = first + at
                    keep(np.arange(begin, begin + len(block), dtype=np.uint64), block)
                stats.bytes_read += block.nbytes
                some = slice(*(low + np.searchsorted(rows[low:high], [at, at + len(block)])))
                if some.start < some.stop:
                    values = block[rows[some] - at]
                    stats.changed += self._placer.put(values, ids[some], out, where[some])
        return stats

    def close(self) -> None:
        """End the threads."""
        if self._whole is not None:
            self._whole.close()

    def _read_whole(
        self,
        whole: WholeFiles,
        numbers: Int64,
        ids: Ids,
        out: Array,
        where: Int64,
        keep: Keep | None,
    ) -> ReadStats:
        """Read files that are one row each, some at a time."""
        stats, done = ReadStats(), 0
        count = max(1, FILES_BYTES // max(self._field.row_bytes, 1))
        for rows in whole.blocks(numbers, count):
            some = slice(done, done + len(rows))
            done = some.stop
            if keep is not None:
                keep(ids[some], rows)
            stats.bytes_read += rows.nbytes
            stats.changed += self._placer.put(rows, ids[some], out, where[some])
        return stats

    def _decoded(self, number: int, rows: Int64) -> Iterator[tuple[int, Array]]:
        """Yield blocks of the units that these rows of a file are in, and where each begins."""
        check_path(self._files, number, self._field)
        source = recognised(self._manifest.source_of(self._field, number))
        source = file_rows.with_rows(source, self._field)
        stat = tuple(self._files.stats[number].tolist())
        with file_rows.ONE_AT_A_TIME:
            edges = _unit_edges(source, stat, self._field)
            units = np.unique(np.searchsorted(edges, rows, side="right") - 1)
            parts = [(int(edges[unit]), int(edges[unit + 1])) for unit in units]
            yield from _decoded_parts(source, self._field, stat, parts)
        check_path(self._files, number, self._field)


@lru_cache(maxsize=1024)
def _unit_edges(source: Source, stat: Stat, one: Field) -> Int64:
    """Return the first row of each unit of a file, and at the end the number of rows."""
    plan = file_rows.whole_plan(source, stat)
    module = formats.load_format(source.resolved_format())
    rows = plan.shape[0] if plan.shape else 0
    starts = file_rows.part_starts(source, one, stat)
    if starts is not None:
        return np.append(starts, rows)
    if plan.order == "F":
        step = max(1, file_rows.BLOCK_BYTES // max(one.row_bytes, 1))
    elif isinstance(module, InUnits):
        step = module.unit(source, plan) or max(1, GAP // max(one.row_bytes, 1))
    else:
        return np.array([*(part.start for part in plan.parts), rows], np.int64)
    return np.append(np.arange(0, rows, step), rows).astype(np.int64)


def _decoded_parts(
    source: Source, one: Field, stat: Stat, parts: list[tuple[int, int]]
) -> Iterator[tuple[int, Array]]:
    """Yield the rows of these parts of a file, in blocks, and where each begins."""
    plan = file_rows.whole_plan(source, stat)
    module = formats.load_format(source.resolved_format())
    if not isinstance(module, InUnits):
        for start, stop in parts:
            at = start
            for block in file_rows.row_blocks(source, one, stat, start, stop):
                yield at, block
                at += len(block)
        return
    file_rows.check_spec(source, one, plan)
    with closing(_values(module, source, plan, parts)) as values:
        blocks = file_rows.whole_rows(values, one)
        for start, stop in parts:
            at = start
            while at < stop:
                block = next(blocks)
                yield at, block
                at += len(block)


def _values(
    module: InUnits, source: Source, plan: LoadPlan, parts: list[tuple[int, int]]
) -> Chunks:
    chunks = module.fill_parts(source, plan, [Part(*ends) for ends in parts])
    return file_rows.flat(source, chunks)
