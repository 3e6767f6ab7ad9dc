"""Files of a benchmark: made bounded in memory, dropped from the page cache, looked for in it."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

MIB = 1 << 20
PAGE = 4096
TMPFS = "tmpfs"
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


def row_values(first: int, count: int, row_bytes: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return rows of int64 that begin with their number; the rest does not compress."""
    words = row_bytes // 8
    rows = np.random.default_rng(first).integers(0, 2**63, (count, words), np.int64)
    rows[:, 0] = np.arange(first, first + count)
    return rows


def make_npy(path: Path, rows: int, row_bytes: int) -> Path:
    """Write a .npy of `rows` rows of int64, piece by piece."""
    array = np.lib.format.open_memmap(path, "w+", np.int64, (rows, row_bytes // 8))
    step = max(1, 16 * MIB // row_bytes)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        array[first : first + count] = row_values(first, count, row_bytes)
    array.flush()
    return path


def drop_cache(paths: Iterable[Path]) -> None:
    """Drop files from the page cache: fsync, then ``posix_fadvise(DONTNEED)``."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def cached_bytes(paths: Iterable[Path]) -> int:
    """Return how many bytes of these files lie in the page cache (mincore)."""
    pages = 0
    for path in paths:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                continue
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
                view = np.frombuffer(mapped, np.uint8)
                there = np.zeros(-(-size // PAGE), np.uint8)
                code = _libc.mincore(view.ctypes.data, size, there.ctypes.data)
                del view
                if code:
                    raise OSError(ctypes.get_errno(), "mincore", str(path))
                pages += int((there & 1).sum())
    return pages * PAGE


def segment_bytes(endpoint: str) -> int:
    """Return the memory of a daemon's segments in /dev/shm."""
    from arrayd_server.segments.scope import Scope

    family = Scope(endpoint).family
    total = 0
    for entry in os.scandir("/dev/shm"):
        if entry.name.startswith(family) and entry.is_file():
            with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
                total += entry.stat().st_blocks * 512
    return total


def file_system(folder: Path) -> tuple[str, str]:
    """Return device and kind of the file system that holds a folder."""
    best = ("", "?", "?")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, point, kind, *_ = line.split()
        if folder.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, device, kind)
    return best[1:]
