"""The bare loop: rows of a file by ``pread`` in many threads, in the order of a stream's windows.

In C where there is a compiler, in Python else, which is slower: the interpreter's lock.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.samples.order import EpochOrder
from arrayd.samples.selection import Rows
from arrayd_server.core.windows import Windows

Int64 = npt.NDArray[np.int64]

HEADER = 128
"""Bytes before the first row of a .npy, as NumPy writes it for a short header."""

THREADS = 32


def windows_of(rows: int, slots: int, batch: int) -> list[tuple[int, int]]:
    """Return the windows of an epoch for a consumer that is never behind."""
    plan, found = Windows(rows, slots, batch, 0), []
    while window := plan.plan(plan.head, rows):
        found.append(window)
        plan.read(*window)
    return found


def reads_of(rows: int, size: int, slots: int, batch: int, seed: int) -> Int64:
    """Return offset and position of each row, sorted by offset in each window; ``(rows, 2)``."""
    order = EpochOrder(Rows(rows), seed, 0)
    pieces = []
    for start, stop in windows_of(rows, slots, batch):
        ids = order.window(start, stop).view(np.int64)
        sort = np.argsort(ids)
        pieces.append(np.stack([HEADER + ids[sort] * size, start + sort], axis=1))
    return np.concatenate(pieces)


@dataclass
class BareLoop:
    """The loop, compiled in a folder.

    Parameters
    ----------
    folder
        For the program and the offsets.
    """

    folder: Path

    def __post_init__(self) -> None:
        self.program = self.folder / "bare"
        compiler = shutil.which("cc")
        source = Path(__file__).with_name("bare.c")
        self.compiled = compiler is not None
        if compiler is not None:
            command = [compiler, "-O2", "-o", self.program, source, "-lpthread"]
            subprocess.run(list(map(str, command)), check=True)

    @property
    def name(self) -> str:
        """What it is."""
        return f"pread, {THREADS} threads in {'C' if self.compiled else 'Python'}"

    def run(self, path: Path, reads: Int64, size: int, slots: int, *, direct: bool) -> Any:
        """Read rows; return seconds, and seconds of CPU.

        Parameters
        ----------
        reads
            What `reads_of` returned, or a part of it.
        size, slots
            Bytes of a row, and rows of the ring they are read into.
        direct
            Past the page cache (O_DIRECT); in C only.
        """
        if not self.compiled:
            return _in_python(path, reads, size, slots)
        with tempfile.NamedTemporaryFile(dir=self.folder) as file:
            file.write(np.ascontiguousarray(reads, "<i8").tobytes())
            file.flush()
            command = [self.program, path, file.name, size, slots, THREADS, int(direct)]
            done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=True)
        return tuple(map(float, done.stdout.split()))


def _in_python(path: Path, reads: Int64, size: int, slots: int) -> tuple[float, float]:
    ring = memoryview(bytearray(slots * size))
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    def work(part: list[list[int]]) -> None:
        for offset, position in part:
            at = position % slots * size
            os.preadv(fd, [ring[at : at + size]], offset)

    parts = [reads[number::THREADS].tolist() for number in range(THREADS)]
    used, began = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, parts))
    seconds = time.perf_counter() - began
    os.close(fd)
    return seconds, time.process_time() - used


def one_by_one(path: Path, reads: Int64, size: int) -> float:
    """Return the seconds that one thread takes to read rows, one after the other."""
    buffer = bytearray(size)
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    began = time.perf_counter()
    for offset in reads[:, 0].tolist():
        os.preadv(fd, [buffer], offset)
    seconds = time.perf_counter() - began
    os.close(fd)
    return seconds
