"""Whether a file is still the one it was: its path, inode, size and times.

They are compared before and after a file is read: only if they are the same was one state of it
read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

from arrayd.errors import AccessDenied, SourceNotFound
from arrayd_server.loaders.validation import os_errors

FileIdentity = tuple[str, int, int, int, int, int]
"""Real path, device, inode, size, mtime and ctime (ns) of a file: another means another block."""

NamedIdentity = tuple[str, FileIdentity | None]
"""A file by the name under which it was looked for, as it was; None: not there."""

TICK = 20_000_000
"""Nanoseconds in which two writes may leave one time stamp: two ticks of 10 ms (HZ=100)."""


def identity(path: str) -> FileIdentity:
    """Return the `FileIdentity` of a file now.

    Raises
    ------
    SourceNotFound, AccessDenied, BadFile
    """
    with os_errors(path):
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except ValueError as error:  # a NUL byte, a lone surrogate
            raise SourceNotFound(f"{path!r}: no file can have this name ({error}).") from None
        try:
            stat = os.fstat(fd)
            real = real_path(path, fd)
        finally:
            os.close(fd)
    return real, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def real_path(path: str, fd: int) -> str:
    """Return the real path of an open file: one call of the kernel, not one for each folder."""
    real = os.readlink(f"/proc/self/fd/{fd}")
    # The kernel marks what it cannot name: a file that was just removed, or of another root.
    return real if real[:1] == "/" and not real.endswith(" (deleted)") else os.path.realpath(path)


def identities(paths: Iterable[str]) -> list[NamedIdentity]:
    """Return the identities of what a file refers to, be it there or not."""
    found: list[NamedIdentity] = []
    for path in paths:
        try:
            found.append((path, identity(path)))
        except (SourceNotFound, AccessDenied):
            found.append((path, None))
    return found


def settled_identities(paths: Iterable[str]) -> list[NamedIdentity]:
    """Return `identities` when the latest write is long enough ago; see `settled_identity`."""
    names = list(paths)
    found = identities(names)
    stamps = [stamp for _, one in found if one is not None for stamp in one[4:]]
    return identities(names) if stamps and wait_past(max(stamps)) else found


def unchanged(then: Sequence[Any] | None, now: FileIdentity | None, *, growing: bool) -> bool:
    """Say whether a file is the one it was.

    Parameters
    ----------
    then
        Its identity, as it comes from the wire; None: it was not there.
    growing
        Its writer may have added to it (SWMR).
    """
    if then is None or now is None:
        return then is None and now is None
    if not growing:
        return tuple(then) == now
    return tuple(then[:3]) == now[:3] and then[3] <= now[3]


def settled_identity(path: str) -> FileIdentity:
    """Return `identity` of a file, after a moment's wait if it was written just now.

    Before 6.13 the kernel stamps files with the time of its last tick, which is up to 10 ms
    old, and so do many file systems after it: a write in the tick of the write before, that
    leaves the size, changes nothing that `stat` shows, and a block read in between would pass
    for the file for ever. This is git's racy index entry (Documentation/technical/racy-git.txt,
    which compares the entry's time with the index's). Once the tick is over, whatever is
    written later has a later stamp, and what was written before is read.

    Waited for is once, and no more than `TICK` past the stamp. A stamp a second and more ahead
    of the clock is no tick: the clock was set back, or the file server's differs. A write
    replaces it by another.

    Raises
    ------
    SourceNotFound, AccessDenied, BadFile
    """
    found = identity(path)
    return identity(path) if wait_past(max(found[4:])) else found


def wait_past(stamp: int) -> bool:
    """Wait until a write would be stamped later than `stamp`; say whether that took any time."""
    left = stamp + TICK - time.time_ns()
    if not 0 < left < 1_000_000_000 + TICK:
        return False
    time.sleep(left / 1e9)
    return True
