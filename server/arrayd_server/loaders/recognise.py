"""The format of a file: as asked for, by its first bytes, or by its suffix, in this order.

A suffix is one of arrayd's own (`arrayd.source`), or of a plug-in (`plugins.py`).
"""

from __future__ import annotations

import os
from dataclasses import replace

from arrayd.errors import BadFile, SpecMismatch
from arrayd.source import Source
from arrayd_server.loaders import kinds, plugins
from arrayd_server.loaders.validation import open_regular, os_errors, reads_one

_MAY_BE_EMPTY = ("text", "raw")
_ZARR_FILES = (".zarray", ".zgroup", "zarr.json", ".zmetadata")


def recognised(source: Source) -> Source:
    """Return the source with its format named.

    HDF5, npy and npz are recognised by their first bytes. ``format=`` overrides them, and so does a
    suffix of raw files together with ``dtype=`` or an option.

    Raises
    ------
    SourceNotFound, AccessDenied
        As `open`.
    BadFile
        It is a directory or empty, or not what its suffix says; the error names what it is.
    SpecMismatch
        Neither bytes nor suffix name a format.
    """
    with os_errors(source.path):
        _refuse_stores(source.path)
        with open_regular(source.path) as file:
            size = os.fstat(file.fileno()).st_size
            named = source.format or _by_suffix(source)
            if size == 0 and named is not None and named not in _MAY_BE_EMPTY:
                raise BadFile(
                    f"{source.path} is empty (0 bytes): no {named} file. Is it still written?"
                )
            if source.format is not None:
                return source
            kind = kinds.look(file)
            file.seek(0)
            head = file.read(512)
    if named == "raw" and (source.dtype is not None or source.options):
        return replace(source, format="raw")
    if kind is not None and kind.format is not None:
        return replace(source, format=kind.format)
    if named is None and (plugin := plugins.of_path(source.path)) is not None:
        return replace(source, format=plugin)
    return replace(source, format=_by_name(source, named, kind, head))


def _refuse_stores(path: str) -> None:
    if (
        not reads_one()
        and os.path.isdir(path)
        and any(os.path.exists(os.path.join(path, f)) for f in _ZARR_FILES)
    ):
        raise BadFile(f"{path}: this directory is {kinds.advise(kinds.ZARR)}")


def _by_suffix(source: Source) -> str | None:
    try:
        return source.resolved_format()
    except SpecMismatch:
        return None


def _by_name(source: Source, named: str | None, kind: kinds.Kind | None, head: bytes) -> str:
    """Return the format that the suffix names, unless the file cannot be of it."""
    if named in ("text", "raw"):  # the loader of text looks for itself, behind compression
        return named
    if kind is not None and not (named is None and kind is kinds.GZIP):
        what = f"no {named} file, whatever its suffix says, but " if named else ""
        raise BadFile(f"{source.path}: it is {what}{kinds.advise(kind)}")
    if kinds.like_text(head):
        if named is not None:
            raise BadFile(
                f"{source.path}: it is no {named} file, whatever its suffix says, but begins like "
                "text. If it is text, pass format='text'."
            )
        raise SpecMismatch(
            f"{source.path}: its suffix names no format, and it begins like text. If it is a "
            "table, pass format='text'; other formats are npy, npz, hdf5 and raw."
        )
    return source.resolved_format()
