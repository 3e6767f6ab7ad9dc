"""HDF5 files: open one, and find a dataset in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import h5py

from arrayd.errors import ArraydError, BadFile, SourceChanged, SourceNotFound, SpecMismatch
from arrayd.source import Source
from arrayd_server.loaders.hdf5.links import Links, NotThere
from arrayd_server.loaders.hdf5.names import FAILURES, dataset_names
from arrayd_server.loaders.validation import (
    blame_memory,
    listed,
    no_member,
)


@contextmanager
def opened(source: Source, *, loading: bool = False) -> Iterator[Links]:
    """Open the file, and have what it refers to looked up in its folder; see `Links`.

    What h5py raises beside OSError for bad bytes becomes BadFile.
    """
    with _in_folder(source.path):
        try:
            with closing(Links(source, loading=loading)) as links:
                yield links
        except ArraydError:
            raise
        except (RuntimeError, KeyError, ValueError) as error:
            blame_memory(error)
            raise BadFile(f"{source} cannot be read by libhdf5: {error}.") from None


@contextmanager
def _in_folder(path: str) -> Iterator[None]:
    """Work in the folder of a file, where libhdf5 looks for what the file names."""
    folder = os.path.dirname(path)
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(folder)
        yield
        if not os.path.samefile(".", folder):
            raise SourceChanged(f"{folder} was replaced while {path} was read. Ask again.")
    finally:
        os.fchdir(before)
        os.close(before)


def find_dataset(source: Source, links: Links, name: str, rows: range | None = None) -> Any:
    """Return the dataset of a canonical name, of which `rows` can be read.

    Raises
    ------
    SourceNotFound
        There is none, or a link that leads nowhere.
    SpecMismatch
        The name is a group's or a datatype's.
    MissingDependency, AccessDenied, BadFile, SourceBusy, LoadError
        What it is made of cannot be read.
    """
    try:
        path, thing = links.find(name)
    except NotThere as missing:
        raise _missing(source, links, name, missing.link) from None
    except ArraydError:
        raise
    except FAILURES as error:
        blame_memory(error)
        raise _missing(source, links, name, None) from None
    if isinstance(thing, h5py.Group):
        inside = listed(dataset_names(thing))
        raise SpecMismatch(f"{source.path}: {name!r} is a group. Name a dataset in it: {inside}.")
    if not isinstance(thing, h5py.Dataset):
        raise SpecMismatch(f"{source.path}: {name!r} is a named datatype, not a dataset.")
    links.pin(path)
    links.trace(path, thing, rows)
    return thing


def _missing(source: Source, links: Links, name: str, link: str | None) -> SourceNotFound:
    if link is not None:
        return SourceNotFound(f"{source.path}: {name!r} is a link to {link}, which is not there.")
    return no_member(source, dataset_names(links.main), "dataset")
