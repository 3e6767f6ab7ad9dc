"""HDF5 files: open one, and find a dataset in it."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import h5py

from arrayd.errors import ArraydError, BadFile, MissingDependency, SourceNotFound, SpecMismatch
from arrayd.source import Source
from arrayd_server.loaders import base
from arrayd_server.loaders.checks import (
    blame_memory,
    install,
    listed,
    no_member,
    open_regular,
)


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


def canonical(member: str | None) -> str:
    """Return the one spelling of a path in the file: HDF5 ignores ``.`` and extra slashes."""
    return "/".join(step for step in (member or "").split("/") if step not in ("", "."))


def dataset_names(group: Any) -> list[str]:
    """Return the datasets below `group` without following links; of `MAX_MEMBERS` objects."""
    found: list[str] = []
    seen = itertools.count(1)

    def visit(name: str, thing: Any) -> bool | None:
        if isinstance(thing, h5py.Dataset):
            found.append(name)
        return True if next(seen) >= base.MAX_MEMBERS else None  # True ends the visit

    group.visititems(visit)
    return found


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
        thing = file[name]
    except (KeyError, ValueError, OSError, RuntimeError) as error:
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
        link = file.get(name, getlink=True)
    except (KeyError, ValueError, OSError, RuntimeError):
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
