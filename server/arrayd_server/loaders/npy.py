"""``.npy`` files, versions 1 to 3; never their pickles."""

from __future__ import annotations

import functools
import io
import os
import struct
import warnings
from typing import Any

import numpy as np
from numpy.lib import format as npformat

from arrayd.errors import BadFile
from arrayd.source import Source
from arrayd_server.loaders import contiguous
from arrayd_server.loaders.base import LoadPlan
from arrayd_server.loaders.validation import check_dtype, check_options, open_regular

HEADER_LIMIT = 256 << 10
"""Characters of a header that are parsed at most, in some seconds and 125 MB: thousands of fields.

The limit of `numpy.load` is 10,000, for its parser can crash: here that costs a loader process.
"""

Header = tuple[tuple[int, ...], str, np.dtype[Any]]
"""Shape, order (``"C"``, ``"F"``) and dtype."""

_REMEMBERED, _SHORT = 64, 4096  # headers that a process remembers, and their characters at most

_LENGTH = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}

fill = contiguous.fill
address = contiguous.address


def probe(source: Source) -> LoadPlan:
    """Return the plan of a ``.npy`` file.

    Raises
    ------
    BadFile
        It is no ``.npy`` file, or shorter than its header says.
    SpecMismatch
        It holds objects, or another dtype than claimed.
    """
    check_options(source)
    with open_regular(source.path) as file:
        shape, order, dtype = read_header(file, source)
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
    dtype = check_dtype(source, dtype)
    check_complete(source, offset + contiguous.check_size(source, shape, dtype), size)
    return contiguous.plan(source, shape, dtype, order=order, offset=offset)


def check_complete(source: Source, need: int, size: int) -> None:
    """Refuse an array that needs more bytes than there are (more is fine, as in `numpy.load`).

    Raises
    ------
    BadFile
    """
    if need > size:
        raise BadFile(
            f"{source} is truncated: its header promises {need} bytes, it has {size}. "
            "Its writer was cut off or is still at work."
        )


def read_header(file: io.RawIOBase | io.BufferedIOBase, where: object) -> Header:
    """Read the header of a ``.npy`` and leave `file` where the values begin.

    Raises
    ------
    BadFile
        These bytes are no header.
    """
    try:
        text = _header_text(file)
        if len(text) > HEADER_LIMIT:
            raise ValueError(f"a header of {len(text)} characters; {HEADER_LIMIT} are read")
        return parsed_header(text)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # numpy's parser meets a stranger's bytes: anything can come out
        reason = str(error) or type(error).__name__
        raise BadFile(f"{where} is no readable .npy: {reason}.") from None


def parsed_header(text: str) -> Header:
    """Return what the text of a header says.

    Raises
    ------
    Exception
        It is none; of any kind, for numpy's parser raises what it meets.
    """
    # The files of a dataset are many, and their headers alike; long ones are not kept.
    parse = _parsed if len(text) <= _SHORT else _parsed.__wrapped__
    shape, fortran, dtype = parse(text)
    if dtype.subdtype is not None:
        raise ValueError(f"the dtype {dtype} has a shape of its own")
    return shape, "F" if fortran else "C", dtype


def _header_text(file: io.RawIOBase | io.BufferedIOBase) -> str:
    version = npformat.read_magic(file)
    if version not in _LENGTH:
        raise ValueError(f"version {version} of the format is not known")
    form = _LENGTH[version]
    (length,) = struct.unpack(form, file.read(struct.calcsize(form)))
    encoding = "utf-8" if version == (3, 0) else "latin-1"
    # No character has more than four bytes; a length of 4 GiB is not worth believing.
    if length > 4 * HEADER_LIMIT + npformat.ARRAY_ALIGN:
        raise ValueError(f"a header of {length} bytes")
    data = file.read(length)
    if len(data) < length:
        raise ValueError(f"it ends within its header, after {len(data)} of {length} bytes")
    return str(data, encoding)


@functools.lru_cache(_REMEMBERED)
def _parsed(text: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Parse through numpy's public reader, which knows versions 1 and 2.

    Written as ASCII escapes inside its string literals, a version 3 header is a version 2 one.
    """
    data = text.encode("ascii", "backslashreplace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "written by Python 2": of no use to the daemon's log
        try:
            return npformat.read_array_header_2_0(
                io.BytesIO(struct.pack("<I", len(data)) + data), max_header_size=len(data)
            )
        except MemoryError:  # of Python's parser, which has a stack of fixed size
            raise ValueError("a header nested too deeply") from None
