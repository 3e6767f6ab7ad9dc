"""Whether this process has written to a private mapping (proc_pid_pagemap(5)).

A page that was only read belongs to the file; the first write makes a copy that belongs to none.
"""

from __future__ import annotations

import mmap

import numpy as np

_ENTRY = np.dtype("=u8")  # one for each page
_PRESENT, _SWAPPED, _OF_A_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))
_PAGES = 1 << 16  # looked at in one go: 256 MiB, an entry of 8 bytes each


def written(address: int, nbytes: int) -> bool:
    """Return whether any page of a private mapping of a file was written to; True if unknown."""
    first, last = address // mmap.PAGESIZE, -(-(address + nbytes) // mmap.PAGESIZE)
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            file.seek(first * _ENTRY.itemsize)
            for start in range(first, last, _PAGES):
                size = min(_PAGES, last - start) * _ENTRY.itemsize
                raw = file.read(size)
                if len(raw) < size or _copied(np.frombuffer(raw, _ENTRY)):
                    return True
    except OSError:
        return True
    return False


def _copied(entries: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> bool:
    """Return whether a page is a private copy: in memory but of no file, or swapped out."""
    own = (entries & (_PRESENT | _OF_A_FILE)) == _PRESENT
    return bool(own.any() or (entries & _SWAPPED).any())
