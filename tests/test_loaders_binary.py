"""npy, npz, raw and HDF5 against numpy, zipfile and h5py, through the engine into a segment."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import itertools
import os
import random
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib import format as npformat

from arrayd.errors import (
    AccessDenied,
    ArraydError,
    BadFile,
    CastError,
    MissingDependency,
    NoRoom,
    SourceChanged,
    SourceNotFound,
    SpecMismatch,
)
from arrayd.source import Source
from arrayd_server import leases
from arrayd_server.loaders import base, engine, flat, hdf5, load_format, members, npz, probe
from arrayd_server.loaders.base import Part, Plan

Array = np.ndarray[Any, Any]
Make = Callable[[Path, Array], Source]

RECORD = np.dtype([("chr", "S3"), ("pos", "<i4"), ("pct", "<f4", (2,))])
QUICK = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make many parts and chunks of small files."""
    monkeypatch.setattr(base, "PART_BYTES", 200)
    monkeypatch.setattr(base, "CHUNK_BYTES", 48)
    monkeypatch.setattr(flat, "GAP", 24)
    monkeypatch.setattr(npz, "BACKWARD_BYTES", 64)
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", 64)
    monkeypatch.setattr(hdf5, "LARGE_BYTES", 80)
    monkeypatch.setattr(hdf5, "GAP", 24)


@pytest.fixture
def segment() -> Iterator[Path]:
    """Return the path of a segment to be, on tmpfs, where leases and holes are as in service."""
    path = Path(f"/dev/shm/arrayd-test-{os.getpid()}-{random.getrandbits(64):x}")
    yield path
    path.unlink(missing_ok=True)


def target_of(source: Source, plan: Plan, path: Path) -> engine.Target:
    """Make the segment that `plan` needs."""
    dtype = source.cast or plan.dtype
    size = int(np.prod(plan.shape, dtype=object)) * dtype.itemsize
    with open(path, "wb") as file:
        file.truncate(size)
    return engine.Target(str(path), dtype, source.order or plan.order, size)


def write(source: Source, plan: Plan, part: Part, target: engine.Target) -> int:
    """Write one part; nobody watches, nobody cancels."""
    done: list[int] = []
    changed = engine.write_part(
        source, plan, part, target, on_rows=done.append, cancelled=lambda: False
    )
    assert done == sorted(done)
    assert done[-1] == part.stop - part.start
    return changed


def load(source: Source, path: Path) -> Array:
    """Probe, write all parts in any order, and read the result back."""
    plan = probe(source)
    target = target_of(source, plan, path)
    parts = list(plan.parts)
    random.Random(0).shuffle(parts)
    for part in parts:
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
    assert found.tobytes() == expected.tobytes()


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


@pytest.mark.parametrize("make", ALL)
@QUICK
@given(array=arrays(), rows=slices, order=st.sampled_from([None, "C", "F"]))
def test_a_load_is_the_array(
    make: Make, tmp_path: Path, array: Array, rows: slice, order: str | None
) -> None:
    """Any format, shape, dtype, rows= and order= gives a[rows], dtype included."""
    path = tmp_path / "segment"
    source = replace(make(tmp_path, array), order=order)
    same(load(source, path), array)
    if array.ndim:
        cut = Source.of(tmp_path / "x", rows=rows).rows
        same(load(replace(source, rows=cut), path), array[rows])
    else:
        with pytest.raises(SpecMismatch, match="0 dimensions"):
            probe(replace(source, rows=(0, 1, None)))


def test_fortran_order_is_kept(tmp_path: Path) -> None:
    """A Fortran .npy comes as one, and so do rows of it; a 1-d array is always C."""
    source = as_npy(tmp_path, np.zeros((4, 5), order="F"))
    assert probe(source).order == probe(replace(source, rows=(1, 3, None))).order == "F"
    assert probe(as_npy(tmp_path, np.zeros((4, 5)))).order == "C"
    assert probe(as_npy(tmp_path, np.zeros(4, order="F"))).order == "C"


