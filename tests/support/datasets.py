"""How tests make datasets: arrays in files of each format, and the manifest of these files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from arrayd.samples.manifest import Field, Files, Manifest

Array = np.ndarray[Any, Any]
Write = Callable[[Path, Array], str]
"""Writes an array to a path without suffix; returns the path."""


def write_npy(path: Path, array: Array) -> str:
    """Write a ``.npy``, in the array's own memory order."""
    np.save(f"{path}.npy", array)
    return f"{path}.npy"


def write_raw(path: Path, array: Array) -> str:
    """Write 3 bytes and the values."""
    Path(f"{path}.bin").write_bytes(b"abc" + array.tobytes())
    return f"{path}.bin"


def write_npz(path: Path, array: Array) -> str:
    """Write a compressed archive."""
    np.savez_compressed(f"{path}.npz", x=array)
    return f"{path}.npz"


def write_stored(path: Path, array: Array) -> str:
    """Write an archive without compression."""
    np.savez(f"{path}.npz", x=array)
    return f"{path}.npz"


def write_hdf5(path: Path, array: Array, **options: Any) -> str:
    """Write an HDF5 file with the dataset ``x``."""
    with h5py.File(f"{path}.h5", "w") as file:
        file.create_dataset("x", data=array, **options)
    return f"{path}.h5"


def write_chunked(path: Path, array: Array) -> str:
    """Write an HDF5 file with compressed chunks of 7 rows."""
    chunks = (7, *array.shape[1:])
    return write_hdf5(path, array, chunks=chunks, compression="gzip", maxshape=(None, *chunks[1:]))


def write_text(path: Path, array: Array) -> str:
    """Write a table of numbers."""
    np.savetxt(f"{path}.txt", array.reshape(len(array), -1), fmt="%.17g")
    return f"{path}.txt"


WRITERS: dict[str, Write] = {
    "npy": write_npy,
    "raw": write_raw,
    "npz": write_npz,
    "stored": write_stored,
    "hdf5": write_hdf5,
    "chunked": write_chunked,
    "text": write_text,
}
"""By name; each takes arrays of 2 axes of float64."""


def stats_of(paths: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the stats of files as a manifest has them."""
    found = [os.stat(path) for path in paths]
    return [(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in found]


def options_of(kind: str, array: Array) -> dict[str, Any]:
    """Return how a field is read whose files are of this kind."""
    if kind == "raw":
        options = (("offset", 3), ("shape", (-1, *array.shape[1:])))
        return {"format": "raw", "options": options}
    return {"member": "x"} if kind in ("npz", "stored", "hdf5", "chunked") else {}


def field_of(paths: Sequence[str], arrays: Sequence[Array], name: str = "x", **options: Any) -> Any:
    """Return a field whose rows are those of the arrays in these files, and its files."""
    files = Files.of(paths, stats_of(paths), [len(array) for array in arrays])
    return Field(name, arrays[0].dtype, arrays[0].shape[1:], **options), files


def make_dataset(folder: Path, kind: str, arrays: Sequence[Array]) -> Manifest:
    """Write arrays to files of one kind; return the dataset of all their rows, with field x."""
    paths = [WRITERS[kind](folder / f"{kind}{n}", array) for n, array in enumerate(arrays)]
    one, files = field_of(paths, arrays, **options_of(kind, arrays[0]))
    return Manifest(files.rows, (one,), (files,), {})


def make_samples(folder: Path, arrays: Sequence[Array], kind: str = "npy") -> Manifest:
    """Write each array to a file, one row of the dataset."""
    paths = [WRITERS[kind](folder / f"sample{n}", array) for n, array in enumerate(arrays)]
    files = Files.of(paths, stats_of(paths), [1] * len(paths))
    options = options_of(kind, arrays[0])
    one = Field("x", arrays[0].dtype, arrays[0].shape, whole_files=True, **options)
    return Manifest(files.rows, (one,), (files,), {})
