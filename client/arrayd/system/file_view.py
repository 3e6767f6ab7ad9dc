"""`FileView`: the bytes of a whole file, mapped read-only, without a descriptor."""

from __future__ import annotations

import ctypes
import os
import stat
import weakref

from arrayd.system import mapping
from arrayd.system.signal_safe import descriptors, open_atomically


class FileView:
    """A mapping of a file of this user; it ends with this object.

    Python's ``mmap`` keeps a descriptor, which a program may close under it (`os.closerange`).

    Raises
    ------
    OSError
        It cannot be opened.
    ValueError
        It is no regular file of this user, or an empty one.
    """

    __slots__ = ("__weakref__", "data")

    def __init__(self, path: str) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with descriptors() as opened:
            fd = open_atomically(opened, os.open, path, flags)
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or not info.st_size:
                raise ValueError(f"{path} is no file of this user that can be mapped")
            address = mapping.map_shared(fd, info.st_size)
        weakref.finalize(self, mapping.unmap, address, info.st_size).atexit = False
        self.data = memoryview((ctypes.c_char * info.st_size).from_address(address)).cast("B")
