"""Write a piece of a segment while other loaders write others: each loader a core, not all one.

Theory of operation
-------------------
A system call that writes to a file of tmpfs holds the lock of that file (``inode_lock``) while it
copies. So with `sendfile` or `pwrite` alone two loaders of one array are no faster than one: the
second spends its time at the lock. A mapping has no such lock, but a fresh page costs twice as much
through it. So one loader at a time goes by system calls, the one that has the segment's ``flock``,
and whoever does not get that at once writes its piece through a mapping. In MiB/s:

========================  ===========  ==============
two loaders, two cores    fresh pages  recycled pages
========================  ===========  ==============
`sendfile`                1,770        3,100
`pread`, then `pwrite`    2,140        3,560
mapping                   1,920        4,450
this                      2,470        4,840
(one loader, `sendfile`)  1,930        3,400
========================  ===========  ==============

The pages of the mapping are had first (``MADV_POPULATE_WRITE``, Linux 5.14): a full /dev/shm is an
error then, and the system call says which. Else a write would end this process (SIGBUS).
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator

_POPULATE_WRITE = 23  # Python's mmap has no name for it


def put(fd: int, start: int, data: memoryview) -> None:
    """Write bytes from `start` on.

    Raises
    ------
    OSError
        ENOSPC or EDQUOT: there is no page for them.
    """
    if not data:
        return
    with turn(fd) as ours:
        if ours:
            _write(fd, start, data)
            return
    with pages(fd, start, len(data)) as there:
        if there is None:
            _write(fd, start, data)
        else:
            there[:] = data


def _write(fd: int, start: int, data: memoryview) -> None:
    while data:
        done = os.pwrite(fd, data, start)
        data, start = data[done:], start + done


@contextlib.contextmanager
def turn(fd: int) -> Iterator[bool]:
    """Say whether it is this process's turn to write by system calls; it is until the end."""
    ours = False
    with contextlib.suppress(OSError):  # another has it
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = True
    try:
        yield ours
    finally:
        if ours:
            fcntl.flock(fd, fcntl.LOCK_UN)


@contextlib.contextmanager
def pages(fd: int, start: int, length: int) -> Iterator[memoryview | None]:
    """Give some bytes of a segment, one at least, whose pages are there; None: it cannot be."""
    begin = start - start % mmap.ALLOCATIONGRANULARITY
    mapping = _mapped(fd, begin, start + length - begin)
    if mapping is None:
        yield None
        return
    with mapping, memoryview(mapping) as whole, whole[start - begin :] as view:
        yield view


def _mapped(fd: int, begin: int, length: int) -> mmap.mmap | None:
    try:
        mapping = mmap.mmap(fd, length, offset=begin)
    except (OSError, ValueError):  # too many mappings; nothing to map, or beyond the end
        return None
    try:
        mapping.madvise(_POPULATE_WRITE)
    except OSError:  # EFAULT: there is no page; EINVAL: an older kernel
        mapping.close()
        return None
    return mapping
