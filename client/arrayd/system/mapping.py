"""Pages of a segment in this process: mapped, wrapped for numpy, unmapped with the last view.

Mapped through ctypes: Python's ``mmap`` keeps a descriptor for each mapping (1,017 blocks
under ``ulimit -n 1024``), and the standard library's ``SharedMemory`` unlinks at exit what
it merely attached (below 3.13, gh-82300).
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from arrayd.common import failpoints
from arrayd.common.bytesize import format_bytes
from arrayd.errors import AccessDenied, DaemonError, NoRoom
from arrayd.system import attach
from arrayd.system.libzmq_guard import no_descriptors
from arrayd.system.signal_safe import descriptors, open_atomically
from arrayd.wire import layout

_PROT_READ, _PROT_WRITE = 1, 2
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED = 1, 2, 0x10
_MAP_ANONYMOUS, _MAP_NORESERVE = 0x20, 0x4000
_MADV_RANDOM, _MADV_DONTNEED, _MADV_DONTDUMP = 1, 4, 16
_HUGE_PAGE = 2 << 20
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


class MappingFinalizer(weakref.ref["SegmentMapping"]):
    """A weak reference to a mapping, whose callback is a function in C; `owner` is its hold.

    A Ctrl-C that hits a finalizer written in Python cuts it off, and Python prints and forgets
    it. So what must not be lost is done by callbacks in C: ``munmap`` itself, and ``append``.
    """

    __slots__ = ("_as_parameter_", "others", "owner")

    _as_parameter_: Any  # what ctypes passes for the weakref, if its callback is a C library's
    others: tuple[MappingFinalizer, ...]
    owner: Any


_ends: set[MappingFinalizer] = (
    set()
)  # keeps them alive: a weakref that is collected first never fires


def discard(end: MappingFinalizer) -> None:
    """Let the finalizer of a mapping go, for its end has been dealt with."""
    _ends.discard(end)


class SegmentMapping:
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
    owner
        Of the `MappingFinalizer`: whose mapping this is.
    ended
        Called with the `MappingFinalizer` after the pages are unmapped, wherever that happens: it
        must be a function in C, which no signal handler can cut off.
    ring
        Called after that, with another argument; it may only do what is allowed inside a
        garbage collection.

    Raises
    ------
    Vanished
        There is no such segment, or its footer names another.
    NoRoom
        This process can have no more descriptors, mappings or address space.
    DaemonError
        It cannot be opened.
    """

    __slots__ = ("__weakref__", "address", "end", "inode", "mode", "nbytes", "segment", "size")

    def __init__(
        self,
        segment: str,
        nbytes: int,
        mode: str,
        owner: Any,
        ended: Callable[[MappingFinalizer], None],
        ring: Callable[[object], None],
    ) -> None:
        self.segment = segment
        self.nbytes = nbytes
        self.mode = mode
        _pass(segment)
        functions = attach.functions
        if functions is None or not self._attached(functions, owner, ended, ring):
            self._mapped(owner, ended, ring)

    def _attached(
        self,
        functions: attach.Functions,
        owner: Any,
        ended: Callable[[MappingFinalizer], None],
        ring: Callable[[object], None],
    ) -> bool:
        """Map the segment in one step; say whether that was possible."""
        record, name = attach.Record(), self.segment.encode(errors="surrogateescape")
        # First who gives it back, then pages: a Ctrl-C can come in between.
        end = self._watched(owner, ended, ring, functions.detach, record)
        functions.attach(name, len(name), ord(self.mode), record)
        self.address, self.size, self.inode = record[:]
        if self.address and self.size - layout.FOOTER_BYTES >= self.nbytes:
            self.end = end
            return True
        functions.detach(record)
        discard(end)  # its callbacks go with it
        return False

    def _mapped(
        self, owner: Any, ended: Callable[[MappingFinalizer], None], ring: Callable[[object], None]
    ) -> None:
        """Map the segment step by step."""
        opened: list[int] = []
        closing = map(os.close, opened)  # as `descriptors` does, which costs three calls more
        try:
            fd = _open(self.segment, os.O_RDWR if self.mode == "w" else os.O_RDONLY, opened)
            self.size, self.inode = _checked(fd, self.segment, self.nbytes)
            # First only addresses, and who gives them back; then pages. A Ctrl-C can come in
            # between, and nothing that counts is lost.
            self.address = _reserve(self.size)
            unmap = functools.partial(_libc.munmap, self.address, self.size)
            self.end = self._watched(owner, ended, ring, unmap, 0)  # munmap ignores a third word
            _map(fd, self.size, self.mode, self.address)
        finally:
            deque(closing, 0)
        _libc.madvise(self.address, self.size, _MADV_DONTDUMP)

    def _watched(
        self,
        owner: Any,
        ended: Callable[[MappingFinalizer], None],
        ring: Callable[[object], None],
        unmap: attach.Function,
        what: Any,
    ) -> MappingFinalizer:
        """Register three callbacks for the end; CPython runs them newest first.

        That is: `unmap`, of C, with `what`; then `ended`, then `ring`.
        """
        ringing = MappingFinalizer(self, ring)
        end = MappingFinalizer(self, ended)
        unmapping = MappingFinalizer(self, unmap)
        unmapping._as_parameter_ = what
        end.owner, end.others = owner, (ringing, unmapping)
        _ends.add(end)
        return end

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

        Raises
        ------
        Vanished
            Somebody removed the segment's name, or put another file there.
        """
        _pass(self.segment)
        with descriptors() as opened:
            fd = _open(self.segment, os.O_RDONLY, opened)
            if os.fstat(fd).st_ino != self.inode:
                raise Vanished(f"another file stands under the name {self.segment}")
            _map(fd, self.size, "c", self.address)
        self.mode = "s"

    def move(self, other: SegmentMapping) -> None:
        """Show another sealed segment of the same contents and size, in place.

        Raises
        ------
        Vanished
            It is gone.
        """
        _pass(other.segment)
        with descriptors() as opened:
            fd = _open(other.segment, os.O_RDONLY, opened)
            if os.fstat(fd).st_ino != other.inode or other.size != self.size:
                raise Vanished(f"another file stands under the name {other.segment}")
            _map(fd, self.size, "c", self.address)
        self.segment, self.inode = other.segment, other.inode

    def forget_writes(self, start: int, stop: int) -> None:
        """Let the pages with these bytes of a private mapping show the segment as it is now."""
        first = start // layout.PAGE * layout.PAGE
        _libc.madvise(self.address + first, stop - first, _MADV_DONTNEED)

    def inherited(self) -> None:
        """Mark in the kernel's own flags that this process has the mapping by accident."""
        _libc.madvise(self.address, self.size, _MADV_RANDOM)


