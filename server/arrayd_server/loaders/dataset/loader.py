"""`probe` and `fill` of the format "dataset": see `arrayd.samples.manifest`.

The block is the field of ``member=``, all its rows or those of the option ``ids``, a ``.npy`` file
of strictly increasing row ids. Whether the daemon has it already is told by the manifest's own
identity: it says in which state each file was. Here that is compared with the files, before and
after each is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.errors import SpecMismatch
from arrayd.samples.manifest import Field, Manifest
from arrayd.source import Source
from arrayd_server.loaders import base, formats
from arrayd_server.loaders.base import Chunks, LoadPlan, Part
from arrayd_server.loaders.contiguous import check_size
from arrayd_server.loaders.dataset import file_rows
from arrayd_server.loaders.dataset.manifests import check_path, ids_at, manifest_at
from arrayd_server.loaders.dataset.whole_files import WholeFiles
from arrayd_server.loaders.recognise import recognised
from arrayd_server.loaders.validation import check_options, no_member, only_member, selected

Array = np.ndarray[Any, Any]
Ids = range | npt.NDArray[np.integer[Any]]

SKIP_BYTES = 1 << 20
"""Rows that nobody wants are read along, up to so many bytes between two that are."""

FILES_BYTES = 2 << 20
"""Bytes of small files that are read at a time, by several threads."""

ROWS_AT_A_TIME = 1 << 16
"""Of which the files are looked up at a time."""


def probe(source: Source) -> LoadPlan:
    """Return the plan of one field, without a look at more than its first file.

    Raises
    ------
    SourceNotFound
        No such manifest, or field.
    SpecMismatch
        The row ids are not of this dataset, or the file has other rows than the field.
    """
    manifest, one, ids = _chosen(source)
    shape = (len(ids), *one.row_shape)
    check_size(source, shape, one.dtype)
    parts = base.even_parts(len(ids), one.row_bytes)
    apart = bool(parts) and _is_apart(manifest, one, int(ids[0]))
    option = source.option.get("ids")
    files = (option,) if option else ()
    return LoadPlan(shape, one.dtype, "C", parts, (), one.name, apart=apart, files=files)


def fill(source: Source, _: LoadPlan, part: Part) -> Chunks:
    """Yield the rows of `part`, in order.

    Raises
    ------
    SourceNotFound, SourceChanged, AccessDenied, BadFile, SpecMismatch
        A file is gone, has changed since it was scanned, or is not like the others.
    """
    manifest, one, ids = _chosen(source)
    wanted = ids[part.start : part.stop]
    if one.whole_files:
        rows = max(1, FILES_BYTES // max(one.row_bytes, 1))
        with closing(WholeFiles(manifest, one)) as files:
            yield from files.blocks(_files_of(manifest, one, wanted), rows)
        return
    for number, inside in _per_file(manifest, one, wanted):
        check_path(manifest.files[one.files], number, one)
        yield from _picked(manifest, one, number, inside)
        check_path(manifest.files[one.files], number, one)


def _chosen(source: Source) -> tuple[Manifest, Field, Ids]:
    """Return the manifest, the field, and the row ids that are asked for, in order."""
    check_options(source, ("ids",))
    manifest = manifest_at(source.path)
    names = [one.name for one in manifest.fields]
    name = source.member or only_member(source, names, "field")
    if name not in names:
        raise no_member(source, names, "field")
    path = source.option.get("ids")
    ids: Ids = range(manifest.rows) if path is None else _checked(ids_at(path), manifest, path)
    rows = selected(source, (len(ids),))
    if rows.step < 0:
        raise SpecMismatch(f"{source}: the rows of a dataset are read forwards, not by {rows.step}")
    return manifest, manifest.field(name), ids[rows.start : rows.stop : rows.step]


def _checked(ids: npt.NDArray[Any], manifest: Manifest, path: str) -> npt.NDArray[Any]:
    if len(ids) and not (ids[0] >= 0 and ids[-1] < manifest.rows and (ids[1:] > ids[:-1]).all()):
        raise SpecMismatch(
            f"{path}: row ids rise strictly and lie from 0 to {manifest.rows - 1} in this dataset; "
            f"these go from {ids.min()} to {ids.max()}. Sort them, each once (np.unique)."
        )
    return ids


def _is_apart(manifest: Manifest, one: Field, row: int) -> bool:
    """Say whether its files are to be read apart: as the first one is, for they are alike."""
    number = int(manifest.files[one.files].locate(np.array([row]))[0][0])
    source = recognised(manifest.source_of(one, number))
    if source.resolved_format() != "hdf5":
        return False
    check_path(manifest.files[one.files], number, one)
    return formats.look(source).apart


def _files_of(manifest: Manifest, one: Field, ids: Ids) -> Ids:
    """Return the number of the file of each row, where each is one."""
    files = manifest.files[one.files]
    if files.rows == len(files) and (np.diff(files.starts) == 1).all():
        return ids
    return files.locate(np.asarray(ids))[0]


def _per_file(manifest: Manifest, one: Field, ids: Ids) -> Iterator[tuple[int, Array]]:
    """Yield the number of each file that has some of the rows, and which of its rows."""
    files = manifest.files[one.files]
    for start in range(0, len(ids), ROWS_AT_A_TIME):
        numbers, rows = files.locate(np.asarray(ids[start : start + ROWS_AT_A_TIME]))
        edges = np.flatnonzero(np.diff(numbers)) + 1
        for some, inside in zip(np.split(numbers, edges), np.split(rows, edges), strict=True):
            yield int(some[0]), inside


def _picked(manifest: Manifest, one: Field, number: int, rows: Array) -> Iterator[Array]:
    """Yield these rows of one file; rows near each other are read together."""
    source = manifest.source_of(one, number)
    stat = tuple(manifest.files[one.files].stats[number].tolist())
    skip = max(1, SKIP_BYTES // max(one.row_bytes, 1))
    edges = np.flatnonzero(np.diff(rows) > skip) + 1
    for run in np.split(rows, edges):
        at = int(run[0])
        for block in file_rows.row_blocks(source, one, stat, at, int(run[-1]) + 1):
            low, high = np.searchsorted(run, [at, at + len(block)])
            if high - low == len(block):
                yield block
            elif low < high:
                yield block[run[low:high] - at]
            at += len(block)
