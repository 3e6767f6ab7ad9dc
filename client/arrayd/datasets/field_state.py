"""The fields of a dataset with the present state of their files, and what is known about these."""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.datasets.field_files import FieldFiles
from arrayd.errors import AccessDenied, ArraydError, BadFile, SourceNotFound
from arrayd.samples.manifest import Manifest, signed

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]

UNKNOWN = -1
"""Rows of a file that is to be looked at."""


@dataclass(frozen=True, slots=True)
class RowSpec:
    """What each row of a field is, and which file says so."""

    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    path: str


@dataclass(slots=True)
class ScannedField:
    """A field, its files in their present state, and what is known about them.

    `rows` is int64 ``(files,)``, `UNKNOWN` where the file was not looked at; `unit` as in `Field`.
    """

    wanted: FieldFiles
    names: bytes
    stats: Int64
    rows: Int64
    spec: RowSpec | None = None
    unit: int | None = 0


def stated(wanted: Sequence[FieldFiles]) -> list[ScannedField]:
    """Return the fields with the present state of their files; fields of equal files share it.

    Raises
    ------
    SourceNotFound, AccessDenied, BadFile
        Some are not there, or are no regular files.
    """
    known: dict[bytes, Int64] = {}
    bad: dict[str, ArraydError] = {}
    fields = []
    for one in wanted:
        names = os.fsencode("\0".join(one.paths) + "\0")
        if names not in known:
            known[names] = _stats(one.paths, bad)
        rows = np.full(len(one.paths), UNKNOWN, np.int64)
        fields.append(ScannedField(one, names, known[names], rows))
    _refuse(bad, len({path for one in wanted for path in one.paths}) if bad else 0)
    return fields


def _stats(paths: Sequence[str], bad: dict[str, ArraydError]) -> Int64:
    """Return dev, ino, size, mtime_ns and ctime_ns of files, int64 ``(files, 5)``."""
    values = array("q")
    extend = values.extend
    for path in paths:
        try:
            info = os.stat(path)
            if not stat.S_ISREG(info.st_mode):
                kind = "a directory" if stat.S_ISDIR(info.st_mode) else "no regular file"
                raise BadFile(f"{path} is {kind}, and a dataset is made of files.")
        except (OSError, ValueError, BadFile) as error:
            bad.setdefault(path, explained(path, error))
            continue
        extend((info.st_dev, signed(info.st_ino), info.st_size, info.st_mtime_ns, info.st_ctime_ns))
    return np.frombuffer(values, np.int64).reshape(-1, 5)


def explained(path: str, error: Exception) -> ArraydError:
    """Return the error of arrayd for what the system says about a file."""
    if isinstance(error, ArraydError):
        return error
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return SourceNotFound(f"{path}: no such file.")
    if isinstance(error, PermissionError):
        return AccessDenied(f"{path}: you may not read it.")
    return BadFile(f"{path!r} cannot be read: {getattr(error, 'strerror', None) or error}.")


def _refuse(bad: Mapping[str, ArraydError], total: int) -> None:
    """Raise the first of these errors, with the number of the others."""
    for first in bad.values():
        more = len(bad) - 1
        also = f" {more} more of the {total} files cannot be had." if more else ""
        raise type(first)(first.message + also, files=len(bad))


def check_readable(fields: Sequence[ScannedField]) -> None:
    """Refuse files that this user may not read, before any of them is read."""
    bad: dict[str, ArraydError] = {}
    total = 0
    for field in fields:
        for number in np.flatnonzero(field.rows == UNKNOWN).tolist():
            path = field.wanted.paths[number]
            total += 1
            if not os.access(path, os.R_OK):
                bad[path] = AccessDenied(f"{path}: you may not read it.")
    _refuse(bad, total)


def is_same(
    earlier: Manifest, fields: Sequence[ScannedField], columns: Mapping[str, Array]
) -> bool:
    """Say whether a manifest is of these files in this state, and of these columns."""
    if earlier.columns.keys() != columns.keys() or len(earlier.fields) != len(fields):
        return False
    for name, column in columns.items():
        before = earlier.columns[name]
        if before.dtype != column.dtype or not np.array_equal(before, column):
            return False
    for field, earlier_field in zip(fields, earlier.fields, strict=True):
        files = earlier.files[earlier_field.files]
        if files.names != field.names or not np.array_equal(files.stats, field.stats):
            return False
    return True


def recall(earlier: Manifest, fields: Sequence[ScannedField]) -> None:
    """Take over the rows of files that have not changed."""
    for field, before in zip(fields, earlier.fields, strict=True):
        files = earlier.files[before.files]
        numbers = {name: number for number, name in enumerate(files.names.split(b"\0")[:-1])}
        at = np.array(
            [numbers.get(name, -1) for name in field.names.split(b"\0")[:-1]], dtype=np.int64
        )
        same = (at >= 0) & (files.stats[at] == field.stats).all(axis=1)
        if same.any():
            field.rows[same] = np.diff(files.starts)[at[same]]
            first = field.wanted.paths[int(np.argmax(same))]
            field.spec = RowSpec(before.dtype, before.row_shape, first)
            field.unit = before.unit
