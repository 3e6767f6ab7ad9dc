"""HDF5's own word on file locks, ``HDF5_USE_FILE_LOCKING``, as this process has it.

The variable is read where the user sets it: the daemon was started from another environment.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import replace

from arrayd.source import Source

VARIABLE = "HDF5_USE_FILE_LOCKING"

_VALUES = {b"TRUE": True, b"1": True, b"FALSE": False, b"0": False}  # BEST_EFFORT is the default
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


# As HDF5 reads it itself; `os.environ` takes four times as long. With the interpreter's lock kept,
# nobody sets a variable meanwhile.
_getenv = ctypes.PyDLL(None).getenv
_getenv.restype = ctypes.c_char_p
_NAME = VARIABLE.encode()


def said() -> bytes | None:
    """Return what the variable says; None if it is not set."""
    value: bytes | None = _getenv(_NAME)
    return value


def with_locking(source: Source) -> Source:
    """Return a source with what the variable says, if it is an HDF5 file's and says nothing."""
    locking = _VALUES.get(_getenv(_NAME))
    if locking is None or not depends_on_variable(source):
        return source
    return replace(source, options=tuple(sorted((*source.options, ("locking", locking)))))


def depends_on_variable(source: Source) -> bool:
    """Say whether a source is an HDF5 file's and says nothing of locks itself."""
    said = any(key == "locking" for key, _ in source.options)
    return not said and source.format in (None, "hdf5") and _is_hdf5(source.path)


def _is_hdf5(path: str) -> bool:
    """Say whether a file begins as HDF5's do, perhaps after a user block."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        size, offset = os.fstat(fd).st_size, 0
        while offset < size:
            if os.pread(fd, len(_SIGNATURE), offset) == _SIGNATURE:
                return True
            offset = max(512, 2 * offset)
        return False
    except OSError:
        return False
    finally:
        os.close(fd)
