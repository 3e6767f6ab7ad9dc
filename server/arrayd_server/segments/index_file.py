"""`IndexFile`: the writer's side of the index; `arrayd.wire.index` has the layout and its theory.

The file is written with ``pwrite`` into pages that were reserved before: a full /dev/shm costs the
index an entry, never the daemon its life. What stands in the slots the writer remembers, for to
look takes a call of the kernel each time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from arrayd.wire import index
from arrayd.wire.index import EMPTY, HEADER, KEY_BYTES, REMOVED, SLOT, SLOTS_AT, checksum

FEWEST_SLOTS = 2048
LEAST_ROOM = 128 << 10
"""Bytes for more entries in a new file, besides twice as many as there are: each takes some 200."""


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
        while self.slots < 3 * len(entries):
            self.slots *= 2
        heap = 3 * sum(map(len, set(entries.values()))) + LEAST_ROOM
        self._keys = bytearray(self.slots * KEY_BYTES)  # as the file has them
        self._used = 0  # slots that are not empty; a removed key uses its slot
        self._end = SLOTS_AT + self.slots * SLOT.size
        self.size = self._end + heap
        temporary = f"{path}.new"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(temporary, flags, 0o600)
        try:
            os.posix_fallocate(self._fd, 0, self.size)
            os.pwrite(self._fd, HEADER.pack(index.MAGIC, index.VERSION, 0, self.slots), 0)
            self._fill(entries)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            os.close(self._fd)
            raise

    def _fill(self, entries: Mapping[bytes, bytes]) -> None:
        """Write the first entries, equal ones once: for there may be a hundred thousand."""
        table, places = bytearray(self.slots * SLOT.size), dict[bytes, int]()
        for key, packed in entries.items():
            offset = places.get(packed)
            if offset is None:
                offset = places[packed] = self._end
                self._end += len(packed)
            number, _ = self._slot_of(key)
            self._note(number, key)
            SLOT.pack_into(table, number * SLOT.size, *_slot(key, packed, offset))
        os.pwrite(self._fd, b"".join(places), SLOTS_AT + len(table))
        os.pwrite(self._fd, table, SLOTS_AT)
        self._used = len(entries)

    @property
    def in_place(self) -> bool:
        """Whether readers find this file under its path."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.lstat(self.path))
        except OSError:
            return False

    def update(self, news: Mapping[bytes, bytes | None]) -> None:
        """Let keys have these packed entries, instead of what they had; None: none.

        Raises
        ------
        IndexFull
            There is no room for all. Nothing was changed.
        """
        places, end = dict[bytes, int](), self._end
        for packed in news.values():
            if packed is not None and packed not in places:
                places[packed] = end
                end += len(packed)
        coming = sum(packed is not None for packed in news.values())
        if end > self.size or 4 * (self._used + coming) > 3 * self.slots:
            raise IndexFull
        numbers = {key: self._prepare(key, coming=news[key] is not None) for key in news}
        if places:
            os.pwrite(self._fd, b"".join(places), self._end)
            self._end = end
        for key, packed in news.items():
            if packed is not None:
                slot = SLOT.pack(key, places[packed], len(packed), checksum(key, packed))
                os.pwrite(self._fd, slot, SLOTS_AT + numbers[key] * SLOT.size)

    def _prepare(self, key: bytes, *, coming: bool) -> int:
        """Let a key have no entry, if it has one; return its slot, which is kept if one comes."""
        number, found = self._slot_of(key)
        if found == key:
            os.pwrite(self._fd, REMOVED, SLOTS_AT + number * SLOT.size)
        if coming:
            self._note(number, key)
            self._used += found == EMPTY
        elif found == key:
            self._note(number, REMOVED)
        return number

    def entries(self) -> dict[bytes, bytes]:
        """Return the packed entries of all keys that have one, but for what a stranger damaged."""
        data, found = os.pread(self._fd, self._end, 0), {}
        for slot in SLOT.iter_unpack(data[SLOTS_AT : SLOTS_AT + self.slots * SLOT.size]):
            key, offset, length, _ = slot
            packed = data[offset : offset + length]
            if key not in (EMPTY, REMOVED) and slot == _slot(key, packed, offset):
                found[key] = packed
        return found

    def _note(self, number: int, key: bytes) -> None:
        """Remember what stands in a slot."""
        at = number * KEY_BYTES
        self._keys[at : at + KEY_BYTES] = key

    def close(self, *, remove: bool = False) -> None:
        """Send the readers away: to a newer file, or, if this one is removed, to the daemon."""
        if remove and self.in_place:
            os.unlink(self.path)
        close_old(self._fd)
        os.close(self._fd)

    def abandon(self) -> None:
        """Leave the file to readers and to the next run of the daemon."""
        os.close(self._fd)

    def _slot_of(self, key: bytes) -> tuple[int, bytearray | bytes]:
        """Return the number of the slot that a key has, else may have, and what stands there."""
        free, number, keys = -1, index.first_slot(key, self.slots), self._keys
        for _ in range(self.slots):
            found = keys[number * KEY_BYTES : (number + 1) * KEY_BYTES]
            if found == key:
                return number, found
            if found == EMPTY:
                return (number, found) if free < 0 else (free, REMOVED)
            if found == REMOVED and free < 0:
                free = number
            number = (number + 1) & (self.slots - 1)
        return free, REMOVED


def _slot(key: bytes, packed: bytes, offset: int) -> tuple[bytes, int, int, int]:
    return key, offset, len(packed), checksum(key, packed)


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
