"""Shape and dtype of sound ``.npy`` files, read by the client itself: 100,000 in some seconds.

Nothing else is read here, and nothing odd: whatever is not a plain header of a whole file is left
to the daemon, whose loaders know what is wrong with it and say so.
"""

from __future__ import annotations

import io
import os
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npformat

from arrayd.source import Source

Stat = tuple[int, ...]

Shape = tuple[int, ...]


class LookedAt(NamedTuple):
    """What was found out about a file: `Info.shape`, ``dtype`` and ``unit``."""

    shape: Shape
    dtype: np.dtype[Any]
    unit: int | None


_MAGIC = b"\x93NUMPY"
_READERS = {
    1: npformat.read_array_header_1_0,
    2: npformat.read_array_header_2_0,
}
_LENGTHS = {1: 2, 2: 4}  # bytes of the number that says how long the header is
_FIRST = 256  # bytes that are read at once: numpy's own headers have 128
_LONGEST = 16 << 10
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class NpyHeaders:
    """Reads headers; equal ones are parsed once."""

    def __init__(self) -> None:
        self._known: dict[bytes, LookedAt | None] = {}

    def look(self, source: Source, path: str, size: int) -> LookedAt | None:
        """Return what a file of `size` bytes holds; None: ask the daemon.

        Raises
        ------
        OSError
            It cannot be opened or read.
        """
        if not may_look(source, path):
            return None
        fd = os.open(path, _FLAGS)
        try:
            header = _header(fd)
        finally:
            os.close(fd)
        if header is None:
            return None
        if header not in self._known:
            self._known[header] = _parsed(header)
        found = self._known[header]
        if found is None or len(header) + _nbytes(found.shape, found.dtype) > size:
            return None
        claim = _claimed(source, found.dtype)
        return None if claim is None else found._replace(dtype=claim)


def may_look(source: Source, path: str) -> bool:
    """Say whether the header of a file is read here, if it is sound."""
    if source.options or source.member is not None:
        return False
    return path[-4:].lower() == ".npy" if source.format is None else source.format == "npy"


def _header(fd: int) -> bytes | None:
    """Return a whole header, with its magic; None: there is none of moderate length."""
    head = os.pread(fd, _FIRST, 0)
    width = _LENGTHS.get(head[6]) if head[:6] == _MAGIC and len(head) > 12 else None
    if width is None:
        return None
    end = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
    if end > _LONGEST:
        return None
    if end > len(head):
        head += os.pread(fd, end - len(head), len(head))
    return head[:end] if len(head) >= end else None


def _parsed(header: bytes) -> LookedAt | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "written by Python 2"
            shape, fortran, dtype = _READERS[header[6]](
                io.BytesIO(header[8:]), max_header_size=_LONGEST
            )
    except Exception:  # bytes of a stranger: anything can come out, and the daemon says what
        return None
    if dtype.hasobject or dtype.subdtype is not None or dtype.itemsize == 0:
        return None
    unit = None if fortran and len(shape) > 1 else 0
    return LookedAt(shape, dtype, unit) if all(0 <= n < 2**63 for n in shape) else None


def _nbytes(shape: Shape, dtype: np.dtype[Any]) -> int:
    size = dtype.itemsize
    for n in shape:
        size *= n
    return size


def _claimed(source: Source, found: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the dtype that is shared: as `arrayd.get` has it with ``dtype=``."""
    claim = source.dtype
    if claim is None or claim == found:
        return found
    plain = found.type is np.void and found.names is None and found.itemsize == claim.itemsize
    return claim if plain else None
