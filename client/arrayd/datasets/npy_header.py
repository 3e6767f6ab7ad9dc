"""Headers of ``.npy`` files that grow: any number of rows fits, so the data never move.

A header is a line of text, padded with blanks to a multiple of 64 bytes, before the data
(`numpy.lib.format`). Here the blanks leave room for the largest number of rows, so that the header
of more rows is written over that of fewer. `numpy.save` leaves such room as well.
"""

from __future__ import annotations

import ast
import os
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib import format as npformat

from arrayd.errors import BadFile, SpecMismatch

DType = np.dtype[Any]

MOST_ROWS = 2**63 - 1

_LENGTH = {1: "<H", 2: "<I", 3: "<I"}
_MOST_BYTES = 1 << 20
_KEYS = {"descr", "fortran_order", "shape"}


@dataclass(frozen=True, slots=True)
class GrowingHeader:
    """What the header of a file says, and how long it is.

    Parameters
    ----------
    dtype
        As `numpy.load` reads it: types of ml_dtypes are raw bytes (``V2``) to it.
    row_shape
        Shape of a row.
    rows
        How many the file is said to have.
    version
        Of the format: 1; 2 where a description has more than 65,000 characters, 3 where it has
        some that latin-1 lacks.
    nbytes
        Length of the header: where the data begin.
    """

    dtype: DType
    row_shape: tuple[int, ...]
    rows: int
    version: int
    nbytes: int

    @classmethod
    def of(cls, dtype: DType, row_shape: tuple[int, ...]) -> GrowingHeader:
        """Return the header of a new file, without rows.

        Raises
        ------
        SpecMismatch
            A ``.npy`` cannot express the dtype.
        """
        stored = as_stored(dtype)
        text = _text(stored, row_shape, MOST_ROWS)
        version = 1 if _is_latin(text) else 3
        if version == 1 and len(text) > 65_000:
            version = 2
        before = npformat.MAGIC_LEN + struct.calcsize(_LENGTH[version])
        need = before + len(text.encode(_encoding(version))) + 1
        whole = -(-need // npformat.ARRAY_ALIGN) * npformat.ARRAY_ALIGN
        return cls(stored, row_shape, 0, version, whole)

    def counting(self, rows: int) -> GrowingHeader:
        """Return the header of the same file with so many rows."""
        return replace(self, rows=rows)

    def to_bytes(self) -> bytes:
        """Return the header as it is in the file, `nbytes` long."""
        text = _text(self.dtype, self.row_shape, self.rows).encode(_encoding(self.version))
        form = _LENGTH[self.version]
        room = self.nbytes - npformat.MAGIC_LEN - struct.calcsize(form)
        magic = npformat.magic(self.version, 0) + struct.pack(form, room)
        return bytes(magic) + text.ljust(room - 1) + b"\n"

    @property
    def grows(self) -> bool:
        """Whether the header of any number of rows has the same length."""
        text = _text(self.dtype, self.row_shape, MOST_ROWS).encode(_encoding(self.version))
        room = self.nbytes - npformat.MAGIC_LEN - struct.calcsize(_LENGTH[self.version])
        return len(text) < room


def as_stored(dtype: DType) -> DType:
    """Return the dtype that `numpy.load` reads where `dtype` was saved.

    Raises
    ------
    SpecMismatch
        The description in a ``.npy`` would be that of another type.
    """
    try:
        stored: DType = npformat.descr_to_dtype(npformat.dtype_to_descr(dtype))
    except ValueError as error:
        raise _inexpressible(dtype, str(error)) from None
    if dtype.num < 256 and stored != dtype and not _has_foreign(dtype):
        raise _inexpressible(dtype, f"{stored} would be read back")
    return stored


def _has_foreign(dtype: DType) -> bool:
    base = dtype.base
    return base.num >= 256 or any(_has_foreign(base[name]) for name in base.names or ())


def _inexpressible(dtype: DType, why: str) -> SpecMismatch:
    return SpecMismatch(
        f"A .npy file cannot hold {dtype}: {why}. Use a type with plain fields, one behind the "
        "other."
    )


def _text(dtype: DType, row_shape: tuple[int, ...], rows: int) -> str:
    descr = npformat.dtype_to_descr(dtype)
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {(rows, *row_shape)!r}, }}"


def _is_latin(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _encoding(version: int) -> str:
    return "utf-8" if version == 3 else "latin-1"


def read(fd: int, path: str) -> GrowingHeader:
    """Return the header of a file in C order.

    Raises
    ------
    BadFile
        It is no ``.npy``, or ends before its last row.
    SpecMismatch
        No rows can be added to it: it is 0-d, in Fortran order, or its header has no room.
    """
    try:
        found, fortran = _parsed(fd)
    except (ValueError, SyntaxError, TypeError, KeyError, struct.error, MemoryError) as error:
        raise BadFile(f"{path} is no .npy file to go on with ({error}).") from None
    if found is None or fortran or not found.grows:
        why = "it is 0-d" if found is None else "it is in Fortran order"
        if found is not None and not fortran:
            why = "its header has no room for more rows"
        raise SpecMismatch(f"No rows can be added to {path}: {why}. Write to a new file.")
    row = found.dtype.itemsize * int(np.prod(found.row_shape, dtype=object))
    need, size = found.nbytes + found.rows * row, os.fstat(fd).st_size
    if need > size:
        raise BadFile(
            f"{path} is truncated: its header promises {need} bytes, it has {size}. Write it anew, "
            "with replace=True."
        )
    return found


def _parsed(fd: int) -> tuple[GrowingHeader | None, bool]:
    """Return the header, None of a 0-d array, and whether it is in Fortran order."""
    start = os.pread(fd, npformat.MAGIC_LEN + 4, 0)
    if start[:6] != npformat.MAGIC_PREFIX or start[6] not in _LENGTH or start[7] != 0:
        raise ValueError("it does not begin like one")
    version = start[6]
    form = _LENGTH[version]
    begin = npformat.MAGIC_LEN + struct.calcsize(form)
    (length,) = struct.unpack(form, start[npformat.MAGIC_LEN : begin])
    if length > _MOST_BYTES:
        raise ValueError(f"a header of {length} bytes")
    said = ast.literal_eval(os.pread(fd, length, begin).decode(_encoding(version)).strip())
    if not isinstance(said, dict) or said.keys() != _KEYS:
        raise ValueError("its header is none")
    dtype, shape = npformat.descr_to_dtype(said["descr"]), said["shape"]
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"shape {shape!r}")
    if not shape:
        return None, False
    header = GrowingHeader(dtype, shape[1:], shape[0], version, begin + length)
    return header, bool(said["fortran_order"]) and len(shape) > 1
