"""HDF5 values: read rows of a dataset in blocks of whole chunks.

A compressed chunk is decoded as a whole, so rows are read in blocks that begin and end
at chunk boundaries of axis 0, and no chunk is decoded twice.
"""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import h5py
import numpy as np

from arrayd.common.bytesize import format_bytes
from arrayd_server.loaders.base import GAP

BLOCK_BYTES = 1 << 20
"""Aim for one read: libhdf5 takes some 50 µs for each, however small."""

LARGE_BYTES = 64 << 20
"""A row larger than this is read in pieces."""

TALL_BYTES = 128 << 20
"""Of chunks with so many rows that more is held at a time, some are decoded more than once."""

Array = np.ndarray[Any, Any]


def chunk_shape(dataset: Any) -> tuple[int, ...]:
    """Return the shape in which storage is read at no waste: its chunks, or `GAP` bytes."""
    if dataset.chunks:
        return tuple(dataset.chunks)
    row_bytes = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    return (max(1, GAP // max(row_bytes, 1)), *(1 for _ in dataset.shape[1:]))


def is_decoded(dataset: Any) -> bool:
    """Say whether a filter, of this dataset or of one that it is made of, makes its values."""
    created = dataset.id.get_create_plist()
    return bool(created.get_nfilters() or created.get_layout() == h5py.h5d.VIRTUAL)


def is_plain(dataset: Any) -> bool:
    """Say whether stored values are as they are in memory: libhdf5 would convert nothing."""
    dtype = dataset.dtype
    return not dtype.hasobject and dataset.id.get_type().equal(h5py.h5t.py_create(dtype))


def contiguous_offset(dataset: Any) -> int | None:
    """Return where in its file the values are, as they are in memory; None: nowhere so.

    Nowhere, too, if nothing was written yet, or the file ends before all of them.
    """
    created = dataset.id.get_create_plist()
    if created.get_layout() != h5py.h5d.CONTIGUOUS or created.get_external_count():
        return None
    offset: int | None = dataset.id.get_offset()
    size = dataset.id.get_storage_size()
    if offset is None or size != math.prod(dataset.shape) * dataset.dtype.itemsize:
        return None
    whole = offset + size <= os.fstat(dataset.file.id.get_vfd_handle()).st_size
    return offset if whole and is_plain(dataset) else None


def whole_chunks(chunk: int, size: int, aim: int) -> int:
    """Return the multiple of `chunk` rows of `size` each that comes near `aim`."""
    return chunk * max(1, aim // (chunk * size))


def aligned(rows: range, unit: int) -> Iterator[tuple[int, int]]:
    """Divide `rows` where they cross a multiple of `unit`; yields start and stop within `rows`."""
    start = 0
    while start < len(rows):
        low = rows[start] - rows[start] % unit
        edge = low + unit if rows.step > 0 else low - 1
        stop = min(start + len(range(rows[start], edge, rows.step)), len(rows))
        yield start, stop
        start = stop


def uncached(dataset: Any) -> Any:
    """Return a dataset in chunks, opened again without a cache of them, in place of `dataset`.

    Each chunk is wanted once; memory for them would first have to be had, in each child anew.
    """
    name = h5py.h5i.get_name(dataset.id)
    if not dataset.chunks or not name:
        return dataset
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(1, 0, 1.0)
    file = dataset.file
    dataset.id.close()  # of two that are open at once, the second has the cache of the first
    return h5py.Dataset(h5py.h5d.open(file.id, name, access))


class Reader(Protocol):
    """Reads selections of a dataset."""

    def read(self, selection: tuple[slice, ...]) -> Array:
        """Return the values of a selection that keeps all axes; valid until the next call."""


def blocks(dataset: Any, rows: range, reader: Reader) -> Iterator[Array]:
    """Yield `rows` of the dataset, decoding every chunk they touch once and no other.

    Once, that is, up to `TALL_BYTES`: a worker has no memory for any number of chunks.
    """
    chunks, shape = chunk_shape(dataset), dataset.shape
    row_bytes = math.prod(shape[1:]) * dataset.dtype.itemsize
    sparse = abs(rows.step) > chunks[0]  # whole chunk rows may lie between two rows
    unit = chunks[0] if sparse else whole_chunks(chunks[0], row_bytes, BLOCK_BYTES)
    unit = min(unit, max(1, TALL_BYTES // row_bytes))
    for start, stop in aligned(rows, unit):
        first, last = sorted((rows[start], rows[stop - 1]))
        cap = LARGE_BYTES // dataset.dtype.itemsize if first == last else sys.maxsize
        for rest in cuts(shape[1:], chunks[1:], cap):
            yield reader.read((slice(first, last + 1), *rest))[:: rows.step]


def cuts(shape: tuple[int, ...], chunks: tuple[int, ...], cap: int) -> Iterator[tuple[slice, ...]]:
    """Cover an array in C order by selections of about `cap` values, none across a chunk."""
    whole = tuple(slice(0, n) for n in shape)
    if math.prod(shape) <= cap:
        yield whole
        return
    unit = whole_chunks(chunks[0], math.prod(shape[1:]), cap)
    for start in range(0, shape[0], unit):
        some = slice(start, min(start + unit, shape[0]))
        inner = cuts(shape[1:], chunks[1:], cap) if unit == 1 else (whole[1:],)
        yield from ((some, *rest) for rest in inner)


class DatasetReader:
    """Reads selections of a dataset into one buffer that grows to the largest.

    It is cleared for each, which takes some 4 % of the time: libhdf5 leaves alone what was never
    written to a file (with a fill time NEVER, or no fill value), and what lies between the fields
    of a structure.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._buffer = np.empty(0, np.uint8)

    def read(self, selection: tuple[slice, ...]) -> Array:
        """Return the values of a selection that keeps all axes; valid until the next call.

        Where each value is an array, its axes follow; text of no fixed size is `bytes` objects.
        """
        counts = tuple(cut.stop - cut.start for cut in selection)
        dtype = self._dataset.dtype
        shape = (*counts, *dtype.shape)
        if dtype.hasobject:
            return self._into(np.empty(shape, dtype.base), selection, counts)
        size = math.prod(counts) * dtype.itemsize
        if size > self._buffer.size:
            self._buffer = np.empty(size, np.uint8)
        self._buffer[:size].fill(0)
        out: Array = self._buffer[:size].view(dtype.base).reshape(shape)
        return self._into(out, selection, counts)

    def _into(self, out: Array, selection: tuple[slice, ...], counts: tuple[int, ...]) -> Array:
        """Fill `out`; `h5py.Dataset.read_direct` has no way to say that values are arrays."""
        there = self._dataset.id.get_space()
        here = h5py.h5s.create_simple(counts) if counts else h5py.h5s.create(h5py.h5s.SCALAR)
        if counts:
            there.select_hyperslab(tuple(cut.start for cut in selection), counts)
        try:
            self._dataset.id.read(here, there, out, self._type())
        except OSError:
            self._blame_chunk()
            raise
        return out

    def _type(self) -> Any:
        """Return the type in memory: h5py's, with its notes on how to convert."""
        stored = self._dataset.id.get_type()
        # An opaque type has a tag, by which libhdf5 refuses what h5py makes of it.
        opaque = stored.get_class() == h5py.h5t.OPAQUE
        return stored if opaque else h5py.h5t.py_create(self._dataset.dtype)

    def _blame_chunk(self) -> None:
        """Raise MemoryError where a chunk may be too large for us; libhdf5 does not say why.

        It says ``filter returned failure`` and drops the filter's own error. To decode a chunk
        takes its size twice (deflate doubles its buffer) and what it was decoded from.
        """
        dataset, (limit, _) = self._dataset, resource.getrlimit(resource.RLIMIT_DATA)
        size = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
        if 3 * size > limit != resource.RLIM_INFINITY:
            raise MemoryError(f"a single chunk has {format_bytes(size)}") from None
