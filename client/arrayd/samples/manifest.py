"""What a dataset is made of: its fields, the files of each, and the rows of each file.

A dataset is an ordered list of rows, numbered from 0. Each row has one value of each *field*, an
array of fixed dtype and shape. The values of a field lie in files, one after another: either the
rows of each file (axis 0) in order, or each file as a whole is one row. Small *columns* (a label,
a group) lie in the manifest itself.

A client scans the files once and saves the manifest; the daemon reads the rest of a dataset through
it. So a million files are named once, not in each request. On disk it is an ``.npz`` without
compression:

================  ================================================================================
``header``        msgpack, as bytes: version, rows, and of each field name, dtype, shape of a
                  row, number of its file set (below), whether a file is one row, how it is read
``names_K``       bytes: the absolute paths of file set K, each with a zero byte at its end
``stats_K``       int64 ``(files, 5)``: their dev, ino, size, mtime_ns and ctime_ns
``starts_K``      int64 ``(files + 1,)``: the first row of each, and the number of rows
``column_NAME``   one entry for each row
================  ================================================================================
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.common.manifest_names import SUFFIX
from arrayd.errors import BadFile, ProtocolMismatch
from arrayd.source import Source
from arrayd.wire import dtypes
from arrayd.wire.codec import pack, unpack
from arrayd.wire.records import Record, later

VERSION = 1

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]

_LABEL = 40  # characters of a file's name in that of a manifest

_NO_NAME = re.compile(r"[^A-Za-z0-9_.+-]+")

SIZE, MTIME = 2, 3
"""Columns of `Files.stats` that tell the contents of a file, wherever it lies."""


def _tuples(value: Any) -> Any:
    """Return lists, as they come from the wire, as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True, eq=False)