@pytest.mark.parametrize("make", [as_npy, as_raw, as_npz])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_read_only_what_they_need(
    make: Make, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few rows of a large file cost few bytes of reading, in either order."""
    array = np.zeros((10_000, 20), order=order)  # type: ignore[call-overload]  # a str to mypy
    source = replace(make(tmp_path, array), rows=(5000, 5010, None))
    real, read = os.preadv, []

    def spy(fd: int, buffers: list[memoryview], offset: int) -> int:
        read.append(real(fd, buffers, offset))
        return read[-1]

    plan = probe(source)
    monkeypatch.setattr(os, "preadv", spy)
    for part in plan.parts:
        for _ in load_format(source.resolved_format()).fill(source, plan, part):
            pass
    assert sum(read) == 10 * 20 * 8


@pytest.mark.parametrize("make", ALL)
def test_real_sizes(
    make: Make, tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the constants as in service, several parts and chunks give the array."""
    monkeypatch.undo()
    monkeypatch.setattr(base, "PART_BYTES", 1 << 20)
    array = np.random.default_rng(1).integers(0, 99, (3333, 111))
    source = make(tmp_path, array)
    assert make is as_deflated or len(probe(source).parts) > 2
    same(load(source, segment), array)
    same(load(replace(source, rows=(None, 5, -3)), segment), array[:5:-3])


# npy


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_versions(tmp_path: Path, segment: Path, version: tuple[int, int]) -> None:
    """Versions 1 to 3 are read; 3 keeps field names beyond Latin-1."""
    name = "größe" if version < (3, 0) else "größe 漢字 \\u00e9"
    array = np.arange(7.0).view([(name, "f8")])
    with open(tmp_path / "a.npy", "wb") as file:
        npformat.write_array(file, array, version)
    same(load(Source.of(tmp_path / "a.npy"), segment), array)


def test_npy_may_be_longer(tmp_path: Path, segment: Path) -> None:
    """Bytes after the array are ignored, as by np.load."""
    source = as_npy(tmp_path, np.arange(9))
    with open(source.path, "ab") as file:
        file.write(b"more")
    same(load(source, segment), np.arange(9))


def test_npy_of_python_2(tmp_path: Path, segment: Path) -> None:
    """A header with Python 2's long integers is read, without a warning."""
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (3L,), }\n"
    data = npformat.magic(1, 0) + struct.pack("<H", len(header)) + header
    (tmp_path / "a.npy").write_bytes(data + np.arange(3).tobytes())
    same(load(Source.of(tmp_path / "a.npy"), segment), np.arange(3))


def test_a_large_record_and_a_large_row(tmp_path: Path, segment: Path) -> None:
    """A value larger than a chunk, and a row of many chunks, come out whole."""
    large = np.arange(300, dtype=np.uint8).view("V100")
    same(load(as_npy(tmp_path, large), segment), large)
    wide = np.arange(3000).reshape(2, 1500)
    for make in ALL:
        source = make(tmp_path, wide)
        same(load(source, segment), wide)
        same(load(replace(source, rows=(None, None, -1)), segment), wide[::-1])


def header(descr: str = "'<i8'", shape: str = "(3,)", extra: bytes = b"", size: int = 24) -> bytes:
    """Return a .npy made by hand."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode() + extra
    return npformat.magic(2, 0) + struct.pack("<I", len(text)) + text + bytes(size)


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"", BadFile, "empty (0 bytes)"),
        (b"PK\3\4 and so on", BadFile, "magic string"),
        (header()[:40], BadFile, "within its header"),
        (header()[:-1], BadFile, f"promises {len(header())} bytes, it has {len(header()) - 1}"),
        (header(extra=b" " * 10_000), BadFile, "10000 are read"),
        (npformat.magic(2, 0) + b"\xff\xff\xff\xff", BadFile, "header of 4294967295 bytes"),
        (npformat.magic(4, 0) + bytes(9), BadFile, "version (4, 0)"),
        (header(descr="'no such'"), BadFile, "no such"),
        (header(descr="__import__('os')"), BadFile, "no readable .npy"),
        (header(descr="('<i8', (2,))"), BadFile, "shape of its own"),
        (header(shape="(-3,)"), BadFile, "(-3,)"),
        (header(shape="(0, 2**0)"), BadFile, "no readable .npy"),
        (header(shape=f"(0, {2**62})"), BadFile, str(2**62)),
        (header(descr="'|O'"), SpecMismatch, "Python objects"),
    ],
)
def test_bad_npy(tmp_path: Path, content: bytes, error: type[ArraydError], said: str) -> None:
    """What is no whole .npy is refused by probe, with the file's name and the reason."""
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(error) as caught:
        probe(Source.of(path))
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("make", [as_npy, as_npz, as_deflated, as_hdf5])
def test_dtype_is_a_claim(make: Make, tmp_path: Path) -> None:
    """dtype= must be what is in the file; the error suggests cast=."""
    source = make(tmp_path, np.zeros(3, "f4"))
    probe(replace(source, dtype=np.dtype("f4")))
    with pytest.raises(SpecMismatch, match=r"float32, not float64.*cast='float64'") as caught:
        probe(replace(source, dtype=np.dtype("f8")))
    assert source.path in str(caught.value)


