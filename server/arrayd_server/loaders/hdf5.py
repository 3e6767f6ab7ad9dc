"""HDF5 datasets, and so NetCDF-4 and MATLAB 7.3, through h5py.

`hdf5_file` opens a file and finds a dataset in it, `hdf5_types` says as what dtype its values
are shared, `hdf5_read` reads them. Files are opened late, closed soon and never locked: an open
reader must not make the user's writer fail.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib import format as npformat

from arrayd.errors import SourceChanged
from arrayd.source import Source
from arrayd_server.loaders import base
from arrayd_server.loaders.base import Chunks, Member, Part, Plan
from arrayd_server.loaders.checks import check_options, only_member, selected
from arrayd_server.loaders.flat import check_size
from arrayd_server.loaders.hdf5_file import find_dataset, need_filters, opened
from arrayd_server.loaders.hdf5_names import canonical, dataset_names, encoded
from arrayd_server.loaders.hdf5_read import Reader, aligned, blocks, chunk_shape, whole_chunks
from arrayd_server.loaders.hdf5_types import shareable_dtype


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
    with opened(source) as file:
        name = canonical(source.member) or only_member(source, dataset_names(file), "dataset")
        dataset = find_dataset(source, file, name)
        dtype = shareable_dtype(source, dataset)
        need_filters(source, dataset)
        shape, chunks = dataset.shape, chunk_shape(dataset)
    rows = selected(source, shape)
    if not shape:
        return Plan((), dtype, "C", (Part(0, 1),), (name, shape), name)
    parts: tuple[Part, ...] = ()
    size = check_size(source, shape, dtype)
    if row_bytes := math.prod(shape[1:]) * dtype.itemsize:
        unit = whole_chunks(chunks[0], row_bytes, base.part_size(size) * abs(rows.step))
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
    with opened(source) as file:
        dataset = find_dataset(source, file, name)
        if dataset.shape != tuple(shape) or shareable_dtype(source, dataset) != plan.dtype:
            raise SourceChanged(
                f"{source} changed while it was read: it has shape {dataset.shape}, "
                f"no longer {tuple(shape)} of {plan.dtype}. Ask again."
            )
        need_filters(source, dataset)
        if not shape:
            yield Reader(dataset).read(())
            return
        yield from blocks(dataset, selected(source, tuple(shape))[part.start : part.stop])


def members(source: Source) -> list[Member]:
    """Return name, shape and dtype of the datasets; a dtype that numpy lacks counts as object."""
    with opened(source) as file:
        return [_member(name, file[encoded(name)]) for name in dataset_names(file)]


def _member(name: str, dataset: Any) -> Member:
    try:
        dtype = dataset.dtype
    except TypeError:  # what h5py raises for HDF5's time, for example
        dtype = np.dtype(object)
    return Member(name, dataset.shape or (), npformat.drop_metadata(dtype))
