"""HDF5 datasets, and so NetCDF-4 and MATLAB 7.3, through h5py.

Where the bytes of a dataset lie one after another in its file, as they are in memory, they are read
as those of a ``.npy`` are, without libhdf5. `opening` opens files that nobody is writing, `links`
finds what they refer to, `file` finds a dataset, `types` says as what dtype its values are shared,
`reading` reads them, `chunks`
decodes those of the usual filters.
Files are opened late, closed soon and never kept locked: an open reader must not make the user's
writer fail.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from arrayd.errors import ArraydError, SourceChanged
from arrayd.source import Source
from arrayd.wire.dtypes import bare
from arrayd_server.loaders import base, contiguous
from arrayd_server.loaders.base import Chunks, FoundMember, LoadPlan, Part
from arrayd_server.loaders.contiguous import check_size
from arrayd_server.loaders.hdf5 import header_file
from arrayd_server.loaders.hdf5.chunks import ChunkReader, can_decode
from arrayd_server.loaders.hdf5.file import find_dataset, opened
from arrayd_server.loaders.hdf5.filters import need_filters
from arrayd_server.loaders.hdf5.links import Links
from arrayd_server.loaders.hdf5.names import FAILURES, canonical, dataset_names, walk
from arrayd_server.loaders.hdf5.opening import OPTIONS, Access
from arrayd_server.loaders.hdf5.reading import (
    DatasetReader,
    Reader,
    aligned,
    blocks,
    chunk_shape,
    contiguous_offset,
    uncached,
    whole_chunks,
)
from arrayd_server.loaders.hdf5.text_lengths import check_padding, measured
from arrayd_server.loaders.hdf5.types import TEXT, described, shareable
from arrayd_server.loaders.validation import blame_memory, check_options, only_member, selected


class StoredArray(NamedTuple):
    """``LoadPlan.detail``: which dataset, and its shape, of which ``rows=`` may be a part."""

    name: str
    shape: tuple[int, ...]
    selection: tuple[Any, ...] = ()  # `contiguous.Selection`, if its bytes lie so in the file
    chunked: bool = False  # read by `ChunkReader`


def probe(source: Source) -> LoadPlan:
    """Return the plan of one dataset.

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
    check_options(source, OPTIONS)
    with opened(source) as links:
        name = canonical(source.member) or only_member(source, dataset_names(links.main), "dataset")
        dataset = find_dataset(source, links, name)
        shape, dtype = shareable(source, dataset)
        rows, single = selected(source, shape), not dataset.shape
        facts: dict[str, Any] = {"files": tuple(links.further), "locked": links.locked}
        chunked = not Access.of(source).swmr and not dtype.hasobject and can_decode(dataset)
        facts["apart"] = links.decoded and not chunked
        if (offset := _offset(source, links, dataset, dtype)) is not None:
            plain = contiguous.plan(source, shape, dtype, offset=offset)
            stored = StoredArray(name, shape, plain.detail)
            return replace(plain, detail=stored, member=name, **facts)
        parts = () if single else _parts(source, shape, dtype, rows, chunk_shape(dataset)[0])
    if single:  # whose value may be an array
        parts = (Part(0, len(rows)),) if len(rows) else ()
    result = (len(rows), *shape[1:]) if shape else ()
    return LoadPlan(result, dtype, "C", parts, StoredArray(name, shape, (), chunked), name, **facts)


def _offset(source: Source, links: Links, dataset: Any, dtype: np.dtype[Any]) -> int | None:
    """Return where the values begin in the file of `source`; None: they are to be decoded.

    No writer may add to them, and no other file be involved.
    """
    if links.further or Access.of(source).swmr or dtype.hasobject or not dataset.shape:
        return None
    return contiguous_offset(dataset)


def _parts(
    source: Source, shape: tuple[int, ...], dtype: np.dtype[Any], rows: range, chunk: int
) -> tuple[Part, ...]:
    size = check_size(source, shape, dtype)
    if not (row_bytes := math.prod(shape[1:]) * dtype.itemsize):
        return ()
    unit = whole_chunks(chunk, row_bytes, base.part_size(size) * abs(rows.step))
    return tuple(Part(*ends) for ends in aligned(rows, unit))


