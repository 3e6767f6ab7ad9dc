"""How the tests of the loaders write a file in each format and load it into a segment."""

from __future__ import annotations

import fcntl
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib import format as npformat

from arrayd.source import Source
from arrayd_server.kernel import leases
from arrayd_server.loaders import base, contiguous, npz, segment_writer, straight_copy
from arrayd_server.loaders.base import LoadPlan, Part
from arrayd_server.loaders.formats import probe
from arrayd_server.loaders.hdf5 import reading

Array = np.ndarray[Any, Any]
Make = Callable[[Path, Array], Source]

RECORD = np.dtype([("chr", "S3"), ("pos", "<i4"), ("pct", "<f4", (2,))])
QUICK = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def make_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make many parts and chunks of small files."""
    monkeypatch.setattr(base, "PART_BYTES", 200)
    monkeypatch.setattr(base, "CHUNK_BYTES", 48)
    monkeypatch.setattr(straight_copy, "CHUNKS", 1)
    monkeypatch.setattr(base, "CAST_BYTES", 56)
    monkeypatch.setattr(contiguous, "GAP", 24)
    monkeypatch.setattr(npz, "BACKWARD_BYTES", 64)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 64)
    monkeypatch.setattr(reading, "LARGE_BYTES", 80)
    monkeypatch.setattr(reading, "GAP", 24)


def make_segment() -> Iterator[Path]:
    """Return the path of a segment to be, on tmpfs, where leases and holes are as in service."""
    path = Path(f"/dev/shm/arrayd-test-{os.getpid()}-{random.getrandbits(64):x}")
    yield path
    path.unlink(missing_ok=True)


def target_of(source: Source, plan: LoadPlan, path: Path) -> segment_writer.Target:
    """Make the segment that `plan` needs."""
    dtype = plan.target or plan.dtype
    size = int(np.prod(plan.shape, dtype=object)) * dtype.itemsize
    with open(path, "wb") as file:
        file.truncate(size)
    return segment_writer.Target(str(path), dtype, source.order or plan.order, size)


def write(source: Source, plan: LoadPlan, part: Part, target: segment_writer.Target) -> int:
    """Write one part; nobody watches, nobody cancels."""
    done: list[int] = []
    changed = segment_writer.write_part(
        source, plan, part, target, on_rows=done.append, cancelled=lambda: False
    )
    assert done == sorted(done)
    assert done[-1] == part.stop - part.start
    return changed


def load(source: Source, path: Path) -> Array:
    """Probe, write all parts in any order, and read the result back.

    Every other part is written while it is another loader's turn: see `piece_writing`.
    """
    plan = probe(source)
    target = target_of(source, plan, path)
    parts = list(plan.parts)
    random.Random(0).shuffle(parts)
    for number, part in enumerate(parts):
        with open(path, "rb") as other:
            if number % 2:
                fcntl.flock(other, fcntl.LOCK_EX)
            write(source, plan, part, target)
    return (
        np.frombuffer(path.read_bytes(), np.uint8)
        .view(target.dtype)
        .reshape(plan.shape, order="C" if target.order == "C" else "F")
        if target.data_bytes
        else np.zeros(plan.shape, target.dtype)
    )


def same(found: Array, expected: Array) -> None:
    """Compare shape, dtype and values (NaN equal)."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    # By whole items: of structures that are not contiguous numpy copies the fields alone.
    raw = [
        array.view(f"V{array.itemsize}") if array.dtype.names else array
        for array in (found, expected)
    ]
    assert raw[0].tobytes() == raw[1].tobytes()


def free(path: Path) -> bool:
    """Say whether nobody has the segment open or mapped, by the kernel's word."""
    fd = os.open(path, os.O_RDWR)
    try:
        return leases.alone(fd)
    finally:
        os.close(fd)


# Every format as a way to write an array, so that one test serves all.


def as_npy(folder: Path, array: Array) -> Source:
    """Write a .npy."""
    np.save(folder / "a.npy", array)
    return Source.of(folder / "a.npy")


def as_npz(folder: Path, array: Array) -> Source:
    """Write a stored .npz with another member in front."""
    np.savez(folder / "a.npz", other=np.arange(3), it=array)
    return Source.of(folder / "a.npz", dataset="it")


def as_deflated(folder: Path, array: Array) -> Source:
    """Write a compressed .npz."""
    np.savez_compressed(folder / "z.npz", it=array)
    return Source.of(folder / "z.npz")


def as_raw(folder: Path, array: Array) -> Source:
    """Write raw bytes after a header of 5."""
    (folder / "a.raw").write_bytes(b"12345" + array.tobytes())
    return Source.of(folder / "a.raw", dtype=array.dtype, shape=array.shape, offset=5)


def as_hdf5(folder: Path, array: Array) -> Source:
    """Write a contiguous dataset."""
    with h5py.File(folder / "a.h5", "w") as file:
        file["group/it"] = array
    return Source.of(f"{folder}/a.h5:/group/it")


def as_chunked(folder: Path, array: Array) -> Source:
    """Write a compressed dataset in chunks that divide nothing evenly."""
    options: dict[str, Any] = {}
    if array.ndim:
        chunks = tuple(max(1, min(n, 3)) for n in array.shape)
        options = {"chunks": chunks, "compression": "gzip", "maxshape": (None,) * array.ndim}
    with h5py.File(folder / "c.h5", "w") as file:
        file.create_dataset("it", data=array, **options)
    return Source.of(folder / "c.h5")


ALL = [as_npy, as_npz, as_deflated, as_raw, as_hdf5, as_chunked]


def header(descr: str = "'<i8'", shape: str = "(3,)", extra: bytes = b"", size: int = 24) -> bytes:
    """Return a .npy made by hand."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode() + extra
    return npformat.magic(2, 0) + struct.pack("<I", len(text)) + text + bytes(size)


dtypes = st.sampled_from(
    [np.dtype(d) for d in ("i1", "<f4", ">i2", "f8", "?", "S5", "c16", "f2", RECORD)]
)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=17)
bounds = st.none() | st.integers(-20, 20)
slices = st.builds(slice, bounds, bounds, st.none() | st.integers(-7, 7).filter(bool))


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Return arrays of all dtypes and shapes, C or Fortran, with recognisable bytes."""
    shape, dtype = draw(shapes), draw(dtypes)
    size = int(np.prod(shape)) * dtype.itemsize
    # No zero bytes (h5py stores S without them), no NaN (two compare unequal).
    values = (np.arange(size) % 63 + 1).astype(np.uint8)
    values = values % 2 if dtype.kind == "b" else values
    array = values.view(dtype).reshape(shape) if size else np.zeros(shape, dtype)
    return np.asfortranarray(array) if draw(st.booleans()) and array.ndim > 1 else array