class Files:
    """Files in order, and the rows of each.

    Parameters
    ----------
    names
        Their absolute paths, as the system has them, each with a zero byte at its end.
    stats
        int64 ``(files, 5)``: dev, ino, size, mtime_ns and ctime_ns of each.
    starts
        int64 ``(files + 1,)``: the first row of each, and at the end the number of rows.
    """

    names: bytes
    stats: Int64
    starts: Int64

    @classmethod
    def of(cls, paths: Iterable[str], stats: npt.ArrayLike, rows: npt.ArrayLike) -> Files:
        """Return the files at `paths`, with `rows` rows each."""
        names = b"".join(os.fsencode(path) + b"\0" for path in paths)
        counts = np.asarray(rows, np.int64).reshape(-1)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        return cls(names, np.asarray(stats, np.int64).reshape(len(counts), 5), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return int(self.starts[-1])

    def path(self, number: int) -> str:
        """Return the path of a file."""
        first = int(self._ends[number - 1]) + 1 if number else 0
        return os.fsdecode(self.names[first : int(self._ends[number])])

    @cached_property
    def _ends(self) -> Int64:
        """Where the zero byte after each path is."""
        return np.flatnonzero(np.frombuffer(self.names, np.uint8) == 0)

    def locate(self, rows: npt.NDArray[np.integer[Any]]) -> tuple[Int64, Int64]:
        """Return for each of these rows its file, and its row in that file; int64 of that length.

        The rows must be of these files. Files without rows are found by nobody.
        """
        wanted = np.asarray(rows, np.int64)
        files = np.searchsorted(self.starts, wanted, side="right").astype(np.int64) - 1
        return files, wanted - self.starts[files]


@dataclass(frozen=True, slots=True)
class Field(Record):
    """One named value of each row.

    Parameters
    ----------
    name
        Of the field.
    dtype
        In the files.
    row_shape
        Of the value of one row.
    files
        Which of `Manifest.files` it is in.
    whole_files
        Each file is one row; else its rows are those of axis 0.
    format, member, options
        How the files are read, as in `Source`.
    unit
        The most rows of a file that are decoded together, as in `Info.unit`; None: not known. How
        a file is written is none of its contents, so the fingerprint is without it.
    """

    name: str
    dtype: np.dtype[Any] = field(
        metadata={"read": lambda wire: dtypes.from_descr(_tuples(wire)), "write": dtypes.descr}
    )
    row_shape: tuple[int, ...]
    files: int = 0
    whole_files: bool = False
    format: str | None = None
    member: str | None = None
    options: Any = field(default=(), metadata={"read": _tuples})
    unit: int | None = later(None)

    @property
    def row_bytes(self) -> int:
        """Bytes of the value of one row, in the files."""
        return math.prod(self.row_shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Manifest:
    """The rows of a dataset.

    Parameters
    ----------
    rows
        How many.
    fields
        At least one.
    files
        Sets of files; fields may share one.
    columns
        Arrays with one entry for each row, by name.
    """

    rows: int
    fields: tuple[Field, ...]
    files: tuple[Files, ...]
    columns: Mapping[str, Array]

    def field(self, name: str) -> Field:
        """Return the field of this name.

        Raises
        ------
        KeyError
            There is none.
        """
        return {one.name: one for one in self.fields}[name]

    def source_of(self, one: Field, number: int) -> Source:
        """Return the source of a field's file with this number."""
        return Source(
            path=self.files[one.files].path(number),
            member=one.member,
            format=one.format,
            dtype=one.dtype,
            options=one.options,
        )

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that are equal for equal datasets, wherever their files lie.

        A file counts with its size and the time of its last change, as for ``make``.
        """
        contents = [files.stats[:, [SIZE, MTIME]] for files in self.files]
        fields = tuple(replace(one, unit=None) for one in self.fields)
        plain = replace(self, fields=fields)
        return plain._digest(*contents, *(files.starts for files in self.files))

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that also tell where the files lie: the name of the saved manifest."""
        places = [np.frombuffer(files.names, np.uint8) for files in self.files]
        return self._digest(*places, *(array for f in self.files for array in (f.stats, f.starts)))

    def _digest(self, *arrays: Array) -> bytes:
        digest = hashlib.blake2b(pack(self._header()), digest_size=16)
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data)
        for name in sorted(self.columns):
            column = self.columns[name]
            digest.update(pack([name, column.dtype.str, len(column)]))
            digest.update(np.ascontiguousarray(column).view(np.uint8).data)
        return digest.digest()

    def _header(self) -> dict[str, Any]:
        fields = [one.to_wire() for one in self.fields]
        return {"version": VERSION, "rows": self.rows, "fields": fields, "sets": len(self.files)}

    # ---- on disk -------------------------------------------------------------------------

    @property
    def file_name(self) -> str:
        """The name under which it is saved: its first file's, how many more, and its digest.

        So `arrayd status` tells by the manifest of a block or stream what that is of.
        """
        different = {files.names: files for files in self.files}.values()
        first = next(iter(different), None)
        label = "nothing" if first is None else os.path.basename(first.path(0))
        label = _NO_NAME.sub("_", label)[:_LABEL].lstrip(".")
        more = sum(map(len, different)) - 1
        more_words = f"+{more}" if more > 0 else ""
        return f"{label}{more_words}.{self.digest.hex()[:16]}{SUFFIX}"

    def save(self, folder: str) -> str:
        """Save it in `folder`, unless it is there; return the path. Others see all of it or none.

        Raises
        ------
        OSError
            The folder cannot be written.
        """
        path = os.path.join(folder, self.file_name)
        if zipfile.is_zipfile(path):  # it ends as it should: nothing has cut it off
            return path
        arrays: dict[str, Any] = {"header": np.frombuffer(pack(self._header()), np.uint8)}
        for number, files in enumerate(self.files):
            arrays[f"names_{number}"] = np.frombuffer(files.names, np.uint8)
            arrays[f"stats_{number}"] = files.stats
            arrays[f"starts_{number}"] = files.starts
        arrays |= {f"column_{name}": column for name, column in self.columns.items()}
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
            try:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())  # else a power failure may keep the name and lose the bytes
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
        return path

    @classmethod
    def load(cls, path: str) -> Manifest:
        """Return the manifest that was saved at `path`.

        Raises
        ------
        OSError
            It cannot be read.
        BadFile
            It is none.
        ProtocolMismatch
            A newer arrayd has saved it.
        """
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in saved.files}
            header = unpack(arrays["header"].tobytes())
            if header["version"] > VERSION:
                raise ProtocolMismatch(
                    f"{path} was saved by a newer arrayd. Use one version of it for the client "
                    "and the daemon, or make the dataset again."
                )
            return cls._read(header, arrays)
        except (OSError, ProtocolMismatch):
            raise
        except Exception as error:  # bytes of a stranger: anything can come out
            raise BadFile(
                f"{path} is no manifest of a dataset: {error!r}. "
                "Delete it, and make the dataset again."
            ) from None

    @classmethod
    def _read(cls, header: Mapping[str, Any], arrays: Mapping[str, Array]) -> Manifest:
        fields = tuple(Field.from_wire(wire) for wire in header["fields"])
        files = tuple(
            Files(arrays[f"names_{k}"].tobytes(), arrays[f"stats_{k}"], arrays[f"starts_{k}"])
            for k in range(header["sets"])
        )
        columns = {
            name.removeprefix("column_"): array
            for name, array in arrays.items()
            if name.startswith("column_")
        }
        manifest = cls(int(header["rows"]), fields, files, columns)
        lengths = [one.rows for one in files] + [len(column) for column in columns.values()]
        if set(lengths) - {manifest.rows} or any(one.files >= len(files) for one in fields):
            raise ValueError(f"{manifest.rows} rows, but parts of {lengths}")
        return manifest


def changed(files: Files, number: int, stat: Sequence[int]) -> bool:
    """Say whether a file has another `stat` (as in `Files.stats`) than when it was scanned."""
    return bool(files.stats[number].tolist() != [*map(signed, stat)])


def signed(number: int) -> int:
    """Return an inode number, of 64 bits on some file systems, as the int64 of these bits."""
    return number - (1 << 64) if number >= 1 << 63 else number
