"""Pages of a segment in this process: mapped, wrapped for numpy, unmapped with the last view.

Mapped through ctypes: Python's ``mmap`` keeps a descriptor for each mapping (1,017 blocks
under ``ulimit -n 1024``), and the standard library's ``SharedMemory`` unlinks at exit what
it merely attached (below 3.13, gh-82300).
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
import weakref
from collections.abc import Callable
from typing import Any

from arrayd import layout

_PROT_READ, _PROT_WRITE = 1, 2
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED = 1, 2, 0x10
_MADV_DONTDUMP = 16
_FAILED = ctypes.c_void_p(-1).value
_LEASE_WAIT = 2.0  # seconds; the daemon holds a lease for a microsecond

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Vanished(Exception):
    """The segment is not there, or is another one: ask the daemon again."""


class Mapping:
    """The owner of mapped pages, at the base of the view chain of every array in them.

    numpy reaches the pages through ``__array_interface__``, as flat bytes. Where that says
    read-only, no array over it can ever be made writeable.

    Parameters
    ----------
    segment
        Name in /dev/shm.
    mode
        ``"r"``: read-only; ``"c"``: private copy-on-write; ``"w"``: shared and writeable,
        until `seal` makes it ``"s"``: private like ``"c"``, but showing the block as it is.
    on_end
        Called after the pages are unmapped, wherever that happens: it may only do what is
        allowed inside a garbage collection.

    Raises
    ------
    Vanished
        There is no such segment, or its footer names another.
    """

    __slots__ = ("__weakref__", "_end", "address", "mode", "nbytes", "segment", "size")

    def __init__(self, segment: str, nbytes: int, mode: str, on_end: Callable[[], None]) -> None:
        self.segment = segment
        self.nbytes = nbytes
        self.mode = mode
        fd = _open(segment, os.O_RDWR if mode == "w" else os.O_RDONLY)
        try:
            self.size = _checked_size(fd, segment, nbytes)
            self.address = _map(fd, self.size, mode)
        finally:
            os.close(fd)
        _libc.madvise(self.address, self.size, _MADV_DONTDUMP)
        self._end = weakref.finalize(self, _unmap, self.address, self.size, on_end)
        self._end.atexit = False  # views may outlive us at interpreter exit: never unmap then

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "typestr": "|u1",
            "shape": (self.nbytes,),
            "data": (self.address, self.mode == "r"),
        }

    def contains(self, address: int, nbytes: int) -> bool:
        """Say whether these bytes lie in the array's data."""
        start = self.address
        return start <= address and address + nbytes <= start + self.nbytes

    def seal(self) -> None:
        """Cut a writeable mapping off from the segment, in place.

        The same pages are mapped privately at the same address: views of it stay valid,
        and what is written through them reaches nobody.
        """
        fd = _open(self.segment, os.O_RDONLY)
        try:
            _map(fd, self.size, "c", at=self.address)
        finally:
            os.close(fd)
        self.mode = "s"


def _open(segment: str, flags: int) -> int:
    """Open a segment, sitting out the daemon's lease test."""
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    deadline = time.monotonic() + _LEASE_WAIT
    while True:
        try:
            return os.open(f"{layout.SHM}/{segment}", flags)
        except FileNotFoundError:
            raise Vanished(f"{segment} is not in {layout.SHM}") from None
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.0001)


def _checked_size(fd: int, segment: str, nbytes: int) -> int:
    """Return the segment's size once its footer says that it is the one we were granted."""
    size = os.fstat(fd).st_size
    offset = size - layout.FOOTER_BYTES
    if offset < nbytes:
        raise Vanished(f"{segment} has {size} bytes, too few for {nbytes} of data")
    try:
        footer = layout.unpack_footer(os.pread(fd, layout.FOOTER_BYTES, offset))
    except layout.NotASegment as error:
        raise Vanished(f"{segment}: {error}") from None
    if footer.name != segment:
        raise Vanished(f"{segment} says that it is {footer.name}")
    return size


def _map(fd: int, size: int, mode: str, at: int | None = None) -> int:
    protection = _PROT_READ if mode == "r" else _PROT_READ | _PROT_WRITE
    flags = _MAP_PRIVATE if mode == "c" else _MAP_SHARED
    if at is not None:
        flags |= _MAP_FIXED
    address = _libc.mmap(at, size, protection, flags, fd, 0)
    if address == _FAILED or address is None:
        code = ctypes.get_errno()
        hint = " (vm.max_map_count is reached?)" if code == errno.ENOMEM else ""
        raise OSError(code, f"mmap of {size} bytes: {os.strerror(code)}{hint}")
    return int(address)


def _unmap(address: int, size: int, on_end: Callable[[], None]) -> None:
    _libc.munmap(address, size)
    on_end()
