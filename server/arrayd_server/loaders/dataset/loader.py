"""`probe` and `fill` of the format "dataset": see `arrayd.samples.manifest`.

The block is the field of ``member=``, all its rows or those of the option ``ids``, a ``.npy`` file
of strictly increasing row ids. Whether the daemon has it already is told by the manifest's own
identity: it says in which state each file was. Here that is compared with the files, before and
after each is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.errors import SpecMismatch
from arrayd.samples.manifest import Field, Files, Manifest
from arrayd.source import Source
from arrayd_server.loaders import base, formats
from arrayd_server.loaders.base import Chunks, LoadPlan, Part
from arrayd_server.loaders.contiguous import check_size
from arrayd_server.loaders.dataset import file_rows
from arrayd_server.loaders.dataset.manifests import check_path, ids_at, manifest_at
from arrayd_server.loaders.dataset.runs import Int64
from arrayd_server.loaders.dataset.whole_files import WholeFiles
from arrayd_server.loaders.recognise import recognised
from arrayd_server.loaders.validation import check_options, no_member, only_member, selected

Array = np.ndarray[Any, Any]
Ids = range | npt.NDArray[np.integer[Any]]

SKIP_BYTES = 1 << 20
"""Rows that nobody wants are read along, up to so many bytes between two that are."""

FILES_BYTES = 2 << 20
"""Bytes of small files that are read at a time, by several threads."""


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
    parts = _parts(manifest, one, ids)
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
    if not isinstance(wanted, range):
        wanted = wanted.astype(np.int64, copy=False)
    if one.whole_files:
        rows = max(1, FILES_BYTES // max(one.row_bytes, 1))
        with closing(WholeFiles(manifest, one)) as files:
            yield from files.blocks(_files_of(manifest, one, wanted), rows)
        return
    for number, inside in _per_file(manifest.files[one.files], wanted):
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


def _parts(manifest: Manifest, one: Field, ids: Ids) -> tuple[Part, ...]:
    """Divide the rows; those of a file that is decoded as a whole are in one part."""
    parts = base.even_parts(len(ids), one.row_bytes)
    if len(parts) < 2 or one.whole_files or not _is_one_unit(manifest, one, int(ids[0])):
        return parts
    begins = _first_at(ids, manifest.files[one.files].starts)
    files = np.searchsorted(begins, [part.start for part in parts], side="right") - 1
    edges = [*np.unique(begins[files]).tolist(), len(ids)]
    return tuple(Part(*ends) for ends in itertools.pairwise(edges))


def _is_one_unit(manifest: Manifest, one: Field, row: int) -> bool:
    """Say whether its files are decoded as a whole: as the first one is, for they are alike."""
    files = manifest.files[one.files]
    number = int(files.locate(np.array([row]))[0][0])
    check_path(files, number, one)
    stat = tuple(files.stats[number].tolist())
    return file_rows.is_one_unit(manifest.source_of(one, number), one, stat)


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


def _first_at(ids: Ids, rows: Sequence[int] | Int64) -> Int64:
    """Return for each of `rows` the index in `ids` of the first that is not before it."""
    if isinstance(ids, range):
        at = -((ids.start - np.asarray(rows, np.int64)) // ids.step)
        return at.clip(0, len(ids)).astype(np.int64)
    # Of signed and unsigned integers numpy would make floating-point numbers.
    wanted = np.asarray(rows, "u8" if ids.dtype.kind == "u" else "i8")
    return np.searchsorted(ids, wanted).astype(np.int64)


def _per_file(files: Files, ids: Ids) -> Iterator[tuple[int, Ids]]:
    """Yield the number of each file that has some of the rows, and which they are."""
    at = _first_at(ids, files.starts)
    for number in np.flatnonzero(np.diff(at)).tolist():
        yield number, ids[int(at[number]) : int(at[number + 1])]


def _picked(manifest: Manifest, one: Field, number: int, ids: Ids) -> Iterator[Array]:
    """Yield these rows of one file; what lies between is decoded where that is quicker."""
    files, source = manifest.files[one.files], manifest.source_of(one, number)
    stat, first = tuple(files.stats[number].tolist()), int(files.starts[number])
    parts = file_rows.part_starts(source, one, stat)
    if parts is None:
        runs = _near(ids, max(1, SKIP_BYTES // max(one.row_bytes, 1)))
    else:
        runs = _by_parts(ids, first + parts)
    for start, stop in runs:
        at = start
        for block in file_rows.row_blocks(source, one, stat, start - first, stop - first):
            low, high = _first_at(ids, [at, at + len(block)]).tolist()
            if high - low == len(block):
                yield block
            elif low < high:
                yield block[np.asarray(ids[low:high], np.int64) - at]
            at += len(block)


def _near(ids: Ids, skip: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the end of rows that are read together: few lie between them."""
    if isinstance(ids, range) and ids.step <= skip:
        yield ids[0], ids[-1] + 1
        return
    edges = np.flatnonzero(np.diff(ids) > skip) + 1
    for low, high in itertools.pairwise([0, *edges.tolist(), len(ids)]):
        yield int(ids[low]), int(ids[high - 1]) + 1


def _by_parts(ids: Ids, starts: Int64) -> Iterator[tuple[int, int]]:
    """Yield the first row and the end of rows in neighbouring parts, of which each is decoded."""
    begins = np.append(_first_at(ids, starts), len(ids))
    used = np.flatnonzero(np.diff(begins))
    for some in np.split(used, np.flatnonzero(np.diff(used) > 1) + 1):
        yield int(ids[begins[some[0]]]), int(ids[begins[some[-1] + 1] - 1]) + 1