@pytest.mark.parametrize("make", ALL)
def test_unknown_options_are_refused(make: Make, tmp_path: Path) -> None:
    """An option of another format is an error that names the known ones."""
    source = make(tmp_path, np.zeros(3))
    known = "offset, shape" if make is as_raw else "none"
    with pytest.raises(SpecMismatch, match=f"no option delimiter; it takes {known}"):
        probe(replace(source, options=(*source.options, ("delimiter", ","))))


# npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_members(tmp_path: Path, segment: Path, save: Callable[..., None]) -> None:
    """A member is found with and without .npy; none is needed where there is one."""
    path = tmp_path / "a.npz"
    save(path, pos=np.arange(4), chrom=np.array([b"x"]))
    for name in ("pos", "pos.npy"):
        same(load(Source.of(path, dataset=name), segment), np.arange(4))
        assert probe(Source.of(path, dataset=name)).member == "pos"
    assert [(m.name, m.shape, m.dtype.str) for m in members(Source.of(path))] == [
        ("pos", (4,), "<i8"),
        ("chrom", (1,), "|S1"),
    ]
    with pytest.raises(SpecMismatch, match=r"2 members: pos, chrom\. Say which"):
        probe(Source.of(path))
    with pytest.raises(SourceNotFound, match=r"a\.npz has no member 'poss'.*mean 'pos'"):
        probe(Source.of(path, dataset="poss"))


def test_npz_with_extra_fields_and_a_prefix(tmp_path: Path, segment: Path) -> None:
    """The data is found where the local header differs from the directory, and after a prefix."""
    path = tmp_path / "a.npz"
    path.write_bytes(b"#!/bin/sh\n")
    buffer = io.BytesIO()
    np.save(buffer, np.arange(50))
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("x.npy")
        info.extra = struct.pack("<HH5s", 0xCAFE, 5, b"extra")
        archive.writestr(info, buffer.getvalue())
        archive.writestr("notes.txt", b"no array")
    same(load(Source.of(path), segment), np.arange(50))
    with pytest.raises(BadFile, match=r"notes\.txt"):
        probe(Source.of(path, dataset="notes.txt"))


def test_npz_parts(tmp_path: Path) -> None:
    """A stored member divides into parts; a compressed one is a single part."""
    array = np.arange(999)
    assert len(probe(as_npz(tmp_path, array)).parts) > 9
    assert len(probe(as_deflated(tmp_path, array)).parts) == 1


def test_npz_rests_on_the_checksum(tmp_path: Path, segment: Path) -> None:
    """A compressed member whose bytes inflate to others than were written is corrupt."""
    source = as_deflated(tmp_path, np.arange(99))
    with zipfile.ZipFile(source.path) as archive:
        crc = struct.pack("<I", archive.getinfo("it.npy").CRC)
    data = Path(source.path).read_bytes()
    Path(source.path).write_bytes(data.replace(crc, b"\1\2\3\4"))
    with pytest.raises(BadFile, match=r"z\.npz.*CRC"):
        load(source, segment)


def test_npz_that_does_not_inflate(tmp_path: Path, segment: Path) -> None:
    """Garbage in the compressed bytes is BadFile, whatever zlib calls it."""
    source = as_deflated(tmp_path, np.random.default_rng(0).random(4000))
    data = bytearray(Path(source.path).read_bytes())
    data[9000:9400] = b"\xff" * 400
    Path(source.path).write_bytes(data)
    with pytest.raises(BadFile, match=r"z\.npz"):
        load(source, segment)


