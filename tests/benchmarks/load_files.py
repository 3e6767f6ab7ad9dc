"""Files that ``tests.benchmarks.sharing`` loads: made piece by piece, with bounded memory.

They are on the disk before anything is measured, or the kernel would write them meanwhile.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SMALL = 64 << 10
"""Bytes of a small array."""

CODECS = ("gzip(4)+shuffle", "lzf", "blosc", "zstd", "lz4", "bitshuffle")
"""Of HDF5 chunks; from blosc on by the package hdf5plugin."""

COLUMNS = 256
"""Of an HDF5 dataset."""

PIECE = 16 << 20
"""Bytes that are made at a time."""


def small(folder: Path, count: int) -> list[str]:
    """Make .npy files of `SMALL` bytes each."""
    folder.mkdir()
    paths = [str(folder / f"{number}.npy") for number in range(count)]
    values = np.random.default_rng(1).random(SMALL // 8)
    for path in paths:
        np.save(path, values)
    os.sync()
    return paths


def samples(folder: Path, kind: str, count: int) -> list[str]:
    """Make files of 64 rows of 16 float64 each, of a kind: npz, h5 or txt."""
    folder.mkdir()
    paths = [str(folder / f"{number}.{kind}") for number in range(count)]
    values = np.random.default_rng(4).random((64, 16))
    for path in paths:
        if kind == "npz":
            np.savez(path, x=values)
        elif kind == "txt":
            np.savetxt(path, values)
        else:
            with h5py.File(path, "w") as file:
                file["x"] = values
    os.sync()
    return paths


def doubles(path: Path, size: int) -> Path:
    """Make a .npy of `size` bytes of float64, from 0 to 1."""
    array = np.lib.format.open_memmap(path, "w+", np.float64, (size // 8,))
    step, rng = PIECE // 8, np.random.default_rng(2)
    for first in range(0, len(array), step):
        array[first : first + step] = rng.random(len(array[first : first + step]))
    array.flush()
    return written(path)


def hdf5(path: Path, size: int, codec: str | None) -> Path:
    """Make a file with a dataset ``x`` of `size` bytes of float32, rounded to a hundredth.

    Parameters
    ----------
    codec
        Of `CODECS`, in chunks of 64 rows; None: contiguous.

    Raises
    ------
    ImportError
        There is no hdf5plugin.
    """
    rows, rng = size // (4 * COLUMNS), np.random.default_rng(3)
    options = {} if codec is None else {"chunks": (64, COLUMNS), **_filters(codec)}
    step = PIECE // (4 * COLUMNS)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", (rows, COLUMNS), "f4", **options)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            dataset[first : first + count] = rng.normal(size=(count, COLUMNS)).round(2)
    return written(path)


def _filters(codec: str) -> dict[str, Any]:
    if codec == "gzip(4)+shuffle":
        return {"compression": "gzip", "compression_opts": 4, "shuffle": True}
    if codec == "lzf":
        return {"compression": "lzf"}
    plugin = importlib.import_module("hdf5plugin")
    names = {"blosc": "Blosc", "zstd": "Zstd", "lz4": "LZ4", "bitshuffle": "Bitshuffle"}
    return dict(getattr(plugin, names[codec])())


def text(path: Path, rows: int) -> Path:
    """Make a text of five columns, as counts of methylation have them, apart by tabs."""
    rng, step = np.random.default_rng(4), 100_000
    with path.open("w", encoding="ascii") as file:
        for first in range(0, rows, step):
            count = min(step, rows - first)
            names = rng.integers(1, 23, count)
            places = np.arange(first, first + count) * 17 + 10_468
            hits, misses = rng.integers(0, 40, count), rng.integers(1, 40, count)
            shares = (100 * hits / (hits + misses)).round(4)
            columns = (one.tolist() for one in (names, places, shares, hits, misses))
            lines = zip(*columns, strict=True)
            file.writelines(f"chr{a}\t{b}\t{c}\t{d}\t{e}\n" for a, b, c, d, e in lines)
    return written(path)


def written(path: Path) -> Path:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path