def _pass(segment: str) -> None:
    """Pass the failpoint, whose errors are those of an open."""
    try:
        failpoints.hit("client.opening_segment")
    except OSError as error:
        raise _refused(segment, error) from None


def _open(segment: str, flags: int, opened: list[int]) -> int:
    """Open a segment; wait while the daemon has a lease on it, which it tests for users."""
    if "/" in segment:
        raise Vanished(f"{segment} is no name of a segment")
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    deadline = time.monotonic() + _LEASE_WAIT
    while True:
        try:
            return open_atomically(opened, os.open, f"{layout.SHM}/{segment}", flags)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise DaemonError(
                    f"{segment} has been barred for {_LEASE_WAIT:.0f} s: the daemon was stopped "
                    "while it looked at it (`kill -CONT` its pid), or somebody else has a lease."
                ) from None
            time.sleep(0.0001)
        except OSError as error:
            raise _refused(segment, error) from None


def _refused(segment: str, error: OSError) -> Exception:
    if isinstance(error, FileNotFoundError):
        return Vanished(f"{segment} is not in {layout.SHM}")
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return NoRoom(f"{segment} cannot be opened: {no_descriptors(error)}")
    if isinstance(error, PermissionError):
        return AccessDenied(f"{segment}: you may not open it ({error.strerror}).")
    if error.errno == errno.EROFS:
        return AccessDenied(
            f"{segment} cannot be written, for {layout.SHM} is read-only to this process, as in a "
            "container with a read-only volume: mount it with the right to write, to publish."
        )
    return Vanished(f"{segment}: {error.strerror}")  # a link, a directory: not what was granted


def _checked(fd: int, segment: str, nbytes: int) -> tuple[int, int]:
    """Return size and inode of a segment whose footer says that it is the one we were granted."""
    info = os.fstat(fd)
    size = info.st_size
    offset = size - layout.FOOTER_BYTES
    if offset < nbytes:
        raise Vanished(f"{segment} has {size} bytes, too few for {nbytes} of data")
    try:
        name = layout.unpack_name(os.pread(fd, layout.FOOTER_BYTES, offset))
    except layout.NotASegment as error:
        raise Vanished(f"{segment}: {error}") from None
    if name != segment:
        raise Vanished(f"{segment} says that it is {name}")
    return size, info.st_ino


def _reserve(size: int) -> int:
    """Return an address with so much room behind it; nothing is there yet.

    A huge page of a file is mapped as one only at an address of that multiple, which the kernel
    chooses for a file by itself, and for no room.
    """
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE
    found = _libc.mmap(None, size + _HUGE_PAGE, 0, flags, -1, 0) if size >= _HUGE_PAGE else None
    if found is None or found == _FAILED:
        return _mmap(None, size, 0, flags, -1)
    start = -(-found // _HUGE_PAGE) * _HUGE_PAGE
    if start > found:
        _libc.munmap(found, start - found)
    _libc.munmap(start + size, found + _HUGE_PAGE - start)
    return int(start)


def _map(fd: int, size: int, mode: str, at: int) -> None:
    protection = _PROT_READ if mode == "r" else _PROT_READ | _PROT_WRITE
    flags = _MAP_PRIVATE if mode == "c" else _MAP_SHARED
    _mmap(at, size, protection, flags | _MAP_FIXED, fd)


def map_shared(fd: int, size: int) -> int:
    """Return the address of a read-only mapping of a file; `unmap` ends it.

    Raises
    ------
    NoRoom
        This process can have no more mappings or address space.
    """
    return _mmap(None, size, _PROT_READ, _MAP_SHARED, fd)


def unmap(address: int, size: int) -> None:
    """Give a mapping back."""
    _libc.munmap(address, size)


def _mmap(at: int | None, size: int, protection: int, flags: int, fd: int) -> int:
    address = _libc.mmap(at, size, protection, flags, fd, 0)
    if address == _FAILED or address is None:
        code = ctypes.get_errno()
        raise NoRoom(
            f"{format_bytes(size)} cannot be mapped: {os.strerror(code)}. This process is at its "
            "limit of address space (`ulimit -v`) or of mappings (`sysctl vm.max_map_count`): "
            "drop arrays, or raise it.",
            bytes=size,
        )
    return int(address)