def test_truncated_and_foreign_npz(tmp_path: Path) -> None:
    """A cut archive, no archive, and an archive without arrays are BadFile."""
    source = as_npz(tmp_path, np.arange(99))
    data = Path(source.path).read_bytes()
    for content, said in ((data[:-30], "zip"), (b"hello", "zip"), (b"", "empty")):
        Path(source.path).write_bytes(content)
        with pytest.raises(BadFile, match=rf"a\.npz.*{said}"):
            probe(source)
    with zipfile.ZipFile(source.path, "w") as archive:
        archive.writestr("notes.txt", b"no array")
    with pytest.raises(BadFile, match="no member that is an array"):
        probe(Source.of(source.path))


def test_npz_member_shorter_than_its_header_says(tmp_path: Path) -> None:
    """Both byte counts of a truncated member are named."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header()[:-8])
    with pytest.raises(
        BadFile, match=f"promises {len(header())} bytes, it has {len(header()) - 8}"
    ):
        probe(Source.of(path))


# raw


def raw(path: Path, **options: Any) -> Source:
    """Return a raw source."""
    return Source.of(path, format="raw", **options)


def test_raw_is_memmap(tmp_path: Path, segment: Path) -> None:
    """shape= and offset= mean what they mean to np.memmap; an int is a shape."""
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(range(100)))
    for shape in ((3, 4), 5, (), (0, 4)):
        expected = (
            np.memmap(path, "<i2", "r", 7, shape) if shape != (0, 4) else np.zeros(shape, "i2")
        )
        same(load(raw(path, dtype="<i2", shape=shape, offset=7), segment), np.array(expected))


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((-1, 3), 100, (16, 3)),
        ((-1,), 101, (50,)),
        (-1, 7, (3,)),
        ((4, -1), 99, (4, 12)),
        (-1, 0, (0,)),
    ],
)
def test_raw_gives_the_rows_that_exist(
    tmp_path: Path, shape: Any, size: int, expected: tuple[int, ...]
) -> None:
    """With -1, the whole rows of a growing file come, and a row that is half written does not."""
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(size))
    assert probe(raw(path, dtype="i2", shape=shape)).shape == expected


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({}, SpecMismatch, r"Pass dtype= and shape="),
        ({"dtype": "f4"}, SpecMismatch, r"Pass dtype= and shape="),
        ({"shape": 3}, SpecMismatch, r"Pass dtype= and shape="),
        ({"dtype": "i2", "shape": (-1, -1)}, SpecMismatch, r"\(-1, -1\).*one of which"),
        ({"dtype": "i2", "shape": (-2,)}, SpecMismatch, r"\(-2,\)"),
        ({"dtype": "i2", "shape": "x"}, SpecMismatch, "'x'"),
        ({"dtype": "i2", "shape": (-1, 0)}, SpecMismatch, "can be anything"),
        ({"dtype": "i2", "shape": 3, "offset": -1}, SpecMismatch, "offset=-1"),
        ({"dtype": "i2", "shape": 3, "offset": 1.5}, SpecMismatch, r"offset=1\.5"),
        ({"dtype": "S", "shape": 3}, SpecMismatch, "no fixed size"),
        ({"dtype": "(2,)i4", "shape": 3}, SpecMismatch, "no fixed size"),
        ({"dtype": "i2", "shape": (5, 11)}, BadFile, "need 110 bytes, it has 100"),
        ({"dtype": "i2", "shape": -1, "offset": 101}, BadFile, "offset 101.*it has 100"),
        ({"dtype": "i2", "shape": (2**40, 2**40)}, BadFile, str(2**40)),
    ],
)
def test_bad_raw(
    tmp_path: Path, options: dict[str, Any], error: type[ArraydError], said: str
) -> None:
    """A request that a raw file cannot meet says what to pass, or the numbers."""
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(100))
    with pytest.raises(error, match=rf"a\.raw.*{said}"):
        probe(raw(path, **options))


# HDF5


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Return an HDF5 file with a dataset of each kind."""
    path = tmp_path / "zoo.h5"
    with h5py.File(path, "w") as file:
        file["bool"] = np.array([True, False])
        file.create_dataset("enum", data=[1, 2], dtype=h5py.enum_dtype({"A": 1, "B": 2}, "i2"))
        file.create_dataset("utf8", data=["é".encode(), b"a"], dtype=h5py.string_dtype("utf-8", 4))
        file["text"] = np.array([b"ab", b"c"])
        file["scalar"] = 2.5
        file["pair"] = np.array((b"x", 1, (2, 3)), RECORD)
        file["complex"] = np.array([1 + 2j])
        file["big"] = np.array([1, 2], ">i4")
        file["deep/er/x"] = np.arange(6.0).reshape(2, 3)
        file["empty"] = h5py.Empty("f4")
        file.create_dataset("vlen", data=["a", "bc"])
        file.create_dataset("ref", data=file["bool"].ref, dtype=h5py.ref_dtype)
        file.create_dataset("arrays", shape=(2,), dtype=np.dtype(("i4", (3,))))
        file["type"] = np.dtype("f4")
        file["soft"] = h5py.SoftLink("/gone")
        file["good"] = h5py.SoftLink("/deep/er/x")
        file["outside"] = h5py.ExternalLink("gone.h5", "/x")
    return path


