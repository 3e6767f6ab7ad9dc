"""HDF5 files: open one, and find a dataset in it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import h5py

from arrayd.errors import ArraydError, BadFile, MissingDependency, SourceNotFound, SpecMismatch
from arrayd.source import Source
from arrayd_server.loaders.checks import (
    blame_memory,
    install,
    listed,
    no_member,
    open_regular,
)
from arrayd_server.loaders.hdf5_names import FAILURES, dataset_names, encoded


@contextmanager
def opened(source: Source) -> Iterator[Any]:
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


def find_dataset(source: Source, file: Any, name: str) -> Any:
    """Return the dataset of a canonical name.

    Raises
    ------
    SourceNotFound
        There is none, or a link that leads nowhere.
    SpecMismatch
        The name is a group's or a datatype's.
    """
    try:
        thing = file[encoded(name)]
    except FAILURES as error:
        blame_memory(error)
        raise _missing(source, file, name) from None
    if isinstance(thing, h5py.Group):
        inside = listed(dataset_names(thing))
        raise SpecMismatch(f"{source.path}: {name!r} is a group. Name a dataset in it: {inside}.")
    if not isinstance(thing, h5py.Dataset):
        raise SpecMismatch(f"{source.path}: {name!r} is a named datatype, not a dataset.")
    return thing


def _missing(source: Source, file: Any, name: str) -> SourceNotFound:
    try:
        link = file.get(encoded(name), getlink=True)
    except FAILURES:
        link = None
    if isinstance(link, (h5py.SoftLink, h5py.ExternalLink)):
        target = f"{getattr(link, 'filename', source.path)}:{link.path}"
        return SourceNotFound(f"{source.path}: {name!r} is a link to {target}, which is not there.")
    return no_member(source, dataset_names(file), "dataset")


def need_filters(source: Source, dataset: Any) -> None:
    """See to it that libhdf5 has what decodes a dataset.

    Raises
    ------
    MissingDependency
    """
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
                f"which is not installed. hdf5plugin brings most. {install('hdf5plugin')}"
            )
