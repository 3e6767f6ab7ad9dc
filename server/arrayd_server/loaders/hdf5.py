"""HDF5 datasets, and so NetCDF-4 and MATLAB 7.3, through h5py.

A compressed chunk is decoded as a whole, so rows are read in blocks that begin and end
at chunk boundaries of axis 0, and no chunk is decoded twice. Files are opened late, closed
soon and never locked: an open reader must not make the user's writer fail.
"""

from __future__ import annotations

import importlib
import itertools
import math
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import h5py
import numpy as np
from numpy.lib import format as npformat

from arrayd.errors import (
    ArraydError,
    BadFile,
    MissingDependency,
    SourceChanged,
    SourceNotFound,
    SpecMismatch,
)
from arrayd.source import Source
from arrayd.units import format_bytes
from arrayd_server.loaders import base
from arrayd_server.loaders.base import Chunks, Member, Part, Plan
from arrayd_server.loaders.checks import (
    blame_memory,
    check_dtype,
    check_options,
    listed,
    no_member,
    only_member,
    open_regular,
    selected,
)
from arrayd_server.loaders.flat import check_size

BLOCK_BYTES = 1 << 20
"""Aim for one read: libhdf5 takes some 50 µs for each, however small."""

LARGE_BYTES = 64 << 20
"""A row larger than this is read in pieces."""

TALL_BYTES = 128 << 20
"""Of chunks with so many rows that more is held at a time, some are decoded more than once."""

GAP = 16 << 10
"""Bytes of a dataset without chunks that are rather read along than skipped."""

Array = np.ndarray[Any, Any]


def probe(source: Source) -> Plan:
    """Return the plan of one dataset; ``Plan.detail`` is its name and its whole shape.

    Raises
    ------
    SourceNotFound
        No such dataset, or a link that leads nowhere.
    SpecMismatch
        Several datasets and none named; a group; values of no fixed size; a wrong claim.
    BadFile
        The file is truncated, corrupt or no HDF5.
    MissingDependency
        The dataset is compressed by a filter that is not installed.
    """
    check_options(source)
    with _opened(source) as file:
        name = _canonical(source.member) or only_member(source, _names(file), "dataset")
        dataset = _dataset(source, file, name)
        dtype = _dtype(source, dataset)
        _need_filters(source, dataset)
        shape, chunks = dataset.shape, _chunks(dataset)
    rows = selected(source, shape)
    if not shape:
        return Plan((), dtype, "C", (Part(0, 1),), (name, shape), name)
    parts: tuple[Part, ...] = ()
    size = check_size(source, shape, dtype)
    if row_bytes := math.prod(shape[1:]) * dtype.itemsize:
        unit = _whole(chunks[0], row_bytes, base.part_size(size) * abs(rows.step))
        parts = tuple(Part(*ends) for ends in aligned(rows, unit))
    return Plan((len(rows), *shape[1:]), dtype, "C", parts, (name, shape), name)


def fill(source: Source, plan: Plan, part: Part) -> Chunks:
    """Yield the rows of `part` in blocks of whole chunk rows.

    Raises
    ------
    SourceNotFound, SourceChanged
        The dataset has gone since `plan` was made, or is another.
    BadFile
        It cannot be decoded.
    """
    name, shape = plan.detail
    with _opened(source) as file:
        dataset = _dataset(source, file, name)
        if dataset.shape != tuple(shape) or _dtype(source, dataset) != plan.dtype:
            raise SourceChanged(
                f"{source} changed while it was read: it has shape {dataset.shape}, "
                f"no longer {tuple(shape)} of {plan.dtype}. Ask again."
            )
        _need_filters(source, dataset)
        if not shape:
            yield _Reader(dataset).read(())
            return
        yield from _blocks(dataset, selected(source, tuple(shape))[part.start : part.stop])


def members(source: Source) -> list[Member]:
    """Return name, shape and dtype of the datasets; a dtype that numpy lacks counts as object."""
    with _opened(source) as file:
        return [_member(name, file[name]) for name in _names(file)]


def _member(name: str, dataset: Any) -> Member:
    try:
        dtype = dataset.dtype
    except TypeError:  # what h5py raises for HDF5's time, for example
        dtype = np.dtype(object)
    return Member(name, dataset.shape or (), npformat.drop_metadata(dtype))


@contextmanager
def _opened(source: Source) -> Iterator[Any]:
    """Open the file; what h5py raises beside OSError for bad bytes becomes BadFile."""
    open_regular(source.path).close()  # libhdf5 would wait for the writer of a FIFO
    try:
        with h5py.File(source.path, "r", locking=False) as file:
            yield file
    except ArraydError:
        raise
    except (RuntimeError, KeyError, ValueError) as error:
        blame_memory(error)
        raise BadFile(f"{source} cannot be read by libhdf5: {error}.") from None


def _canonical(member: str | None) -> str:
    """Return the one spelling of a path in the file: HDF5 ignores ``.`` and extra slashes."""
    return "/".join(step for step in (member or "").split("/") if step not in ("", "."))


def _names(group: Any) -> list[str]:
    """Return the datasets below `group` without following links; of `MAX_MEMBERS` objects."""
    found: list[str] = []
    seen = itertools.count(1)

    def visit(name: str, thing: Any) -> bool | None:
        if isinstance(thing, h5py.Dataset):
            found.append(name)
        return True if next(seen) >= base.MAX_MEMBERS else None  # True ends the visit

    group.visititems(visit)
    return found


