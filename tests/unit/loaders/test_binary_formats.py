"""npy, raw, and what all binary formats share, against numpy, zipfile and h5py."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib import format as npformat

from arrayd.errors import (
    ArraydError,
    BadFile,
    SpecMismatch,
)
from arrayd.source import Rows, Source
from arrayd_server.loaders import base
from arrayd_server.loaders.formats import load_format, probe
from tests.support.loading import (
    ALL,
    QUICK,
    Array,
    Make,
    arrays,
    as_chunked,
    as_deflated,
    as_hdf5,
    as_npy,
    as_npz,
    as_raw,
    header,
    load,
    make_segment,
    make_tiny,
    same,
    slices,
)

tiny = pytest.fixture(autouse=True)(make_tiny)
segment = pytest.fixture(make_segment)


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
@pytest.mark.parametrize("rows", [(5000, 5010, None), (4000, 4100, 10), (None, None, -1000)])
def test_rows_read_only_what_they_need(
    make: Make, order: str, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few rows of a large file, near or far apart, cost few bytes of reading, in either order."""
    array = np.zeros((10_000, 20), order=order)  # type: ignore[call-overload]  # a str to mypy
    source = replace(make(tmp_path, array), rows=rows)
    monkeypatch.setattr(base, "CHUNK_BYTES", 4096)
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


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"", BadFile, "empty (0 bytes)"),
        (b"PK\3\4 and so on", BadFile, "a zip archive"),
        (b"\x93NUMPI" + bytes(200), BadFile, "magic string"),
        (header()[:40], BadFile, "within its header"),
        (header()[:-1], BadFile, f"promises {len(header())} bytes, it has {len(header()) - 1}"),
        (header(extra=b" " * (1 << 18)), BadFile, "262144 are read"),
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
    if make in (as_hdf5, as_chunked):
        known = "locking, swmr"
    with pytest.raises(SpecMismatch, match=f"no option delimiter; it takes {known}"):
        probe(replace(source, options=(*source.options, ("delimiter", ","))))


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