def text_dtype(source: Source, plan: LoadPlan) -> np.dtype[Any]:
    """Return the type of fixed size that holds all text of a dataset, whatever ``rows=`` says.

    Raises
    ------
    SpecMismatch
        It would take many times the memory of the text, and nobody asked for it.
    CastError
        A value is no UTF-8, and characters are asked for.
    """
    kind = "S" if source.cast is None else source.cast.kind
    name, shape, *_ = StoredArray(*plan.detail)
    with opened(source, loading=True) as links:
        dataset = find_dataset(source, links, name)
        values = (
            blocks(dataset, range(shape[0]), DatasetReader(dataset))
            if dataset.shape
            else [DatasetReader(dataset).read(())]
        )
        found = measured(source, values if math.prod(shape) else (), kind)
    if source.cast is None:
        check_padding(source, found)
    return np.dtype(f"{kind}{found.longest}")


def fill(source: Source, plan: LoadPlan, part: Part) -> Chunks:
    """Yield the rows of `part` in blocks of whole chunk rows.

    Raises
    ------
    SourceNotFound, SourceChanged
        The dataset has gone since `plan` was made, or is another.
    BadFile
        It cannot be decoded.
    """
    return fill_parts(source, plan, (part,))


def fill_parts(source: Source, plan: LoadPlan, parts: Sequence[Part]) -> Chunks:
    """Yield the rows of several parts, in rising order, as `fill`; the file is opened once."""
    name, shape, selection, chunked = StoredArray(*plan.detail)
    if selection:
        yield from contiguous.fill_rows(source, replace(plan, detail=selection), parts)
        return
    rows = selected(source, shape)
    with opened(source, loading=True) as links:
        dataset = uncached(find_dataset(source, links, name, rows[parts[0].start : parts[-1].stop]))
        found = shareable(source, dataset)
        if not _same_shape(source, found[0], shape) or found[1] != plan.dtype:
            raise SourceChanged(
                f"{source} changed while it was read: it has shape {found[0]}, "
                f"no longer {shape} of {plan.dtype}. Ask again."
            )
        reader = ChunkReader(source, dataset) if chunked else DatasetReader(dataset)
        for part in parts:
            for chunk in _chunks(dataset, shape, rows[part.start : part.stop], reader):
                yield chunk if chunk.dtype == plan.dtype else _as(plan.dtype, chunk)


def _chunks(
    dataset: Any, shape: tuple[int, ...], rows: range, reader: Reader
) -> Iterable[np.ndarray[Any, Any]]:
    if dataset.shape:
        return blocks(dataset, rows, reader)
    value = reader.read(())
    return [value[list(rows)] if shape else value]


def unit(source: Source, plan: LoadPlan) -> int:
    """Return the rows of a chunk, which are decoded together; 0: `address` knows where each is."""
    name, _, selection, _ = StoredArray(*plan.detail)
    if selection:
        return 0
    with opened(source, loading=True) as links:
        dataset = find_dataset(source, links, name)
        return chunk_shape(dataset)[0] if dataset.shape else 1


def _as(dtype: np.dtype[Any], chunk: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return what was read as what it is claimed to be; text as `bytes` objects."""
    return chunk.astype(TEXT) if dtype == TEXT else chunk.view(dtype)


def address(source: Source, plan: LoadPlan) -> int | None:
    """Return where the rows of a dataset of contiguous layout begin; None: they must be decoded."""
    selection = StoredArray(*plan.detail).selection
    return contiguous.address(source, replace(plan, detail=selection)) if selection else None


def _same_shape(source: Source, now: tuple[int, ...] | None, then: tuple[int, ...]) -> bool:
    """Say whether the rows that were planned are there; a writer in SWMR mode adds some."""
    if Access.of(source).swmr and now and then:
        return now[0] >= then[0] and now[1:] == then[1:]
    return now == then


def header(source: Source, plan: LoadPlan) -> tuple[bytes, list[str]]:
    """Return type and attributes of the dataset; see `header_file`."""
    return header_file.header(source, StoredArray(*plan.detail).name)


def members(source: Source) -> list[FoundMember]:
    """Return the datasets, and what cannot be opened, whichever it is."""
    check_options(source, OPTIONS)
    with opened(source) as links:
        return [_member(Source(source.path, name), found) for name, found in walk(links.main)]


def _member(source: Source, found: Any) -> FoundMember:
    name = source.member or ""
    if isinstance(found, Exception):
        return FoundMember(name, (), TEXT, f"cannot be opened: {found}")
    shape: tuple[int, ...] = ()
    dtype = np.dtype(object)
    try:
        shape = found.shape or ()
        dtype = bare(described(source, found))
        shape, dtype = (*shape, *dtype.shape), dtype.base
        shareable(source, found)
        need_filters(source, found)
    except (ArraydError, *FAILURES) as error:
        blame_memory(error)
        return FoundMember(name, shape, dtype, str(error).removeprefix(str(source)).lstrip(": "))
    return FoundMember(name, shape, dtype)