@pytest.mark.parametrize(
    "name",
    ["bool", "enum", "utf8", "text", "scalar", "pair", "complex", "big", "/deep/er/x", "good"],
)
def test_hdf5_values_are_those_of_h5py(zoo: Path, segment: Path, name: str) -> None:
    """Each kind of dataset comes as h5py gives it, with a dtype that survives the wire."""
    source = Source.of(zoo, dataset=name)
    with h5py.File(zoo) as file:
        expected = np.asarray(file[name][()]).astype(file[name].dtype)
    same(load(source, segment), expected)
    assert probe(source).dtype.metadata is None


@pytest.mark.parametrize("name", ["deep/er/x", "/deep/er/x", "//deep/./er/x"])
def test_hdf5_names_have_one_spelling(zoo: Path, name: str) -> None:
    """However a dataset is spelled, the plan has the same member."""
    assert probe(Source.of(zoo, dataset=name)).member == "deep/er/x"


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("vlen", SpecMismatch, "variable-length.*S10"),
        ("ref", SpecMismatch, "Python objects"),
        ("arrays", SpecMismatch, "array as the type"),
        ("empty", SpecMismatch, "declared empty"),
        ("type", SpecMismatch, "named datatype"),
        ("deep", SpecMismatch, "is a group.*er/x"),
        ("soft", SourceNotFound, "link to .*zoo.h5:/gone"),
        ("outside", SourceNotFound, "link to gone.h5:/x"),
        ("dep/er/x", SourceNotFound, "mean 'deep/er/x'"),
        ("bool/x", SourceNotFound, "no dataset 'bool/x'"),
        ("qqqqqq", SourceNotFound, "It has "),
        (None, SpecMismatch, "13 datasets: arrays, big.*Say which"),
    ],
)
def test_bad_hdf5_members(zoo: Path, name: str | None, error: type[ArraydError], said: str) -> None:
    """What cannot be loaded from a good file says why, and what is there instead."""
    with pytest.raises(error, match=rf"zoo\.h5.*{said}"):
        probe(Source.of(zoo, dataset=name))


def test_hdf5_members(zoo: Path) -> None:
    """members() lists datasets in all groups, with what h5py says of them."""
    found = {m.name: (m.shape, m.dtype) for m in members(Source.of(zoo))}
    assert found["deep/er/x"] == ((2, 3), np.dtype("f8"))
    assert found["vlen"][1] == np.dtype(object)
    assert len(found) == 13


def test_a_long_list_of_datasets_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error lists 20 names and says how many more; the search itself is bounded."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(30):
            file[f"d{i:02}"] = i
    with pytest.raises(SpecMismatch, match=r"30 datasets.*d19 and 10 more"):
        probe(Source.of(tmp_path / "a.h5"))
    monkeypatch.setattr(hdf5, "SEARCH_LIMIT", 7)
    assert len(members(Source.of(tmp_path / "a.h5"))) == 7


def test_bad_hdf5_files(tmp_path: Path) -> None:
    """No HDF5, a truncated and an empty one are BadFile."""
    source = as_chunked(tmp_path, np.arange(999))
    data = Path(source.path).read_bytes()
    for content, said in (
        (b"no HDF5" * 99, "signature"),
        (data[:-99], "truncated"),
        (b"", "empty"),
    ):
        Path(source.path).write_bytes(content)
        with pytest.raises(BadFile, match=rf"c\.h5.*{said}"):
            probe(source)


