"""Hear of it when the last mapping of a segment goes, without polling.

An inotify watch on the *directory* /dev/shm: the kernel reports IN_CLOSE for the name
under which a file was opened when its last descriptor and mapping are gone, even after
that name was unlinked. The daemon itself opens through its own directory, so it never
wakes itself. The watch stands only while somebody is waited for.
"""

from __future__ import annotations

import ctypes
import logging
import os
import struct

from arrayd.errors import DaemonError

log = logging.getLogger(__name__)

_IN_CLOSE = 0x8 | 0x10
_IN_Q_OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """The names in a directory whose last close is waited for."""

    def __init__(self, directory: str) -> None:
        self.names: set[str] = set()
        self._directory = os.fsencode(directory)
        self._fd = _opened()
        self._wd: int | None = None

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._fd

    def add(self, name: str) -> None:
        """Wait for the last close of `name`; without a watch `names` is to be asked about."""
        self.names.add(name)
        if self._wd is None:
            wd = _libc.inotify_add_watch(self._fd, self._directory, _IN_CLOSE)
            if wd >= 0:
                self._wd = wd
            else:
                log.warning("no watch on %s: %s", self._directory, os.strerror(ctypes.get_errno()))

    def discard(self, name: str) -> None:
        """Wait for it no more."""
        self.names.discard(name)
        if not self.names and self._wd is not None:
            _libc.inotify_rm_watch(self._fd, self._wd)
            self._wd = None

    def closed(self) -> set[str]:
        """Return the awaited names that were closed since the last call: ask the kernel."""
        try:
            events = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return set()
        names: set[str] = set()
        offset = 0
        while offset < len(events):
            _, mask, _, length = _EVENT.unpack_from(events, offset)
            if mask & _IN_Q_OVERFLOW:
                return set(self.names)  # some events were dropped: ask about all
            offset += _EVENT.size + length
            names.add(os.fsdecode(events[offset - length : offset].rstrip(b"\0")))
        return names & self.names

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


def _opened() -> int:
    fd = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        code = ctypes.get_errno()
        raise DaemonError(
            f"The kernel gives no inotify instance ({os.strerror(code)}): this user's processes "
            "have as many as fs.inotify.max_user_instances allows. Raise it with sysctl."
        )
    return fd
