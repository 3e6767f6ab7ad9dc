"""Map a file for writing, and keep no descriptor of it: Python's `mmap` keeps one (before 3.13)."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

import numpy as np
import numpy.typing as npt

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_FAILED = ctypes.c_void_p(-1).value


def map_shared(fd: int, size: int) -> npt.NDArray[np.uint8]:
    """Return the first `size` bytes of a file, shared with all who map it; uint8 ``(size,)``.

    It is unmapped with the last array that sees it.

    Raises
    ------
    OSError
        The file is shorter, or there is no room in our address space.
    """
    if os.fstat(fd).st_size < size:
        raise OSError(0, f"the file is shorter than {size} bytes")
    address = _libc.mmap(
        None,
        ctypes.c_size_t(size),
        mmap.PROT_READ | mmap.PROT_WRITE,
        mmap.MAP_SHARED,
        fd,
        ctypes.c_long(0),
    )
    if address == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    memory = (ctypes.c_ubyte * size).from_address(address)
    end = weakref.finalize(memory, _libc.munmap, ctypes.c_void_p(address), ctypes.c_size_t(size))
    end.atexit = False
    return np.frombuffer(memoryview(memory), np.uint8)
