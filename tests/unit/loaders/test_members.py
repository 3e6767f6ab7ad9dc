"""npz and HDF5, whose files hold several arrays, against numpy and h5py."""

from __future__ import annotations

import fcntl
import io
import itertools
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from arrayd.errors import (
    ArraydError,
    BadFile,
    MissingDependency,
    SourceChanged,
    SourceNotFound,
    SpecMismatch,
)
from arrayd.source import Source
from arrayd_server.loaders import base
from arrayd_server.loaders.formats import members, probe
from arrayd_server.loaders.hdf5 import loader as hdf5
from arrayd_server.loaders.hdf5 import reading
from tests.support.loading import (
    QUICK,
    RECORD,
    Array,
    as_chunked,
    as_deflated,
    as_hdf5,
    as_npz,
    header,
    load,
    make_segment,
    make_tiny,
    same,
    slices,
)

tiny = pytest.fixture(autouse=True)(make_tiny)
segment = pytest.fixture(make_segment)


# npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_members(tmp_path: Path, segment: Path, save: Callable[..., None]) -> None:
    """A member is found with and without .npy; none is needed where there is one."""
    path = tmp_path / "a.npz"
    save(path, pos=np.arange(4), chrom=np.array([b"x"]))
    for name in ("pos", "pos.npy"):
        same(load(Source.of(path, dataset=name), segment), np.arange(4))
        assert probe(Source.of(path, dataset=name)).member == "pos"
    assert [(m.name, m.shape, m.dtype.str) for m in members(Source.of(path)) or ()] == [
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


@pytest.mark.parametrize("more", [0, 99_999])
def test_npz_rests_on_the_checksum(tmp_path: Path, segment: Path, more: int) -> None:
    """A compressed member with a wrong checksum is corrupt, also if it outlasts its array."""
    path = tmp_path / "z.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("it.npy", header() + bytes(more))
        crc = struct.pack("<I", archive.getinfo("it.npy").CRC)
    path.write_bytes(path.read_bytes().replace(crc, b"\1\2\3\4"))
    with pytest.raises(BadFile, match=r"z\.npz.*CRC"):
        load(Source.of(path), segment)


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
    for content, said in ((data[:-30], "zip"), (b"hello", "no npz file"), (b"", "empty")):
        Path(source.path).write_bytes(content)
        with pytest.raises(BadFile, match=rf"a\.npz.*{said}"):
            probe(source)
    with zipfile.ZipFile(source.path, "w") as archive:
        archive.writestr("notes.txt", b"no array")
    with pytest.raises(BadFile, match="zip archive"):
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
        ("ref", SpecMismatch, "references to objects.*h5py"),
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
    found = {m.name: (m.shape, m.dtype) for m in members(Source.of(zoo)) or ()}
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
    monkeypatch.setattr(base, "MAX_MEMBERS", 7)
    assert len(members(Source.of(tmp_path / "a.h5")) or ()) == 7


def test_bad_hdf5_files(tmp_path: Path) -> None:
    """No HDF5, a truncated and an empty one are BadFile."""
    source = as_chunked(tmp_path, np.arange(999))
    data = Path(source.path).read_bytes()
    for content, said in (
        (b"no HDF5" * 99, "no hdf5 file"),
        (b"\0no HDF5" * 99, "signature"),
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

    class Spy(reading.DatasetReader):
        def read(self, selection: tuple[slice, ...]) -> Array:
            lines = [
                range(s.start // c, (s.stop - 1) // c + 1)
                for s, c in zip(selection, chunks, strict=True)
            ]
            touched.extend(itertools.product(*lines))
            return super().read(selection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hdf5, "DatasetReader", Spy)
        for part in plan.parts:
            for _ in hdf5.fill(source, plan, part):
                pass
    needed = {row // chunks[0] for row in range(shape[0])[rows]}
    assert len(touched) == len(set(touched))
    assert {index[0] for index in touched} == needed


@pytest.mark.parametrize("rows", [slice(None), slice(33, 2, -1), slice(0, 40, 3)])
def test_tall_chunks(
    tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch, rows: slice
) -> None:
    """A row of chunks beyond `TALL_BYTES` is read a few rows at a time, and is the same."""
    monkeypatch.setattr(reading, "TALL_BYTES", 1000)
    sizes = []

    class Spy(reading.DatasetReader):
        def read(self, selection: tuple[slice, ...]) -> Array:
            out = super().read(selection)
            sizes.append(out.nbytes)
            return out

    monkeypatch.setattr(hdf5, "DatasetReader", Spy)
    array = np.arange(400).reshape(40, 10)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=array, chunks=(40, 2), compression="gzip")
    same(load(Source.of(tmp_path / "x.h5", rows=rows), segment), np.ascontiguousarray(array[rows]))
    assert max(sizes) <= 1000


@given(
    shape=hnp.array_shapes(max_dims=4, max_side=9),
    chunk=st.just((1, 1, 1, 1)) | st.tuples(*[st.integers(1, 4)] * 4),
    cap=st.integers(1, 300),
)
@settings(deadline=None)
def test_cuts_cover_in_order_and_bounded(
    shape: tuple[int, ...], chunk: tuple[int, ...], cap: int
) -> None:
    """Cuts give the values in C order, split no chunk, and stay near what was asked."""
    chunks = chunk[: len(shape)]
    array = np.arange(np.prod(shape)).reshape(shape)
    pieces = [array[cut] for cut in reading.cuts(shape, chunks, cap)]
    np.testing.assert_array_equal(np.concatenate([p.ravel() for p in pieces]), array.ravel())
    for cut in reading.cuts(shape, chunks, cap):
        assert all(s.start % c == 0 for s, c in zip(cut, chunks, strict=True))
    if set(chunks) == {1}:
        assert max(piece.size for piece in pieces) <= cap


def test_a_missing_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that is not there is said before reading, with what to install, and where."""
    source = as_chunked(tmp_path, np.arange(9))
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    with pytest.raises(MissingDependency, match=r"filter 1 \(deflate\)") as caught:
        probe(source)
    assert f"`{sys.executable} -m pip install hdf5plugin`" in str(caught.value)
    assert "`arrayd stop`" in str(caught.value)


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
