"""Segments in /dev/shm: make, seal, ask the kernel, unlink, adopt.

Each has two hard links: the public ``/dev/shm/NAME`` that clients open, and one in the
daemon's own directory ``/dev/shm/arrayd-<uid>-<scope>/`` (0700). The second is the spare:
the resource tracker of Python < 3.13 unlinks what a process merely attached, and logind
removes a user's segments at logout; `republish` links the same inode back. The daemon
opens through the spare alone, which also keeps its own opens out of the sight of the
watch on /dev/shm (`watch.py`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from arrayd import layout
from arrayd.errors import NoRoom
from arrayd.units import format_bytes
from arrayd_server import leases

RESERVE_STEP = 64 << 20
"""Bytes reserved at a time, so that a failure gives up soon."""


class Outcome(Enum):
    """What became of an unlink."""

    REFUSED = "somebody maps it, so it stays"
    LEAVING = "unlinked, but somebody maps it"
    GONE = "unlinked, and nobody maps it"


@dataclass(frozen=True, slots=True)
class Found:
    """A segment that an earlier run left."""

    name: str
    size: int
    sealed: bool
    meta: dict[str, Any]


class Segments:
    """The segments of one scope.

    Parameters
    ----------
    directory
        The daemon's own, in /dev/shm; exists.
    family
        What the names of the scope begin with: ``arrayd-<scope>-``.
    """

    def __init__(self, directory: str, family: str) -> None:
        self.directory = directory
        self.family = family
        self.leases = leases.available(directory)
        self._leaving: dict[str, int] = {}  # unlinked but mapped: all we have is a descriptor

    # ---- making --------------------------------------------------------------------------

    def make(self, name: str, plan: layout.Plan, meta: dict[str, Any]) -> None:
        """Make an unsealed segment of the planned size; its pages come as they are written.

        Raises
        ------
        NoRoom
            /dev/shm has no inode or page left.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self._spare(name), flags, 0o600)
            try:
                os.ftruncate(fd, plan.size)
                os.posix_fallocate(fd, plan.meta_offset, plan.size - plan.meta_offset)
                _write_end(fd, name, plan, meta, sealed=False)
            finally:
                os.close(fd)
            os.link(self._spare(name), self._public(name))
        except OSError as error:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._spare(name))
            raise self.no_room(plan.size, error) from None

    def reserve(self, name: str, nbytes: int) -> None:
        """Have the kernel give the pages of the first `nbytes` now; slow, 90 ms per GiB.

        ``ftruncate`` alone would turn a full /dev/shm into SIGBUS in whoever writes.

        Raises
        ------
        NoRoom
            The kernel has no more pages to give.
        """
        fd = os.open(self._spare(name), os.O_RDWR | os.O_CLOEXEC)
        try:
            for start in range(0, nbytes, RESERVE_STEP):
                os.posix_fallocate(fd, start, min(RESERVE_STEP, nbytes - start))
        except OSError as error:
            raise self.no_room(nbytes, error) from None
        finally:
            os.close(fd)

    def no_room(self, nbytes: int, error: OSError) -> NoRoom:
        """Return the error for a segment that could not be made."""
        facts = os.statvfs(self.directory)
        free = facts.f_bavail * facts.f_frsize
        return NoRoom(
            f"{layout.SHM} gave no room for {format_bytes(nbytes)} "
            f"({errno.errorcode.get(error.errno or 0, error)}): {format_bytes(free)} are free. "
            "Something else fills it (`df /dev/shm`), or enlarge it "
            "(`mount -o remount,size=… /dev/shm`).",
            needed=nbytes,
            free=free,
        )

    def seal(self, name: str, plan: layout.Plan, meta: dict[str, Any]) -> bool:
        """Write the final footer if no writer is left; say whether that is so."""
        if self.leases:
            fd = os.open(self._spare(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                if not leases.no_writer(fd):
                    return False
            finally:
                os.close(fd)
        self.describe(name, plan, meta)
        return True

    def describe(self, name: str, plan: layout.Plan, meta: dict[str, Any]) -> None:
        """Write the metadata and the footer of a sealed segment."""
        fd = os.open(self._spare(name), os.O_RDWR | os.O_CLOEXEC)
        try:
            _write_end(fd, name, plan, meta, sealed=True)
        finally:
            os.close(fd)

    # ---- asking --------------------------------------------------------------------------

    def mapped(self, name: str) -> bool:
        """Say whether anybody has a segment open or mapped; False where leases are off."""
        if not self.leases:
            return False
        if name in self._leaving:
            return not leases.alone(self._leaving[name])
        try:
            fd = os.open(self._spare(name), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not leases.alone(fd)
        finally:
            os.close(fd)

    def republish(self, name: str) -> bool:
        """Link a public name back that somebody removed; False if the spare is gone too."""
        try:
            os.link(self._spare(name), self._public(name))
        except FileExistsError:
            pass
        except FileNotFoundError:
            return False
        return True

    # ---- ending --------------------------------------------------------------------------

    def unlink(self, name: str, *, force: bool) -> tuple[Outcome, int]:
        """Remove both links of a segment, unless somebody maps it and `force` is not set.

        Returns
        -------
        outcome, fd
            `fd` is for the caller to close where the outcome is GONE (closing frees the
            pages, 40 to 80 ms per GiB: not on the loop); else -1.
        """
        try:
            fd = os.open(self._spare(name), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            self._remove_links(name)
            return Outcome.GONE, -1
        if not force and self.leases and not leases.alone(fd):
            os.close(fd)
            return Outcome.REFUSED, -1
        self._remove_links(name)
        # Asked again: between the test and the unlink somebody may have opened the name.
        if self.leases and not leases.alone(fd):
            self._leaving[name] = fd
            return Outcome.LEAVING, -1
        return Outcome.GONE, fd

    def is_leaving(self, name: str) -> bool:
        """Say whether a segment is unlinked but still mapped."""
        return name in self._leaving

    def left(self, name: str) -> int | None:
        """Return the descriptor of a leaving segment, to be closed, once nobody maps it."""
        fd = self._leaving.get(name)
        if fd is None or not leases.alone(fd):
            return None
        return self._leaving.pop(name)

    def close(self) -> None:
        """Give up the descriptors of leaving segments; the kernel frees them by itself."""
        while self._leaving:
            os.close(self._leaving.popitem()[1])

    def _remove_links(self, name: str) -> None:
        for path in (self._public(name), self._spare(name)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    # ---- adopting ------------------------------------------------------------------------

    def scan(self) -> Iterator[Found]:
        """Yield the segments of the scope that an earlier run left; remove what is none."""
        names = {e.name for e in os.scandir(self.directory) if e.name.startswith(self.family)}
        names |= {e.name for e in os.scandir(layout.SHM) if e.name.startswith(self.family)}
        for name in sorted(names):
            try:
                found = self._examine(name)
            except (layout.NotASegment, OSError, KeyError, TypeError, ValueError):
                self._discard(name)
                continue
            yield found

    def _examine(self, name: str) -> Found:
        if not os.path.lexists(self._spare(name)):
            self._check_ours(self._public(name))
            os.link(self._public(name), self._spare(name), follow_symlinks=False)
        self._check_ours(self._spare(name))
        fd = os.open(self._spare(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = os.fstat(fd).st_size
            footer = read_footer(fd, size)
            if footer.name != name:
                raise layout.NotASegment(f"{name} says that it is {footer.name}")
            raw = os.pread(fd, footer.meta_bytes, footer.meta_offset)
            meta = layout.unpack_meta(footer, raw)
        finally:
            os.close(fd)
        if not self.republish_exact(name):
            raise layout.NotASegment(f"another file stands under the name {name}")
        return Found(name, size, footer.sealed, meta)

    def republish_exact(self, name: str) -> bool:
        """Republish, and say whether the public name is the very file of the spare."""
        return self.republish(name) and os.path.samefile(self._spare(name), self._public(name))

    def _check_ours(self, path: str) -> None:
        info = os.lstat(path)
        ours = info.st_uid == os.geteuid() and stat.S_IMODE(info.st_mode) == 0o600
        if not (ours and stat.S_ISREG(info.st_mode)):
            raise layout.NotASegment(f"{path} is not a regular file of ours with mode 0600")

    def _discard(self, name: str) -> None:
        """Remove our own links of what is no segment; never touch somebody else's file."""
        with contextlib.suppress(OSError):
            os.unlink(self._spare(name))
        with contextlib.suppress(OSError):
            if os.lstat(self._public(name)).st_uid == os.geteuid():
                os.unlink(self._public(name))

    def _public(self, name: str) -> str:
        return f"{layout.SHM}/{name}"

    def _spare(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def path(self, name: str) -> str:
        """Return the path by which a loader process opens a segment."""
        return self._spare(name)


def read_footer(fd: int, size: int) -> layout.Footer:
    """Return the footer of an open segment of `size` bytes.

    Raises
    ------
    NotASegment
        There is none, or it describes another size.
    """
    if size < layout.FOOTER_BYTES or size % layout.PAGE:
        raise layout.NotASegment(f"{size} bytes are no segment")
    footer = layout.unpack_footer(os.pread(fd, layout.FOOTER_BYTES, size - layout.FOOTER_BYTES))
    end = footer.meta_offset + footer.meta_bytes
    if footer.data_bytes > footer.meta_offset or end > size - layout.FOOTER_BYTES:
        raise layout.NotASegment("the footer describes more than the file holds")
    return footer


def _write_end(
    fd: int, name: str, plan: layout.Plan, meta: dict[str, Any], *, sealed: bool
) -> None:
    raw = layout.pack_meta(meta)
    assert len(raw) <= plan.meta_room, "the metadata outgrew its place"
    os.pwrite(fd, raw, plan.meta_offset)
    footer = layout.Footer(
        name, plan.data_bytes, plan.meta_offset, len(raw), zlib.crc32(raw), sealed
    )
    os.pwrite(fd, footer.pack(), plan.size - layout.FOOTER_BYTES)
