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
            number, _ = self._free_slot(key)
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
        for key in news:
            number = self._slot_of(key)
            if number >= 0:
                self._write(number, REMOVED)
        if places:
            os.pwrite(self._fd, b"".join(places), self._end)
            self._end = end
        for key, packed in news.items():
            if packed is not None:
                number, was_empty = self._free_slot(key)
                self._write(number, SLOT.pack(*_slot(key, packed, places[packed])))
                self._used += was_empty

    def entries(self) -> dict[bytes, bytes]:
        """Return the packed entries of all keys that have one, but for what a stranger damaged."""
        data, found = os.pread(self._fd, self._end, 0), {}
        for slot in SLOT.iter_unpack(data[SLOTS_AT : SLOTS_AT + self.slots * SLOT.size]):
            key, offset, length, _ = slot
            packed = data[offset : offset + length]
            if key not in (EMPTY, REMOVED) and slot == _slot(key, packed, offset):
                found[key] = packed
        return found

    def _write(self, number: int, slot: bytes) -> None:
        """Write a slot, or the key in it, and remember what stands there."""
        os.pwrite(self._fd, slot, SLOTS_AT + number * SLOT.size)
        self._note(number, slot[:KEY_BYTES])

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

    def _key(self, number: int) -> bytearray:
        """Return what stands in a slot."""
        at = number * KEY_BYTES
        return self._keys[at : at + KEY_BYTES]

    def _slot_of(self, key: bytes) -> int:
        """Return the number of the slot of a key; -1: it has none."""
        number = index.first_slot(key, self.slots)
        for _ in range(self.slots):
            found = self._key(number)
            if found == key:
                return number
            if found == EMPTY:
                break
            number = (number + 1) & (self.slots - 1)
        return -1

    def _free_slot(self, key: bytes) -> tuple[int, bool]:
        """Return the number of the first slot for a key, and whether none was ever there."""
        number = index.first_slot(key, self.slots)
        while True:
            found = self._key(number)
            if found in (EMPTY, REMOVED):
                return number, found == EMPTY
            number = (number + 1) & (self.slots - 1)


def _slot(key: bytes, packed: bytes, offset: int) -> tuple[bytes, int, int, int]:
    return key, offset, len(packed), index.checksum(key, packed)


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
