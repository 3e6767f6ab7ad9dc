"""Find the segments that an earlier run of the scope left, and remove what only looks like one.

A file that cannot be read (no descriptor, no permission) is left alone, for the next start, and
so is what a newer arrayd wrote in a way that this one does not know. A file of this user that can
be read and is no segment is removed. Directories are left alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from arrayd.common import failpoints
from arrayd.wire import layout
from arrayd_server.kernel import segment_acl
from arrayd_server.segments.links import inode_of
from arrayd_server.segments.store import Segments

log = logging.getLogger(__name__)

MAX_META = 1 << 20
"""Bytes of metadata that are read: a structured dtype with thousands of fields needs 100 KiB."""


@dataclass(frozen=True, slots=True)
class LeftoverSegment:
    """A segment that an earlier run left."""

    name: str
    inode: int
    size: int
    data_bytes: int
    sealed: bool
    meta: dict[str, Any]
    meta_bytes: int = MAX_META  # that `meta` was read from
    readers: frozenset[int] = frozenset()  # other users who may open it


class Leftovers:
    """The segments of the scope that an earlier run left, in the order in which they were made.

    That is the order of the inode numbers of a tmpfs: of two blocks with one published name, the
    later keeps it. The names are listed at once; iterating reads one segment after the other, for
    what a hundred thousand say of themselves, all together, would be a hundred megabytes that the
    daemon's heap never gives back. What is no segment is removed.

    Parameters
    ----------
    segments
        They adopt what is found.
    """

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        # A folder tells the inode of a file with its name, which spares three `lstat` for each.
        spare = dict(_listed(segments.directory, segments.family))
        whole: list[tuple[int, str]] = []
        names: set[str] = set()  # without one of their links, or with another file there
        for name, inode in _listed(layout.SHM, segments.family):
            if spare.get(name) == inode:
                whole.append((spare.pop(name), name))
            else:
                names.add(name)
        names |= spare.keys()
        self._names = [*whole, *((self._inode(name), name) for name in names)]
        self._names.sort()
        self._broken = names

    def __len__(self) -> int:
        """How many names there are."""
        return len(self._names)

    def __iter__(self) -> Iterator[LeftoverSegment]:
        """Read one after the other."""
        for inode, name in self._names:
            one = _examine(self._segments, name)
            if one is not None:
                whole = one.inode == inode and name not in self._broken
                self._segments.adopt(one.name, one.inode, one.readers, whole=whole)
                yield one

    def _inode(self, name: str) -> int:
        return inode_of(self._segments.path(name)) or inode_of(self._segments.public(name)) or 0


def _listed(directory: str, family: str) -> Iterator[tuple[str, int]]:
    """Yield the name and the inode of each file of a family."""
    with os.scandir(directory) as entries:
        yield from ((one.name, one.inode()) for one in entries if one.name.startswith(family))


def _examine(segments: Segments, name: str) -> LeftoverSegment | None:
    """Return the segment of a name, by whichever of its links is whole."""
    for path in (segments.path(name), segments.public(name)):
        try:
            return read(path, name)
        except FileNotFoundError:
            continue
        except layout.NewerSegment as error:
            log.warning("%s is left alone: %s", name, error)
            return None
        except OSError as error:
            log.warning("%s is left alone: %s", path, error.strerror)
            return None
        except layout.NotASegment as error:
            _discard(path, error)
    return None


def read(path: str, name: str) -> LeftoverSegment:
    """Return the segment that a file is.

    Raises
    ------
    NotASegment
        It is none, or of another name.
    NewerSegment
        A newer arrayd has made it.
    OSError
        It cannot be read.
    """
    info = os.lstat(path)
    if info.st_uid != os.geteuid() or not stat.S_ISREG(info.st_mode):
        raise layout.NotASegment("it is not a regular file of ours")
    readers = _readers(path, stat.S_IMODE(info.st_mode))
    if info.st_blocks * 512 < info.st_size:
        raise layout.NotASegment("it has holes: its pages were never reserved")
    failpoints.hit("daemon.examining")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        footer = read_footer(fd, info.st_size, name)
        if footer.meta_bytes > MAX_META:
            raise layout.NotASegment(f"{footer.meta_bytes} bytes of metadata")
        if readers and not footer.sealed:
            raise layout.NotASegment("another user was writing it, and may have written anything")
        raw = os.pread(fd, footer.meta_bytes, footer.meta_offset)
    finally:
        os.close(fd)
    meta = _unpacked(footer, raw)
    facts = (name, info.st_ino, info.st_size, footer.data_bytes, footer.sealed)
    return LeftoverSegment(*facts, meta, footer.meta_bytes, readers)


def _readers(path: str, mode: int) -> frozenset[int]:
    """Return the other users who may open a segment, as `kernel.segment_acl` has let them in.

    Where there is a list, the bits of the group are its mask.
    """
    if mode == 0o600:
        return frozenset()
    readers = segment_acl.read(path) if mode & ~0o060 == 0o600 else None
    if readers is None:
        raise layout.NotASegment(f"it has mode {mode:04o}, and others have access")
    return readers


def _unpacked(footer: layout.Footer, raw: bytes) -> dict[str, Any]:
    try:
        return layout.unpack_meta(footer, raw)
    except layout.NotASegment:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise layout.NotASegment(f"its metadata is no msgpack: {error}") from None


def read_footer(fd: int, size: int, name: str) -> layout.Footer:
    """Return the footer of the open segment of a name, of `size` bytes.

    Raises
    ------
    NotASegment
        There is none, or it is of another name or size.
    NewerSegment
        It is one of a newer version.
    """
    if size < layout.FOOTER_BYTES or size % layout.PAGE:
        raise layout.NotASegment(f"{size} bytes are no segment")
    page = os.pread(fd, layout.FOOTER_BYTES, size - layout.FOOTER_BYTES)
    says = layout.unpack_name(page)
    if says != name:
        raise layout.NotASegment(f"it says that it is {says!r}")
    footer = layout.unpack_footer(page)
    plan = layout.of_size(footer.data_bytes, size)
    if footer.meta_offset != plan.meta_offset:
        raise layout.NotASegment("the metadata do not come after the data")
    if footer.meta_bytes > plan.meta_room:
        raise layout.NotASegment("the footer describes more than the file holds")
    if plan.meta_room > MAX_META + layout.PAGE:
        raise layout.NotASegment("it is larger than any that is made")
    return footer


def _discard(path: str, why: Exception) -> None:
    """Remove a file of this user that is no segment."""
    with contextlib.suppress(OSError):
        if os.lstat(path).st_uid == os.geteuid():
            os.unlink(path)
            log.warning("%s is no segment (%s): removed", path, why)
