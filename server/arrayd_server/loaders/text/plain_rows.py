"""Plain rows of text, read by compiled code where there is some: four times as fast as numpy.

`plain_rows.c` reads what is plain and gives up all else, piece by piece; what it gives up is read
by numpy, as if it had not been tried. Its head says what is plain and why the values are those of
`numpy.loadtxt` to the bit. `of` says which requests may come to it at all.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from arrayd.common import compiling
from arrayd.common.casts.changes import values_in

Array = np.ndarray[Any, Any]
DType = np.dtype[Any]

_SEPARATORS = frozenset(" \t,;|:")
_COMMENTS = frozenset("#%!;@$&*/\\~'\"")
"""No part of a number, so that the one who reads numbers need not look out for them."""

_KINDS = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (4, 8)}
_MOST_COLUMNS = 10_000
_SKIPPED = (0, 0, 0)
_COLUMN = np.dtype([("offset", np.int64), ("kind", np.int32), ("size", np.int32)])


LIBRARY = Path(__file__).with_suffix(compiling.SUFFIX)


@cache
def library() -> ctypes.CDLL | None:
    """Return the functions that were compiled for this installation; None: there are none."""
    return loaded(LIBRARY)


def loaded(path: Path) -> ctypes.CDLL | None:
    """Return the compiled functions; None: they are not there, or not for this machine."""
    if sys.byteorder != "little":
        return None
    try:
        functions = ctypes.CDLL(str(path))
        functions.arrayd_plain_start()
    except (OSError, AttributeError):
        return None
    size, integer, pointer = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p
    functions.arrayd_line_ends.restype = size
    functions.arrayd_line_ends.argtypes = [ctypes.c_char_p, size, ctypes.c_uint8, pointer]
    functions.arrayd_plain_rows.restype = size
    functions.arrayd_plain_rows.argtypes = [
        *(ctypes.c_char_p, size, integer, integer),
        *(pointer, size, integer, pointer, size, size),
    ]
    return functions


def count_rows(block: bytes, comment: str) -> int | None:
    """Return how many rows `block` (whole lines) has; None: it has more than rows.

    Parameters
    ----------
    comment
        The character that begins a comment; empty if there are none.
    """
    functions = library()
    if functions is None:
        return None
    odd = ctypes.c_int32()
    mark = ord(comment or "\0")
    ends: int = functions.arrayd_line_ends(block, len(block), mark, ctypes.addressof(odd))
    return None if odd.value else ends + (not block.endswith(b"\n") and block != b"")


@dataclass(frozen=True)
class PlainRows:
    """The compiled parser, set to one request.

    Parameters
    ----------
    dtype, width
        Of the result: records, or so many columns.
    separator, comment
        Codes of the characters; -1 for white space, 0 for no comments.
    columns
        What `plain_rows.c` calls so, one for each column of the text.
    more
        The text may have columns behind these.
    """

    dtype: DType
    width: int
    separator: int
    comment: int
    columns: Array
    more: bool

    @classmethod
    def of(
        cls,
        dtype: DType,
        width: int,
        *,
        delimiter: str | None,
        comment: str,
        usecols: tuple[int, ...] | None,
    ) -> Self | None:
        """Return the parser for a request; None: there is none, or the request is not plain.

        Parameters
        ----------
        width
            Columns of the result, where `dtype` is not that of a record.
        comment
            The character that begins a comment; empty if there are none.
        """
        if library() is None or (delimiter is not None and delimiter not in _SEPARATORS):
            return None
        if comment == delimiter or (comment and comment not in _COMMENTS):
            return None
        columns = values_in(dtype) if dtype.names else width
        highest = columns - 1 if usecols is None else max(usecols, default=-1)
        if not 0 < columns <= _MOST_COLUMNS or not 0 <= highest < _MOST_COLUMNS:
            return None
        if usecols and (min(usecols) < 0 or not len(set(usecols)) == len(usecols) == columns):
            return None
        if dtype.names:
            fields = list(_leaves(dtype, 0))
        else:
            fields = [(i * dtype.itemsize, dtype) for i in range(width)]
        table = np.array([_SKIPPED] * (highest + 1), _COLUMN)
        for place, (offset, field) in zip(usecols or range(columns), fields, strict=True):
            if not field.isnative or not _known(field):
                return None
            table[place] = (offset, ord(field.kind), field.itemsize)
        return cls(
            dtype=dtype,
            width=width,
            separator=-1 if delimiter is None else ord(delimiter),
            comment=ord(comment or "\0"),
            columns=table,
            more=usecols is not None,
        )

    def parse(self, piece: bytes) -> Array | None:
        """Return the rows of `piece` (whole lines) as `RowParser.parse`; None: not all is plain."""
        functions = library()
        assert functions is not None
        if not piece.endswith(b"\n"):
            piece += b"\n"
        odd = ctypes.c_int32()
        most = functions.arrayd_line_ends(piece, len(piece), 0, ctypes.addressof(odd))
        shape = (most,) if self.dtype.names else (most, self.width)
        # Zeros are what the padding between the fields of a record is to be.
        rows = (np.zeros if self.dtype.names else np.empty)(shape, self.dtype)
        found: int = functions.arrayd_plain_rows(
            *(piece, len(piece), self.separator, self.comment),
            *(self.columns.ctypes.data, len(self.columns), self.more),
            *(rows.ctypes.data, most, math.prod(shape[1:]) * self.dtype.itemsize),
        )
        return None if found < 0 else rows[:found]


def _known(field: DType) -> bool:
    return field.kind in "SU" or field.itemsize in _KINDS.get(field.kind, ())


def _leaves(dtype: DType, offset: int) -> Iterator[tuple[int, DType]]:
    """Yield where each value of a record is, and its type, in the order of the columns."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        for i in range(math.prod(shape)):
            yield from _leaves(base, offset + i * base.itemsize)
    elif dtype.names is None:
        yield offset, dtype
    else:
        for name in dtype.names:
            at = dtype.fields[name][1] if dtype.fields else 0
            yield from _leaves(dtype[name], offset + at)
