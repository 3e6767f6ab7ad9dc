"""Every byte of a block is its load's or zero: memory is poisoned before a loader gets it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from arrayd.source import Source
from arrayd_server.loaders import base, contiguous, npz
from arrayd_server.loaders.hdf5 import reading
from arrayd_server.loaders.text import loader as text
from tests.support.loading import ALL, Array, Make, load, make_segment, same

POISON = 0xA5
SIZE = 4000
"""Items of an array: chunks of KiB, for numpy keeps smaller memory, which nothing poisons."""

ALIGNED = np.dtype([("a", "i1"), ("b", "f8")], align=True)
INNER = np.dtype([("s", "S3"), ("i", "<i4", (2,))], align=True)
NESTED = np.dtype([("p", "u1"), ("in", INNER, (2,)), ("q", "<i2")], align=True)
KINDS = [np.dtype("<i4"), np.dtype("S5"), ALIGNED, NESTED]

_M_PERTURB = -6
segment = pytest.fixture(make_segment)


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fill what `malloc` and `np.empty` give; have parts of some KiB, and chunks of fewer."""
    monkeypatch.setattr(base, "PART_BYTES", 16 << 10)
    monkeypatch.setattr(base, "CHUNK_BYTES", 4 << 10)
    monkeypatch.setattr(base, "CAST_BYTES", 6 << 10)
    monkeypatch.setattr(contiguous, "GAP", 2 << 10)
    monkeypatch.setattr(npz, "BACKWARD_BYTES", 8 << 10)
    monkeypatch.setattr(text, "PIECE_BYTES", 8 << 10)
    for name, size in (("BLOCK_BYTES", 4 << 10), ("LARGE_BYTES", 6 << 10), ("GAP", 2 << 10)):
        monkeypatch.setattr(reading, name, size)
    empty = np.empty

    def poisoned(*args: Any, **kwargs: Any) -> Array:
        array: Array = empty(*args, **kwargs)
        array.view(np.uint8).fill(POISON) if array.size and not array.dtype.hasobject else None
        return array

    monkeypatch.setattr(np, "empty", poisoned)
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_PERTURB, POISON ^ 0xFF)
    yield
    libc.mallopt(_M_PERTURB, 0)


def filled(dtype: np.dtype[Any], *shape: int) -> Array:
    """Return an array whose every byte, padding included, is from 1 to 63."""
    size = int(np.prod(shape)) * dtype.itemsize
    return (np.arange(size) % 63 + 1).astype(np.uint8).view(dtype).reshape(shape)


def widened(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype that holds the values of `dtype`, with padding where numpy knows some."""
    if dtype.subdtype is not None:
        return np.dtype((widened(dtype.base), dtype.shape))
    if dtype.names is None:
        wider = {"S": f"S{dtype.itemsize + 2}", "f": "g"}
        return np.dtype(wider.get(dtype.kind, dtype.newbyteorder(">")))
    return np.dtype([(name, widened(dtype[name])) for name in dtype.names], align=True)


def put_values(out: Array, values: Array) -> None:
    """Write each value of a structure to its place in zeros, and nothing else."""
    if out.dtype.names is None:
        out[...] = values
        if out.dtype.char == "g" and np.finfo(np.longdouble).nmant == 63:
            for byte in range(10, 16):
                as_bytes(out)[..., byte] = 0
        return
    for name in out.dtype.names:
        put_values(out[name], values[name])


def as_bytes(array: Array) -> Array:
    """Return the bytes of each item along an axis of their own."""
    strides = (*array.strides, 1)
    raw = array.view(np.dtype({"names": ["b"], "formats": ["u1"], "itemsize": array.itemsize}))
    shape = (*array.shape, array.itemsize)
    return np.lib.stride_tricks.as_strided(raw["b"], shape, strides)


@pytest.mark.parametrize("rows", [None, slice(7, 31), slice(None, None, -3), slice(30, 2, -1)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", KINDS, ids=["i4", "S5", "aligned", "nested"])
@pytest.mark.parametrize("make", ALL)
def test_as_it_is_in_the_file(
    make: Make, dtype: np.dtype[Any], order: str, rows: slice | None, tmp_path: Path, segment: Path
) -> None:
    """Bytes of the file, padding included; what h5py would leave alone is zero."""
    source = make(tmp_path, filled(dtype, 40, SIZE // 40))
    expected = filled(dtype, 40, SIZE // 40)
    if source.resolved_format() == "hdf5":
        with h5py.File(source.path) as file:
            name = source.member or "it"
            expected = file[name][()]
    cut = replace(source, order=order) if rows is None else of_rows(source, rows, order)
    chosen = expected[rows or slice(None)].view(f"V{dtype.itemsize}").copy(order)  # type: ignore[arg-type]
    same(load(cut, segment), chosen.view(dtype))


def of_rows(source: Source, rows: slice, order: str) -> Source:
    """Return a request for some rows of a source."""
    return replace(source, order=order, rows=(rows.start, rows.stop, rows.step))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "dtype",
    [np.dtype("<f4"), np.dtype("<f8"), ALIGNED, NESTED],
    ids=["f4", "f8", "aligned", "nested"],
)
@pytest.mark.parametrize("make", ALL)
def test_casts(make: Make, dtype: np.dtype[Any], order: str, tmp_path: Path, segment: Path) -> None:
    """Bytes of a cast's result that hold no value are zero, to a swapped or a wider dtype."""
    array = filled(dtype, 40, SIZE // 40)
    source = make(tmp_path, array)
    for target in (dtype.newbyteorder(">"), widened(dtype)):
        expected = np.zeros(array.shape, target, order="F" if order == "F" else "C")
        put_values(expected, array)
        same(load(replace(source, cast=target, order=order), segment), expected)


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("rows", [None, slice(None, None, -3)])
@pytest.mark.parametrize("dtype", [ALIGNED, np.dtype("g"), np.dtype("S5")], ids=str)
def test_text(
    dtype: np.dtype[Any], rows: slice | None, cast: bool, tmp_path: Path, segment: Path
) -> None:
    """`np.loadtxt` leaves padding alone; in a block it is zero."""
    numbers = np.arange(SIZE) % 100
    columns = len(dtype.names or "x")
    np.savetxt(tmp_path / "a.txt", np.stack([numbers] * columns, axis=1), fmt="%d")
    target = widened(dtype) if cast else dtype
    expected = np.zeros(SIZE, target)
    values = np.zeros(SIZE, dtype)
    for name in dtype.names or ():
        values[name] = numbers
    put_values(expected, values if dtype.names else numbers)
    source = Source.of(tmp_path / "a.txt", dtype=dtype)
    source = replace(source, cast=target if cast else None)
    if rows is not None:
        source = of_rows(source, rows, "C")
        expected = expected.view(f"V{target.itemsize}")[rows].copy().view(target)
    same(load(source, segment), expected)


# HDF5: what libhdf5 leaves alone


def never(file: h5py.File, name: str, chunk: int | None, dtype: Any = h5py.h5t.STD_I32LE) -> Any:
    """Make a dataset whose storage is never filled, in chunks or not."""
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if chunk:
        made.set_chunk((chunk,))
    made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((SIZE,))
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), dtype, space, made))