def test_a_corrupt_chunk(tmp_path: Path, segment: Path) -> None:
    """A chunk that does not decode is BadFile."""
    source = as_chunked(tmp_path, np.arange(9))
    with h5py.File(source.path) as file:
        info = file["it"].id.get_chunk_info(1)
    data = bytearray(Path(source.path).read_bytes())
    data[info.byte_offset : info.byte_offset + info.size] = b"\xff" * info.size
    Path(source.path).write_bytes(data)
    with pytest.raises(BadFile, match=r"c\.h5.*filter"):
        load(source, segment)


@settings(QUICK, max_examples=60)
@given(
    shape=hnp.array_shapes(max_dims=3, max_side=17),
    chunk=st.tuples(*[st.integers(1, 9)] * 3),
    rows=slices,
)
def test_no_chunk_is_decoded_twice(
    tmp_path: Path, shape: tuple[int, ...], chunk: tuple[int, ...], rows: slice
) -> None:
    """Over all reads of all parts each chunk is touched at most once, and only if it is needed."""
    chunks = tuple(map(min, chunk, shape))
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape, "i4", chunks=chunks)
    source = Source.of(path, rows=rows)
    plan = probe(source)
    touched: list[tuple[int, ...]] = []

    class Spy(hdf5._Reader):
        def read(self, selection: tuple[slice, ...]) -> Array:
            lines = [
                range(s.start // c, (s.stop - 1) // c + 1)
                for s, c in zip(selection, chunks, strict=True)
            ]
            touched.extend(itertools.product(*lines))
            return super().read(selection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hdf5, "_Reader", Spy)
        for part in plan.parts:
            for _ in hdf5.fill(source, plan, part):
                pass
    needed = {row // chunks[0] for row in range(shape[0])[rows]}
    assert len(touched) == len(set(touched))
    assert {index[0] for index in touched} == needed


def test_a_missing_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that is not there is said before reading, with what to install."""
    source = as_chunked(tmp_path, np.arange(9))
    monkeypatch.setattr(h5py, "h5z", SimpleNamespace(filter_avail=lambda code: False))
    with pytest.raises(MissingDependency, match=r"filter 1 \(deflate\).*pip install hdf5plugin"):
        probe(source)


def test_a_dataset_that_changed_shape(tmp_path: Path) -> None:
    """A dataset that another writer resized between probe and fill is SourceChanged."""
    source = as_chunked(tmp_path, np.arange(9))
    plan = probe(source)
    with h5py.File(source.path, "a") as file:
        file["it"].resize((8,))
    with pytest.raises(SourceChanged, match=r"\(8,\), no longer \(9,\)"):
        next(hdf5.fill(source, plan, plan.parts[0]))


def test_a_file_being_read_can_be_written(tmp_path: Path) -> None:
    """No HDF5 lock is held: a writer in another process opens the file meanwhile."""
    source = as_hdf5(tmp_path, np.arange(99))
    plan = probe(source)
    reading = hdf5.fill(source, plan, plan.parts[0])
    next(reading)
    with open(source.path, "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # what libhdf5 takes to write
    reading.close()


# The edge


def test_missing_files(tmp_path: Path) -> None:
    """A file that is not there, or lies below a file, is SourceNotFound with its path."""
    (tmp_path / "file").touch()
    for name in ("gone.npy", "file/a.npy", "nul\0.npy"):
        with pytest.raises(SourceNotFound, match=r"\.npy"):
            probe(Source(path=f"{tmp_path}/{name}"))


def test_a_directory(tmp_path: Path) -> None:
    """A directory is said to be one."""
    with pytest.raises(BadFile, match="is a directory"):
        probe(Source.of(tmp_path, format="npy"))


@pytest.mark.parametrize("format", ["npy", "npz", "raw", "hdf5", "text"])
def test_a_fifo_does_not_hang(tmp_path: Path, format: str) -> None:
    """A pipe without a writer is refused at once, for every format."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadFile, match="pipe is no regular file"):
        probe(Source.of(tmp_path / "pipe", format=format))
    with pytest.raises(BadFile, match="/dev/zero is no regular file"):
        probe(Source.of("/dev/zero", format=format))


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EACCES is AccessDenied, naming the file and the loader's uid (root could read it)."""
    source = as_npy(tmp_path, np.arange(3))

    def refuse(path: str, *_: Any) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(AccessDenied, match=rf"a\.npy.*uid {os.geteuid()}"):
        probe(source)


def test_other_errors_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails is BadFile with the system's words."""
    source = as_npy(tmp_path, np.arange(3))

    def fail(path: str, *_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(BadFile, match=r"a\.npy.*Input/output error"):
        probe(source)


def test_a_format_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without h5py, hdf5 is MissingDependency and says what to install."""
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.delitem(sys.modules, "arrayd_server.loaders.hdf5")
    with pytest.raises(MissingDependency, match="pip install h5py"):
        load_format("hdf5")


def test_formats_with_one_array_have_no_members(tmp_path: Path) -> None:
    """members() of a .npy is empty."""
    assert members(as_npy(tmp_path, np.arange(3))) == []


def test_an_impossible_cast_is_refused_by_probe(tmp_path: Path) -> None:
    """A cast that no value could pass fails before loading, with the file's name."""
    source = replace(as_npy(tmp_path, np.array([b"1.5"])), cast=np.dtype("f4"))
    with pytest.raises(SpecMismatch, match=r"a\.npy.*S3 cannot be cast to float32"):
        probe(source)


def test_identity_follows_links_and_changes(tmp_path: Path) -> None:
    """Two names of a file have one identity; a write gives it another."""
    source = as_npy(tmp_path, np.arange(3))
    (tmp_path / "link.npy").symlink_to(source.path)
    before = engine.identity(str(tmp_path / "link.npy"))
    assert before == engine.identity(source.path)
    with open(source.path, "ab") as file:
        file.write(b"x")
    assert engine.identity(source.path) != before
    with pytest.raises(SourceNotFound, match="gone"):
        engine.identity(str(tmp_path / "gone"))


# The engine


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("make", ALL)
def test_casts_on_the_way(make: Make, order: str, tmp_path: Path, segment: Path) -> None:
    """Every format is cast alike, and the changed values of all parts add up."""
    array = np.arange(300.0).reshape(30, 10) / 4
    source = replace(make(tmp_path, array), cast=np.dtype("i2"), order=order)
    plan = probe(source)
    target = target_of(source, plan, segment)
    assert sum(write(source, plan, part, target) for part in plan.parts) == 225
    same(load(source, segment), array.astype("i2"))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_cast_error_names_the_place(order: str, tmp_path: Path, segment: Path) -> None:
    """The error names file, index in the result, value and limits; nothing stays open."""
    array = np.zeros((40, 7), order=order)  # type: ignore[call-overload]  # a str to mypy
    array[33, 5] = 1e6
    source = replace(as_npy(tmp_path, array), cast=np.dtype("i2"), rows=(3, None, None))
    with pytest.raises(CastError, match=r"a\.npy, at \[30, 5\] of the rows.* 1000000.0 .*32767"):
        load(source, segment)
    assert free(segment)


def wrong_fill(count: int) -> Callable[..., Iterator[Array]]:
    """Return a fill that yields `count` rows of 7, whatever it should."""

    def fill(source: Source, plan: Plan, part: Part) -> Iterator[Array]:
        for _ in range(count):
            yield np.ones((1, 7), plan.dtype)

    return fill


@pytest.mark.parametrize(("count", "said"), [(2, "only 2"), (9, "more")])
def test_other_rows_than_promised(
    tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch, count: int, said: str
) -> None:
    """A fill with too few or too many rows is BadFile, and does not touch the next part."""
    source = as_npy(tmp_path, np.zeros((9, 7), "i1"))
    plan = probe(source)
    target = target_of(source, plan, segment)
    monkeypatch.setattr(load_format("npy"), "fill", wrong_fill(count))
    with pytest.raises(BadFile, match=rf"a\.npy changed.*should be 4.*{said}"):
        write(source, plan, Part(0, 4), target)
    assert not any(segment.read_bytes()[28:])


@pytest.mark.parametrize("make", [as_npy, as_npz, as_raw])
def test_a_file_that_shrinks(make: Make, tmp_path: Path, segment: Path) -> None:
    """A file that became shorter after probe is SourceChanged, not SIGBUS."""
    source = make(tmp_path, np.arange(99))
    plan = probe(source)
    os.truncate(source.path, plan.detail[0] + 50)
    with pytest.raises(SourceChanged, match=source.path):
        write(source, plan, plan.parts[-1], target_of(source, plan, segment))


@pytest.mark.parametrize("order", ["C", "F"])
def test_cancelling(order: str, tmp_path: Path, segment: Path) -> None:
    """It is asked before each chunk; then the part ends and lets go of file and segment."""
    source = replace(as_npy(tmp_path, np.arange(400).reshape(20, 20)), order=order)
    plan = probe(source)
    answers = iter([False, False, True])
    with pytest.raises(engine.Cancelled):
        engine.write_part(
            source,
            plan,
            plan.parts[0],
            target_of(source, plan, segment),
            on_rows=lambda rows: None,
            cancelled=lambda: next(answers),
        )
    assert list(answers) == []
    assert free(segment)


@pytest.mark.parametrize("order", ["C", "F"])
def test_nothing_is_left_open(
    order: str, tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel grants a write lease after a part, also while its exception is being handled."""
    source = replace(as_npy(tmp_path, np.arange(400).reshape(20, 20)), order=order)
    plan = probe(source)
    target = target_of(source, plan, segment)
    write(source, plan, plan.parts[0], target)
    assert free(segment)

    def fail(view: Array, position: int, values: Array) -> None:
        inner = view[0]
        raise MemoryError(inner.shape)

    monkeypatch.setattr(engine, "scatter", fail)
    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises((MemoryError, TypeError)) as caught:
        write(source, plan, plan.parts[1], target)
    assert caught.value.__traceback__ is not None
    assert free(segment)


@pytest.mark.parametrize("order", ["C", "F"])
def test_no_room(
    order: str, tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full /dev/shm is NoRoom with the numbers, before a byte is written."""
    source = replace(as_npy(tmp_path, np.ones((20, 20))), order=order)
    plan = probe(source)
    target = target_of(source, plan, segment)

    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoRoom, match=r"no room in /dev/shm for \d+ of 3200 bytes: \d+ of \d+") as e:
        write(source, plan, plan.parts[0], target)
    assert e.value.details["total"] > 0
    assert not any(segment.read_bytes())
    assert free(segment)


def test_only_the_part_is_reserved(tmp_path: Path, segment: Path) -> None:
    """A part takes the pages of its own bytes, no others."""
    source = as_npy(tmp_path, np.ones(1 << 15))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "PART_BYTES", 64 << 10)
        plan = probe(source)
        write(source, plan, plan.parts[2], target_of(source, plan, segment))
    assert segment.stat().st_blocks * 512 == 64 << 10


def test_a_link_in_place_of_the_segment(tmp_path: Path, segment: Path) -> None:
    """A symbolic link under the segment's name is not followed."""
    source = as_npy(tmp_path, np.arange(9))
    plan = probe(source)
    target = target_of(source, plan, segment)
    victim = tmp_path / "victim"
    segment.rename(segment.with_name(segment.name + "x"))
    with contextlib.ExitStack() as stack:
        stack.callback(os.unlink, f"{segment}x")
        victim.write_bytes(bytes(72))
        segment.symlink_to(victim)
        with pytest.raises(OSError, match="symbolic links"):
            write(source, plan, plan.parts[0], target)
    assert not any(victim.read_bytes())


@given(
    array=hnp.arrays("i2", hnp.array_shapes(max_dims=4, max_side=5), unique=True),
    ends=st.tuples(st.integers(0, 700), st.integers(0, 700)),
)
def test_scatter_is_flat_assignment(array: Array, ends: tuple[int, int]) -> None:
    """Assigning a flat range to a transposed view is what reshape(-1) would do on a copy."""
    start, stop = sorted(min(end, array.size) for end in ends)
    view = np.zeros_like(array.T).T
    expected = np.zeros(array.size, "i2")
    expected[start:stop] = array.reshape(-1)[start:stop]
    engine.scatter(view, start, array.reshape(-1)[start:stop])
    np.testing.assert_array_equal(view, expected.reshape(array.shape))
