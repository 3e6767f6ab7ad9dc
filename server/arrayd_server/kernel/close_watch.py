"""Notice without polling that the last mapping of a segment ends, or that its name is removed.

An inotify watch on the *directory* /dev/shm: the kernel reports IN_CLOSE for the name
under which a file was opened when its last descriptor and mapping are gone, even after
that name was unlinked. The daemon itself opens through its own directory, so its own closes
are not reported. Closes are reported only while a segment is waited for; removed names always:
a name that the resource tracker of Python < 3.13 unlinks, when a process ends that merely
attached, is linked again at once.

Of names that are none of ours the kernel reports as well, and anybody may make and remove files in
/dev/shm all the time. They are counted, so that whoever reads can pause.
"""

from __future__ import annotations

import ctypes
import logging
import os
import struct
from dataclasses import dataclass, field

from arrayd.errors import DaemonError

log = logging.getLogger(__name__)

_IN_CLOSE = 0x8 | 0x10
_IN_GONE = 0x200 | 0x40  # deleted, or renamed
_IN_Q_OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")
_READ = 1 << 14  # bytes of some 400 events

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class NameEvents:
    """Names whose files were closed, and names that were removed."""

    closed: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    overflow: bool = False  # the kernel dropped some: ask about all
    others: int = 0  # events of names that are none of ours


class CloseWatch:
    """Waits for the last close of some files in a directory, and for removed names.

    Parameters
    ----------
    ours
        What the names of our files begin with.
    """

    def __init__(self, directory: str, ours: str = "") -> None:
        self.names: set[str] = set()
        self._ours = os.fsencode(ours)
        self._directory = os.fsencode(directory)
        self._fd = _opened()
        self._reports_closes = False
        self._set_events(_IN_GONE)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._fd

    def add(self, name: str) -> None:
        """Wait for the last close of `name`; if the kernel cannot watch, poll those in `names`."""
        self.names.add(name)
        if not self._reports_closes:
            self._reports_closes = self._set_events(_IN_GONE | _IN_CLOSE)

    def discard(self, name: str) -> None:
        """Stop waiting for its last close."""
        self.names.discard(name)
        if not self.names and self._reports_closes:
            self._reports_closes = False
            self._set_events(_IN_GONE)

    def read(self) -> NameEvents:
        """Return what happened since the last call; whether a file is in use, leases tell."""
        found = NameEvents()
        try:
            events = os.read(self._fd, _READ)
        except BlockingIOError:
            return found
        offset = 0
        while offset < len(events):
            _, mask, _, length = _EVENT.unpack_from(events, offset)
            offset += _EVENT.size + length
            if mask & _IN_Q_OVERFLOW:
                found.overflow = True
                continue
            if not events.startswith(self._ours, offset - length):
                found.others += 1
                continue
            name = os.fsdecode(events[offset - length : offset].rstrip(b"\0"))
            if mask & _IN_GONE:
                found.gone.add(name)
            else:
                found.closed.add(name)
        found.closed = set(self.names) if found.overflow else found.closed & self.names
        return found

    def _set_events(self, mask: int) -> bool:
        """Set which events are reported; say whether the kernel agrees."""
        if _libc.inotify_add_watch(self._fd, self._directory, mask) >= 0:
            return True
        log.warning("no watch on %s: %s", self._directory, os.strerror(ctypes.get_errno()))
        return False

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
