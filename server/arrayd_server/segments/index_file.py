"""`IndexFile`: the writer's side of the index; `arrayd.wire.index` has the layout and its theory.

The file is written with ``pwrite`` into pages that were reserved before: a full /dev/shm costs the
index an entry, never the daemon its life.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from arrayd.wire import index
from arrayd.wire.index import EMPTY, HEADER, KEY_BYTES, REMOVED, SLOT, SLOTS_AT

FEWEST_SLOTS = 512
LEAST_ROOM = 32 << 10
"""Bytes for more entries in a new file, besides as many as there are: each takes some 200."""


class IndexFull(Exception):
    """The file has no room for another entry: write a larger one."""


class IndexFile:
    """One file of the index, from its making until it is closed for another.

    Parameters
    ----------
    path
        Where readers look for it. It appears there at once and whole, with its first entries.
    entries
        Key to packed entry of all blocks.

    Raises
    ------
    OSError
        There is no room for it.
    """

    def __init__(self, path: str, entries: Mapping[bytes, bytes]) -> None:
        self.path = path
        self.slots = FEWEST_SLOTS
        while self.slots < 2 * len(entries):
            self.slots *= 2
        heap = 2 * sum(map(len, set(entries.values()))) + LEAST_ROOM
        self._used = 0  # slots that are not empty; a removed key uses its slot
        self._latest: tuple[bytes, int] = (b"", 0)  # an entry and its place
        self._end = SLOTS_AT + self.slots * SLOT.size
        self.size = self._end + heap
        temporary = f"{path}.new"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(temporary, flags, 0o600)
        try:
            os.posix_fallocate(self._fd, 0, self.size)
            os.pwrite(self._fd, HEADER.pack(index.MAGIC, index.VERSION, 0, self.slots), 0)
            for key, packed in sorted(entries.items(), key=lambda item: item[1]):
                self.set(key, packed)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            os.close(self._fd)
            raise

    @property
    def in_place(self) -> bool:
        """Whether readers find this file under its path."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.lstat(self.path))
        except OSError:
            return False

    def set(self, key: bytes, packed: bytes) -> None:
        """Let a key, which is in no slot, have an entry.

        Raises
        ------
        IndexFull
            There is no room.
        """
        if 4 * self._used >= 3 * self.slots:
            raise IndexFull
        offset = self._placed(packed)
        slot = SLOT.pack(key, offset, len(packed), index.checksum(key, packed))
        at, found = self._free_slot(key)
        os.pwrite(self._fd, slot, at)
        self._used += found == EMPTY

    def remove(self, key: bytes) -> None:
        """Let a key have no entry."""
        at = self._slot_of(key)
        if at:
            os.pwrite(self._fd, REMOVED, at)

    def get(self, key: bytes) -> bytes | None:
        """Return the packed entry of a key."""
        at = self._slot_of(key)
        if not at:
            return None
        _, offset, length, _ = SLOT.unpack(os.pread(self._fd, SLOT.size, at))
        return os.pread(self._fd, length, offset)

    def close(self, *, remove: bool = False) -> None:
        """Send the readers away: to a newer file, or, if this one is removed, to the daemon."""
        if remove and self.in_place:
            os.unlink(self.path)
        close_old(self._fd)
        os.close(self._fd)

    def abandon(self) -> None:
        """Leave the file to readers and to the next run of the daemon."""
        os.close(self._fd)

    def _placed(self, packed: bytes) -> int:
        """Return the offset of an entry; the one written last is not written again."""
        latest, offset = self._latest
        if latest == packed:
            return offset
        offset = self._end
        if offset + len(packed) > self.size:
            raise IndexFull
        os.pwrite(self._fd, packed, offset)
        self._end += len(packed)
        self._latest = (packed, offset)
        return offset

    def _slot_of(self, key: bytes) -> int:
        """Return the offset of the slot of a key; 0: it has none."""
        number = index.first_slot(key, self.slots)
        for _ in range(self.slots):
            at = SLOTS_AT + number * SLOT.size
            found = os.pread(self._fd, KEY_BYTES, at)
            if found == key:
                return at
            if found == EMPTY:
                break
            number = (number + 1) & (self.slots - 1)
        return 0

    def _free_slot(self, key: bytes) -> tuple[int, bytes]:
        """Return the offset of the first slot for a key, and what stands there instead of one."""
        number = index.first_slot(key, self.slots)
        while True:
            at = SLOTS_AT + number * SLOT.size
            found = os.pread(self._fd, KEY_BYTES, at)
            if found in (EMPTY, REMOVED):
                return at, found
            number = (number + 1) & (self.slots - 1)


def close_old(fd: int) -> None:
    """Mark a file as closed, so that its readers look for another."""
    with contextlib.suppress(OSError):
        os.pwrite(fd, b"\1\0\0\0", index.CLOSED_AT)


def take_over(path: str) -> int:
    """Return a descriptor of the file that an earlier run has left; -1: there is none.

    It goes on serving its readers, until it is closed for the one of this run.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags)
    except OSError:
        return -1