def unwritten(file: h5py.File) -> None:
    """Make a contiguous dataset, and write nothing."""
    never(file, "it", None)


def half_written(file: h5py.File) -> None:
    """Write every other one of the chunks."""
    dataset = never(file, "it", SIZE // 8)
    for n in range(0, 8, 2):
        dataset[n * SIZE // 8 : (n + 1) * SIZE // 8] = 7


def source_missing(file: h5py.File) -> None:
    """Make a virtual dataset, half of it mapped from a dataset that is not there."""
    file["there"] = np.full(SIZE // 2, 7, "<i4")
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space, half = h5py.h5s.create_simple((SIZE,)), h5py.h5s.create_simple((SIZE // 2,))
    for start, name in ((0, b"there"), (SIZE // 2, b"gone")):
        space.select_hyperslab((start,), (SIZE // 2,))
        made.set_virtual(space, b".", name, half)
    h5py.h5d.create(file.id, b"it", h5py.h5t.STD_I32LE, h5py.h5s.create_simple((SIZE,)), made)


def converted(file: h5py.File) -> None:
    """Make a compound of which libhdf5 converts a field, and writes the fields alone."""
    text = h5py.h5t.C_S1.copy()
    text.set_size(1)
    text.set_strpad(h5py.h5t.STR_NULLTERM)
    kind = h5py.h5t.create(h5py.h5t.COMPOUND, 16)
    kind.insert(b"a", 0, text)
    kind.insert(b"b", 8, h5py.h5t.IEEE_F64BE)
    space = h5py.h5s.create_simple((SIZE,))
    dataset = h5py.Dataset(h5py.h5d.create(file.id, b"it", kind, space))
    dataset[...] = np.zeros(SIZE, np.dtype([("a", "S1"), ("b", ">f8")], align=True))


@pytest.mark.parametrize("rows", [None, slice(None, None, -7)])
@pytest.mark.parametrize("make", [unwritten, half_written, source_missing, converted])
def test_what_libhdf5_leaves_alone(
    make: Callable[[h5py.File], None], rows: slice | None, tmp_path: Path, segment: Path
) -> None:
    """It is zero, as h5py has it, whatever was read before."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file)
    with h5py.File(tmp_path / "a.h5") as file:
        expected = file["it"][()]
    assert not expected.view(np.uint8).all()
    source = Source.of(tmp_path / "a.h5", dataset="it")
    if rows is not None:
        source, expected = of_rows(source, rows, "C"), expected[rows]
    found = load(source, segment)
    assert found.tobytes() == expected.view(f"V{found.itemsize}").tobytes()
