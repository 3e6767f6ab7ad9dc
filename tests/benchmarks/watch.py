"""Which files are opened or read, as the kernel tells (inotify): by whomever, without a tracer."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Self

IN_ACCESS, IN_OPEN = 0x1, 0x20
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Counts what happens to files, or to those in folders, inside a ``with``.

    Parameters
    ----------
    paths
        Files or folders.
    mask
        Of `IN_OPEN` and `IN_ACCESS`. Equal events that follow each other may be counted as one; 0
        is exact.

    Attributes
    ----------
    events : int
        Known after the ``with``. The kernel keeps some 16,000 and then tells of one more.
    """

    def __init__(self, paths: Iterable[Path], mask: int) -> None:
        self._paths = list(paths)
        self._mask = mask
        self.events = 0

    def __enter__(self) -> Self:
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for path in self._paths:
            if _libc.inotify_add_watch(self._fd, os.fsencode(path), self._mask) < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(path))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            while data := os.read(self._fd, 1 << 16):
                at = 0
                while at < len(data):
                    length = struct.unpack_from("iIII", data, at)[3]
                    at += 16 + length
                    self.events += 1
        except BlockingIOError:
            pass
        finally:
            os.close(self._fd)
