"""`BlockIndex`: the reader of the index; `arrayd.wire.index` has the layout and its theory."""

from __future__ import annotations

import time

from arrayd.session.request import FileRequest
from arrayd.system.file_view import FileView
from arrayd.wire import index
from arrayd.wire.grant import Grant
from arrayd.wire.index import EMPTY, HEADER, SLOT, SLOTS_AT

_UNPACK, _SIZE = SLOT.unpack_from, SLOT.size

_RETRY = 1.0  # seconds between two attempts to open a file that is not there


class BlockIndex:
    """The index of one daemon, as this process sees it; for use by many threads.

    Parameters
    ----------
    path
        Of the file; the daemon's answer to a hello has it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._table: _Table | None = None
        self._retry_at = 0.0

    def find(self, key: bytes, *, window: bool = False) -> Grant | None:
        """Return what the index grants a request, maybe a `window` of; None: ask the daemon."""
        table = self._table
        if table is None or table.view.data[index.CLOSED_AT]:
            table = self._open()
            if table is None:
                return None
        packed = table.find(key)
        return None if packed is None else index.unpacked_grant(packed, window)

    def find_for(self, request: FileRequest, key: bytes) -> Grant | None:
        """Return the same for a request with that key: what it means, or has its rows."""
        grant = self.find(key)
        if grant is None and request.source.rows is not None:
            grant = self.find(request.whole().key(), window=True)
        return grant

    def _open(self) -> _Table | None:
        """Return the latest file; None: there is none, or one that only a newer arrayd reads."""
        self._table = None
        now = time.monotonic()
        if now < self._retry_at:
            return None
        try:
            table = _Table(FileView(self.path))
        except (OSError, ValueError):
            self._retry_at = now + _RETRY
            return None
        self._table = table
        return table


class _Table:
    """The hash table in one file."""

    def __init__(self, view: FileView) -> None:
        magic, version, closed, slots = HEADER.unpack_from(view.data)
        sound = magic == index.MAGIC and version == index.VERSION and not closed
        fits = slots > 0 and slots & (slots - 1) == 0
        if not (sound and fits and SLOTS_AT + slots * SLOT.size <= len(view.data)):
            raise ValueError("no index that is in use")
        self.view = view
        self._slots = slots

    def find(self, key: bytes) -> bytes | None:
        data, slots = self.view.data, self._slots
        number = index.first_slot(key, slots)
        for _ in range(slots):
            found, offset, length, checksum = _UNPACK(data, SLOTS_AT + number * _SIZE)
            if found == key:
                packed = bytes(data[offset : offset + length])
                return packed if index.checksum(key, packed) == checksum else None
            if found == EMPTY:
                return None
            number = (number + 1) & (slots - 1)
        return None
