"""Small ``.npy`` files, many in one go: each opened once, read by one call, and looked at twice.

What `npy` and `segment_writer` do for any file costs far more than to read 4 KiB. Here is the
short way for the plain case, and nothing else: a whole array, in a file that is as it was asked for
(`Small.stat`) before and after it is read. Whatever is not as expected is left to the long way,
which also knows how to say what is wrong: `read` returns None.

The headers of many files are alike, so what a header means is remembered by its bytes.
"""

from __future__ import annotations

import functools
import math
import os
import stat
from dataclasses import dataclass
from typing import Any

import numpy as np

from arrayd.common.casts.cast import cast_chunk, check_cast, resolved
from arrayd.common.casts.padding import as_items
from arrayd.source import Source
from arrayd.wire.codec import pack
from arrayd.wire.dtypes import descr, from_descr
from arrayd.wire.grant import Spec
from arrayd_server.loaders import file_identity, npy
from arrayd_server.loaders.contiguous import check_size
from arrayd_server.loaders.file_identity import FileIdentity
from arrayd_server.loaders.validation import check_dtype

MAX_BYTES = 256 << 10
"""Bytes of the largest file that is small, and of the largest array of one."""

MAX_DESCR = 4096
"""Bytes of the description of a dtype: it is written into the metadata with the others."""

_HEAD = 128  # bytes of the header of most files
_MAGIC = b"\x93NUMPY\x01\x00"
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class Small:
    """An array that was read.

    Parameters
    ----------
    identity
        Of its file.
    spec, file_dtype
        What lies in memory now, and the description of the dtype in the file.
    lost
        Values that the cast changed.
    """

    identity: FileIdentity
    spec: Spec
    file_dtype: Any
    lost: int = 0


def read(path: str, source: Source, seen: tuple[int, ...], out: memoryview) -> Small | None:
    """Read an array into the beginning of `out`, which has room for the whole file.

    Parameters
    ----------
    path
        Of a ``.npy`` file.
    source
        What is asked of it, whatever its path: the whole, as it is or with a cast.
    seen
        The file's ``stat`` as its asker saw it.

    Returns
    -------
    Small or None
        None: it is to be read the long way; `out` may hold anything then.
    """
    try:
        fd = os.open(path, _FLAGS)
    except (OSError, ValueError):
        return None
    try:
        return _read(path, source, fd, seen, out)
    except Exception:  # numpy's parser meets a stranger's bytes; the long way says what is wrong
        return None
    finally:
        os.close(fd)


def _read(
    path: str, source: Source, fd: int, seen: tuple[int, ...], out: memoryview
) -> Small | None:
    info = os.fstat(fd)
    if _state(info) != seen or not stat.S_ISREG(info.st_mode):
        return None
    file_identity.wait_past(max(seen[3:]))
    size, head = seen[2], bytearray(_HEAD)
    if size > len(out) or os.preadv(fd, [head, out[: max(0, size - _HEAD)]], 0) != size:
        return None
    begin = 10 + int.from_bytes(head[8:10], "little")  # of the values
    if head[:8] != _MAGIC or begin >= size:
        return None
    if begin != _HEAD and os.preadv(fd, [out[: size - begin]], begin) != size - begin:
        return None
    header = bytes(head[:begin]) if begin <= _HEAD else os.pread(fd, begin, 0)
    meaning = _meaning(header[10:], source.cast, source.overflow)
    if meaning is None or meaning.spec.nbytes > size - begin or _state(os.fstat(fd)) != seen:
        return None
    device, inode, _, modified, changed = seen
    identity = (file_identity.real_path(path, fd), device, inode, size, modified, changed)
    lost = 0 if meaning.target is None else _cast(meaning, source, out)
    end = meaning.wanted.nbytes
    if end > len(out):
        return None
    out[end:] = bytes(len(out) - end)
    return Small(identity, meaning.wanted, meaning.spec.descr, lost)


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a header says: the array in the file, the one wanted, and the cast (or None)."""

    spec: Spec
    wanted: Spec
    target: np.dtype[Any] | None


@functools.lru_cache(64)
def _meaning(header: bytes, cast: np.dtype[Any] | None, overflow: str) -> _Meaning | None:
    """Return what the text of a header means for a request; None: more than this reads."""
    anything = Source(path="?")
    shape, order, dtype = npy.parsed_header(str(header, "latin-1"))
    check_dtype(anything, dtype)
    target = dtype if cast is None else resolved(dtype, cast)
    check_cast(dtype, target, overflow)
    least = min(check_size(anything, shape, dtype), target.itemsize)
    if not least or len(pack(descr(target))) > MAX_DESCR:
        return None
    spec = Spec(shape, descr(dtype), order if len(shape) > 1 else "C", dtype.itemsize)
    wanted = Spec(shape, descr(target), spec.order, target.itemsize)
    return _Meaning(spec, spec, None) if target == dtype else _Meaning(spec, wanted, target)


def _cast(meaning: _Meaning, source: Source, out: memoryview) -> int:
    """Cast the values at the beginning of `out` in place, if there is room for what they become.

    Returns
    -------
    int
        How many were changed.
    """
    spec, target = meaning.spec, meaning.target
    assert target is not None
    values = np.frombuffer(out, from_descr(spec.descr), math.prod(spec.shape))
    cast, lost = cast_chunk(values, target, source.overflow)
    if meaning.wanted.nbytes <= len(out):
        out[: meaning.wanted.nbytes] = np.ascontiguousarray(as_items(cast)).view(np.uint8).data
    return lost


def _state(info: os.stat_result) -> tuple[int, ...]:
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