def _dataset(source: Source, file: Any, name: str) -> Any:
    try:
        thing = file[name]
    except (KeyError, ValueError, OSError, RuntimeError) as error:
        blame_memory(error)
        raise _missing(source, file, name) from None
    if isinstance(thing, h5py.Group):
        raise SpecMismatch(
            f"{source.path}: {name!r} is a group. Name a dataset in it: {listed(_names(thing))}."
        )
    if not isinstance(thing, h5py.Dataset):
        raise SpecMismatch(f"{source.path}: {name!r} is a named datatype, not a dataset.")
    return thing


def _missing(source: Source, file: Any, name: str) -> SourceNotFound:
    try:
        link = file.get(name, getlink=True)
    except (KeyError, ValueError, OSError, RuntimeError):
        link = None
    if isinstance(link, (h5py.SoftLink, h5py.ExternalLink)):
        target = f"{getattr(link, 'filename', source.path)}:{link.path}"
        return SourceNotFound(f"{source.path}: {name!r} is a link to {target}, which is not there.")
    return no_member(source, _names(file), "dataset")


def _dtype(source: Source, dataset: Any) -> np.dtype[Any]:
    """Return the dtype without h5py's notes on it, which would not survive the wire."""
    if dataset.shape is None:
        raise SpecMismatch(f"{source} is declared empty (H5S_NULL): it has no values to load.")
    try:
        dtype: np.dtype[Any] = npformat.drop_metadata(dataset.dtype)
    except TypeError as error:
        raise SpecMismatch(f"{source} has a type that numpy lacks: {error}.") from None
    if dtype.subdtype is not None:
        raise SpecMismatch(
            f"{source} has an array as the type of each value ({dtype}). "
            "Write it again with the array's axes as axes of the dataset."
        )
    check_dtype(source, dtype)
    return dtype


def _need_filters(source: Source, dataset: Any) -> None:
    created = dataset.id.get_create_plist()
    for index in range(created.get_nfilters()):
        code, _, _, name = created.get_filter(index)
        if h5py.h5z.filter_avail(code):
            continue
        with suppress(ImportError):
            importlib.import_module("hdf5plugin")  # importing it registers its filters
        if not h5py.h5z.filter_avail(code):
            raise MissingDependency(
                f"{source} is compressed by HDF5 filter {code} ({name.decode() or 'unnamed'}), "
                "which is not installed here. pip install hdf5plugin brings most."
            )


def _chunks(dataset: Any) -> tuple[int, ...]:
    """Return the shape in which storage is read at no waste: its chunks, or `GAP` bytes."""
    if dataset.chunks:
        return tuple(dataset.chunks)
    row_bytes = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    return (max(1, GAP // max(row_bytes, 1)), *(1 for _ in dataset.shape[1:]))


def _whole(chunk: int, size: int, aim: int) -> int:
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


def _blocks(dataset: Any, rows: range) -> Iterator[Array]:
    """Yield `rows` of the dataset, decoding every chunk they touch once and no other.

    Once, that is, up to `TALL_BYTES`: a worker has no memory for any number of chunks.
    """
    chunks, shape = _chunks(dataset), dataset.shape
    row_bytes = math.prod(shape[1:]) * dataset.dtype.itemsize
    sparse = abs(rows.step) > chunks[0]  # whole chunk rows may lie between two rows
    unit = chunks[0] if sparse else _whole(chunks[0], row_bytes, BLOCK_BYTES)
    unit = min(unit, max(1, TALL_BYTES // row_bytes))
    reader = _Reader(dataset)
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
    unit = _whole(chunks[0], math.prod(shape[1:]), cap)
    for start in range(0, shape[0], unit):
        some = slice(start, min(start + unit, shape[0]))
        inner = cuts(shape[1:], chunks[1:], cap) if unit == 1 else (whole[1:],)
        yield from ((some, *rest) for rest in inner)


class _Reader:
    """Reads selections of a dataset into one buffer that grows to the largest."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._buffer = np.empty(0, np.uint8)

    def read(self, selection: tuple[slice, ...]) -> Array:
        """Return the values of a selection that keeps all axes; valid until the next call."""
        shape = tuple(cut.stop - cut.start for cut in selection)
        dtype = self._dataset.dtype  # with h5py's notes: they say how to convert enums
        size = math.prod(shape) * dtype.itemsize
        if size > self._buffer.size:
            self._buffer = np.empty(size, np.uint8)
        out: Array = self._buffer[:size].view(dtype).reshape(shape)
        try:
            self._dataset.read_direct(out, selection)
        except OSError:
            self._blame_chunk()
            raise
        return out

    def _blame_chunk(self) -> None:
        """Raise MemoryError where a chunk may be too large for us; libhdf5 does not say why.

        It says ``filter returned failure`` and drops the filter's own error. To decode a chunk
        takes its size twice (deflate doubles its buffer) and what it was decoded from.
        """
        dataset, (limit, _) = self._dataset, resource.getrlimit(resource.RLIMIT_DATA)
        size = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
        if 3 * size > limit != resource.RLIM_INFINITY:
            raise MemoryError(f"a single chunk has {format_bytes(size)}") from None
