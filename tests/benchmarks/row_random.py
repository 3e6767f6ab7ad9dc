"""Rows at random from a set larger than memory: ``python -m tests.benchmarks.row_random [GIB]``.

Beside `RowReader` stand, on the same rows in the same window-sorted order, with the file dropped
from the page cache before each: the bare loop (threads that ``os.preadv`` each row, in C where a
compiler is), and, in random order as it works, the DataLoader of torch over a `numpy.memmap` with
two workers, where torch is. The file is made beside this one's working directory and removed.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from arrayd.samples.manifest import Field, Files, Manifest
from arrayd.samples.order import EpochOrder
from arrayd.samples.selection import Rows
from arrayd_server.loaders.dataset.rows import RowReader

WINDOW = 64 << 20
"""Bytes of a window."""

WINDOWS = 3

BARE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int fd; static long n, next_, size; static long long *at; static char *out;
static void *work(void *_) {
    for (;;) {
        long i = __sync_fetch_and_add(&next_, 1);
        if (i >= n) return 0;
        if (pread(fd, out + i * size, size, at[i]) != size) abort();
    }
}
int main(int c, char **v) {
    FILE *f = fopen(v[2], "rb");
    pthread_t t[16];
    size = atol(v[3]); n = atol(v[4]);
    at = malloc(n * 8); out = malloc(n * size); memset(out, 1, n * size);
    if (fread(at, 8, n, f) != n) abort();
    fd = open(v[1], O_RDONLY); posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    for (int i = 0; i < 16; i++) pthread_create(t + i, 0, work, 0);
    for (int i = 0; i < 16; i++) pthread_join(t[i], 0);
}
"""


def drop(path: Path) -> None:
    """Have nothing of a file in the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def processor_seconds() -> float:
    """Return the time that this process and its children have used of processors."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure(name: str, path: Path, size: int, work: Callable[[], object]) -> float:
    """Run `work`, which reads `size` bytes of a file; print its speed, and return it in MB/s."""
    drop(path)
    began, used = time.perf_counter(), processor_seconds()
    work()
    seconds, used = time.perf_counter() - began, processor_seconds() - used
    speed = size / seconds / 1e6
    sys.stdout.write(f"  {name:40} {speed:8.0f} MB/s {used / size * 1e9:8.2f} CPU s/GB\n")
    sys.stdout.flush()
    return speed


def write(path: Path, shape: tuple[int, ...]) -> None:
    """Write a ``.npy`` of random bytes."""
    whole = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    step = max(1, (16 << 20) // shape[1])
    for at in range(0, shape[0], step):
        some = whole[at : at + step]
        some[:] = np.random.default_rng(at).integers(0, 256, some.shape, np.uint8)
    whole.flush()


def bare(folder: Path, path: Path, offsets: list[np.ndarray[Any, Any]], size: int) -> None:
    """Read rows by the bare loop, window after window."""
    for some in offsets:
        some.tofile(folder / "offsets")
        command = [folder / "bare", path, folder / "offsets", str(size), str(len(some))]
        subprocess.run(list(map(str, command)), check=True)


def loader(path: Path, ids: np.ndarray[Any, Any]) -> None:
    """Read rows by a DataLoader over a memmap."""
    import torch

    class Mapped:
        def __init__(self) -> None:
            self.rows = np.load(path, mmap_mode="r")

        def __getitem__(self, row: int) -> Any:
            return torch.from_numpy(self.rows[row].copy())

    found = torch.utils.data.DataLoader(
        Mapped(), batch_size=256, sampler=ids.tolist(), num_workers=2
    )
    for _ in found:
        pass


def compare(folder: Path, size: int, total: int) -> None:
    """Measure rows of `size` bytes from a file of `total`."""
    path, n, k = folder / f"{size}.npy", total // size, WINDOW // size
    write(path, (n, size))
    stat = os.stat(path)
    stats = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    one = Field("x", np.dtype("u1"), (size,))
    manifest = Manifest(n, (one,), (Files.of([str(path)], [stats], [n]),), {})
    order = EpochOrder(Rows(n), 7, 0)
    windows = [order.window(at, at + k) for at in range(0, min(n, WINDOWS * k) - k + 1, k)]
    ring, read = np.ones((k, size), np.uint8), len(windows) * k * size
    sys.stdout.write(f"\nrows of {size} bytes, {len(windows)} windows of {k}, {total >> 20} MiB\n")
    limit = 0.0
    if (folder / "bare").exists():
        offsets = [np.sort(ids.astype(np.int64)) * size + 128 for ids in windows]
        limit = measure(
            "bare loop, 16 threads", path, read, lambda: bare(folder, path, offsets, size)
        )
    with closing(RowReader(manifest, one)) as reader:
        reader.read(windows[0][:1], ring, np.zeros(1, np.int64))

        def ours() -> None:
            for ids in windows:
                reader.read(ids, ring, np.arange(k))

        speed = measure("RowReader", path, read, ours)
    if limit:
        sys.stdout.write(f"  RowReader / bare loop: {speed / limit:.2f}\n")
    try:
        measure(
            "torch DataLoader on memmap, 2 workers",
            path,
            k * size,
            lambda: loader(path, windows[0]),
        )
    except ImportError:
        sys.stdout.write("  (no torch here)\n")
    path.unlink()


def main() -> None:
    """Measure rows of several sizes."""
    total = int(float(sys.argv[1]) * (1 << 30)) if len(sys.argv) > 1 else 1 << 30
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        compiler = shutil.which("cc")
        if compiler:
            (folder / "bare.c").write_text(BARE)
            command = [compiler, "-O2", "-o", folder / "bare", folder / "bare.c", "-lpthread"]
            subprocess.run(list(map(str, command)), check=True)
        for size in (4096, 12288):
            compare(folder, size, total)


if __name__ == "__main__":
    main()
