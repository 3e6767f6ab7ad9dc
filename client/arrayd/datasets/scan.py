"""Finds out what a dataset is made of: looks at each file once, and keeps what it found.

All files are stat'ed each time. What was found out about a file that has not changed since is taken
from the manifest that the same request has led to before, so a scan that is repeated reads nothing,
and one of a set that has grown looks at the new files alone.

The header of a sound ``.npy`` is read here; of all other files the daemon is asked, one by one. Of
a *list* of files of another format than ``.npy`` only the first is asked: to ask a million takes
hours. Those that have another shape or type are found when they are read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from arrayd.client import Client
from arrayd.datasets import kept
from arrayd.datasets.field_files import FieldFiles, fields_of, may_be_list
from arrayd.datasets.field_state import (
    UNKNOWN,
    RowSpec,
    ScannedField,
    check_readable,
    explained,
    is_same,
    recall,
    stated,
)
from arrayd.datasets.npy_look import LookedAt, NpyHeaders, may_look
from arrayd.errors import BadFile, SpecMismatch
from arrayd.results.info import Info
from arrayd.results.progress import MIN_INTERVAL, Progress, ShowProgress
from arrayd.samples.manifest import SIZE, Field, Files, Manifest
from arrayd.session.locking import with_locking
from arrayd.source import Source

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]

_SHOW_AFTER = 0.5  # seconds


def scan(
    client: Client,
    sources: Any,
    *,
    list: bool | None = None,
    progress: ShowProgress = None,
    **options: Any,
) -> Manifest:
    """Return what a dataset is made of, as it is now; it is saved in the cache folder.

    Parameters
    ----------
    client
        Asked about files that are no ``.npy``.
    sources
        As for `arrayd.dataset`: a dict from fields to where they are, or one of these alone.
    list
        Whether texts are lists of files; None: found out, see `arrayd.datasets.field_files`.
    progress
        True: a bar on stderr, if it takes more than half a second. A function: called with a
        `Progress` (files done, and in total) at most ten times a second.
    options
        How the files are read, as for `arrayd.get`.

    Raises
    ------
    SpecMismatch
        An option is wrong; the fields have not equally many rows; a file has another dtype or
        shape of a row than the first of its field; a list beside other files.
    SourceNotFound, AccessDenied, BadFile
        A file, or a list, is missing or cannot be read; the error names the first, and how many
        more there are.
    """
    wanted = fields_of(sources, list, options)
    fields = stated(wanted)
    key = kept.request_key([one.asked for one in wanted])
    columns = _columns(fields)
    earlier = kept.find(key)
    if earlier is not None:
        if is_same(earlier, fields, columns):
            return earlier
        recall(earlier, fields)
    check_readable(fields)
    _look(client, fields, progress)
    manifest = _assembled(fields, columns)
    kept.keep(key, manifest)
    return manifest


# ---- looking ---------------------------------------------------------------------------------


def _look(client: Client, fields: Sequence[ScannedField], progress: ShowProgress) -> None:
    """Find out what is not known yet."""
    work = [(field, _assume_others(field)) for field in fields]
    headers = NpyHeaders()
    with _shown(progress, sum(len(numbers) for _, numbers in work)) as done:
        for field, numbers in work:
            source = with_locking(field.wanted.source)
            for number in numbers:
                path = field.wanted.paths[number]
                try:
                    found = headers.look(source, path, int(field.stats[number, SIZE]))
                except OSError as error:
                    raise explained(path, error) from None
                whole = field.wanted.whole_files  # then it does not matter how many are decoded
                if found is None or (found.unit is None and not whole):
                    found = _asked(client, field, replace(source, path=path))
                _take(field, number, found)
                done(path)


def _assume_others(field: ScannedField) -> Sequence[int]:
    """Return the numbers of the files to look at.

    Of a list, files that are not looked at are taken to be one row each.
    """
    unknown: Sequence[int] = np.flatnonzero(field.rows == UNKNOWN).tolist()
    source, paths = field.wanted.source, field.wanted.paths
    if not field.wanted.whole_files:
        return unknown
    others = [number for number in unknown if not may_look(source, paths[number])]
    if not others:
        return unknown
    field.rows[others] = 1
    return [number for number in unknown if number == others[0] or may_look(source, paths[number])]


def _asked(client: Client, field: ScannedField, source: Source) -> LookedAt:
    try:
        info = client.info(source)
        if info.shape is None and len(info.members) == 1:  # it cannot be loaded: let it say why
            info = client.info(replace(source, member=info.members[0].name))
    except (BadFile, SpecMismatch) as error:
        if field.wanted.doubt is None:
            raise
        hint = (
            f" If it is a list of files: its first entry, {field.wanted.doubt}, is no file. "
            "Correct that, or pass list=True."
        )
        raise type(error)(error.message + hint, **error.details) from None
    if info.shape is None or info.dtype is None:
        _refuse_members(source, info)
    if info.dtype.hasobject:
        raise SpecMismatch(
            f"{source} holds text of varying length, and all rows of a field have one size. "
            "Write it again with a type of fixed size, such as S10."
        )
    return LookedAt(info.shape, info.dtype, info.unit)


def _refuse_members(source: Source, info: Info) -> NoReturn:
    names = [member.name for member in info.members]
    if not names:
        raise BadFile(f"{source.path} holds no array.")
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    raise SpecMismatch(
        f"{source.path} holds {len(names)} arrays: {shown}. Say which: "
        f"'{source.path}:{names[0]}' or dataset={names[0]!r}."
    )


def _take(field: ScannedField, number: int, found: LookedAt) -> None:
    """Note what a file holds.

    Raises
    ------
    SpecMismatch
        It has no rows, or other ones than the first file.
    """
    wanted, path = field.wanted, field.wanted.paths[number]
    shape, dtype, unit = found
    if not shape and not wanted.whole_files:
        raise SpecMismatch(
            f"{path} holds a single value (0 dimensions), no rows. Files with one sample each are "
            "named in a list: see `arrayd list`."
        )
    row_shape = shape if wanted.whole_files else shape[1:]
    spec = field.spec
    if spec is None:
        field.spec = RowSpec(dtype, row_shape, path)
    elif (spec.dtype, spec.row_shape) != (dtype, row_shape):
        _refuse_other(wanted, path, dtype, row_shape, spec)
    field.rows[number] = 1 if wanted.whole_files else shape[0]
    field.unit = None if field.unit is None or unit is None else max(field.unit, unit)


def _refuse_other(
    wanted: FieldFiles, path: str, dtype: np.dtype[Any], row_shape: tuple[int, ...], spec: RowSpec
) -> NoReturn:
    text = may_be_list(path) and dtype == spec.dtype
    also = " A text with one row needs ndmin=2." if text else ""
    raise SpecMismatch(
        f"{path} has rows of {dtype} {row_shape}, and {spec.path} has {spec.dtype} "
        f"{spec.row_shape}; all rows of the field {wanted.name!r} are of one type and shape. Leave "
        f"it out, or write it again like the others.{also}",
        path=path,
    )


@contextlib.contextmanager
def _shown(progress: ShowProgress, total: int) -> Iterator[Callable[[str], None]]:
    """Give a function that counts the file of a path as done."""
    count, last = 0, time.monotonic()

    def done(path: str) -> None:
        nonlocal count, last
        count += 1
        if (now := time.monotonic()) - last >= MIN_INTERVAL and callable(progress):
            last = now
            progress(Progress(Source(path=path), count, total))

    if progress is not True:
        yield done
        return
    from tqdm import tqdm  # here: importing arrayd must stay cheap

    with tqdm(total=total, desc="scan", unit="file", leave=False, delay=_SHOW_AFTER) as bar:

        def advance(_: str) -> None:
            bar.update()

        yield advance


# ---- the result ------------------------------------------------------------------------------


def _columns(fields: Sequence[ScannedField]) -> dict[str, Array]:
    """Return the columns of all lists.

    Raises
    ------
    SpecMismatch
        Two have different columns of one name, or one that is called like a field.
    """
    columns: dict[str, Array] = {}
    for one in (field.wanted for field in fields):
        for name, column in one.columns.items():
            if any(name == other.wanted.name for other in fields):
                raise SpecMismatch(f"{name!r} is the name of a column and of a field. Rename one.")
            if not np.array_equal(columns.setdefault(name, column), column):
                raise SpecMismatch(
                    f"Two lists have a column {name!r}, and not the same one. Rename one, or use "
                    "one list for both fields."
                )
    return columns


def _assembled(fields: Sequence[ScannedField], columns: Mapping[str, Array]) -> Manifest:
    """Return the manifest.

    Raises
    ------
    SpecMismatch
        The fields have not equally many rows, or none.
    """
    totals = {field.wanted.name: int(field.rows.sum()) for field in fields}
    if len(set(totals.values())) > 1:
        words = ", ".join(f"{name} {total}" for name, total in totals.items())
        raise SpecMismatch(
            f"The fields have not equally many rows: {words}. A row has one value of each field: "
            "name files that belong together."
        )
    rows = totals[fields[0].wanted.name]
    if rows == 0:
        path = fields[0].wanted.paths[0]
        also = " As a list of files it is empty, too." if may_be_list(path) else ""
        raise SpecMismatch(f"{path}: the dataset has no rows.{also}")
    sets: list[Files] = []
    places: dict[tuple[bytes, bool], int] = {}
    made = []
    for field in fields:
        key = (field.names, field.wanted.whole_files)
        if key not in places:
            places[key] = len(sets)
            starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(field.rows)])
            sets.append(Files(field.names, field.stats, starts))
        _check_aligned(field, fields, sets[places[key]])
        made.append(_made(field, places[key]))
    return Manifest(rows, tuple(made), tuple(sets), dict(columns))


def _check_aligned(field: ScannedField, fields: Sequence[ScannedField], files: Files) -> None:
    """Refuse members of the same files that have other rows in one of them."""
    other = np.flatnonzero(np.diff(files.starts) != field.rows)
    if other.size:
        number = int(other[0])
        first = next(one for one in fields if one.names == field.names)
        raise SpecMismatch(
            f"{field.wanted.paths[number]}: the field {first.wanted.name!r} has "
            f"{int(first.rows[number])} rows in this file, and {field.wanted.name!r} "
            f"{int(field.rows[number])}. A row has one value of each field."
        )


def _made(field: ScannedField, files: int) -> Field:
    source, spec = with_locking(field.wanted.source), field.spec
    assert spec is not None
    return Field(
        name=field.wanted.name,
        dtype=spec.dtype,
        row_shape=spec.row_shape,
        files=files,
        whole_files=field.wanted.whole_files,
        format=source.format,
        member=source.member,
        options=source.options,
        unit=1 if field.wanted.whole_files else field.unit,
    )
