"""HDF5 chunks that are decoded here: what h5py reads, or an error, whatever the file says."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrayd.errors import BadFile, SourceChanged
from arrayd.source import Source
from arrayd_server.loaders.formats import probe
from arrayd_server.loaders.hdf5 import chunks
from arrayd_server.loaders.hdf5 import loader as hdf5
from tests.support.loading import QUICK, Array, load, make_segment, make_tiny, same

RECORD = np.dtype({"names": ["a", "b"], "formats": ["i1", ">f8"], "offsets": [2, 8]})
DTYPES = [np.dtype(d) for d in ("i1", "<f4", ">i2", "f8", "?", "S5", "c16", "f2", ">u8", RECORD)]
segment = pytest.fixture(make_segment)


@pytest.fixture(params=["libdeflate", "zlib"])
def _codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inflate with one or with the other."""
    if request.param == "zlib":
        monkeypatch.setattr(chunks, "_libdeflate", None)
    elif chunks._libdeflate is None:
        pytest.skip("deflate is not installed")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decode chunks of any size here; have many parts; forget the index of another test's file."""
    make_tiny(monkeypatch)
    monkeypatch.setattr(chunks, "MIN_BYTES", 1)
    monkeypatch.setattr(chunks, "_ITEMS", 7)
    monkeypatch.setattr(chunks, "_COLUMNS", 6)
    chunks._KEPT.clear()
    yield
    chunks._KEPT.clear()


FILTERS = [("deflate",), ("shuffle", "deflate")]


def make(
    file: h5py.File,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunk: tuple[int, ...],
    **how: Any,
) -> h5py.Dataset:
    """Make a dataset ``x`` with filters, a fill value and a fill time."""
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk(chunk)
    for name in how.get("filters", ()):
        created.set_shuffle() if name == "shuffle" else created.set_deflate(how.get("level", 4))
    if how.get("fill") is not None:
        created.set_fill_value(how["fill"])
    created.set_fill_time(how.get("time", h5py.h5d.FILL_TIME_IFSET))
    space = h5py.h5s.create_simple(shape, (h5py.h5s.UNLIMITED,) * len(shape))
    kind = h5py.h5t.py_create(dtype, logical=True)
    return h5py.Dataset(h5py.h5d.create(file.id, b"x", kind, space, created))


def values_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array with bytes that tell their place; bools are 0 and 1."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.arange(size) // 3 % (2 if dtype.kind == "b" else 61) + (dtype.kind != "b")
    return raw.astype(np.uint8).view(dtype).reshape(shape)


@st.composite
def datasets(draw: st.DrawFn) -> dict[str, Any]:
    """Return a shape of 1 to 3 axes, chunks that may be wider, and what makes the rest."""
    axes = draw(st.integers(1, 3))
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=axes, max_size=axes)))
    dtype = draw(st.sampled_from(DTYPES))
    grid = st.lists(st.integers(1, 11), min_size=axes, max_size=axes)
    fill = None if draw(st.booleans()) else values_of((7,), dtype)[6:].reshape(())
    time = st.sampled_from(
        [h5py.h5d.FILL_TIME_IFSET, h5py.h5d.FILL_TIME_ALLOC, h5py.h5d.FILL_TIME_NEVER]
    )
    return {
        "shape": shape,
        "dtype": dtype,
        "chunk": tuple(draw(grid)),
        "filters": draw(st.sampled_from(FILTERS)),
        "fill": fill,
        "time": draw(time),
        "written": draw(st.integers(0, 255)),  # a bit for each of the first chunks
        "skipped": draw(st.integers(0, 3)),  # filters of the chunk that is written raw
        "libver": draw(st.sampled_from(["earliest", "latest"])),
        "userblock": draw(st.sampled_from([0, 512])),
    }


bounds = st.none() | st.integers(-10, 10)
slices = st.builds(slice, bounds, bounds, st.none() | st.integers(-4, 4).filter(bool))


def write_dataset(path: Path, how: dict[str, Any]) -> None:
    """Write some of the chunks, and one of them raw, with filters left out."""
    libver, block = how["libver"], how["userblock"]
    with h5py.File(path, "w", libver=libver, userblock_size=block) as file:
        keys = ("filters", "fill", "time")
        options = {key: how[key] for key in keys}
        dataset = make(file, how["shape"], how["dtype"], how["chunk"], **options)
        values = values_of(how["shape"], how["dtype"])
        for number, cut in enumerate(dataset.iter_chunks()):
            if how["written"] >> min(number, 7) & 1:
                dataset[cut] = values[cut]
        raw = values_of((int(np.prod(how["chunk"])),), how["dtype"]).tobytes()
        mask = how["skipped"] & (1 << len(how["filters"])) - 1
        applied = [f for i, f in enumerate(how["filters"]) if not mask >> i & 1]
        if mask and "shuffle" in applied:
            columns = np.frombuffer(raw, np.uint8).reshape(-1, how["dtype"].itemsize).T
            raw = columns.tobytes() if columns.shape[1] > 1 else raw
        if mask and "deflate" in applied:
            raw = zlib.compress(raw)
        if mask:
            dataset.id.write_direct_chunk((0,) * len(how["shape"]), raw, filter_mask=mask)


@given(how=datasets(), rows=slices, order=st.sampled_from(["C", "F"]))
@QUICK
@pytest.mark.usefixtures("_codec")
def test_as_h5py_reads_it(
    how: dict[str, Any], rows: slice, order: str, tmp_path: Path, segment: Path
) -> None:
    """Any dtype, shape, chunk, filter mask, fill value, rows and order; written or not."""
    path = tmp_path / "a.h5"
    write_dataset(path, how)
    with h5py.File(path) as file:
        dataset = file["x"]
        expected = np.zeros(dataset.shape, dataset.dtype)
        dataset.read_direct(expected)
    source = replace(Source.of(path, dataset="x", rows=rows), order=order)
    plan = probe(source)
    assert plan.detail[3]
    assert not plan.apart
    same(load(source, segment), expected[rows])


@given(how=datasets(), rows=slices)
@settings(QUICK, max_examples=50)
def test_casts(how: dict[str, Any], rows: slice, tmp_path: Path, segment: Path) -> None:
    """What is decoded is cast as any other format's."""
    how |= {"dtype": np.dtype("<i2"), "fill": None}
    path = tmp_path / "a.h5"
    write_dataset(path, how)
    with h5py.File(path) as file:
        expected = np.zeros(file["x"].shape, "i2")
        file["x"].read_direct(expected)
    source = Source.of(path, dataset="x", rows=rows, cast=">f8")
    same(load(source, segment), expected[rows].astype(">f8"))


@given(
    filters=st.sampled_from(FILTERS),
    changes=st.dictionaries(st.integers(0, 400), st.integers(0, 255), min_size=1, max_size=3),
    cut=st.integers(0, 200),
)
@settings(QUICK, max_examples=50)
@pytest.mark.usefixtures("_codec")
def test_damaged_chunks(
    filters: tuple[str, ...],
    changes: dict[int, int],
    cut: int,
    tmp_path: Path,
    segment: Path,
) -> None:
    """A damaged stream is an error that names the chunk, or decodes to what it should."""
    values = np.random.default_rng(0).integers(0, 40, (8, 60)).astype("<u4")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        dataset = make(file, (8, 60), values.dtype, (4, 60), filters=filters)
        dataset[...] = values
        stored = bytearray(dataset.id.read_direct_chunk((4, 0))[1])
        for place, byte in changes.items():
            stored[place % len(stored)] = byte
        dataset.id.write_direct_chunk((4, 0), bytes(stored[: len(stored) - cut] or b"\0"))
    with suppress(BadFile):
        same(load(Source.of(path, dataset="x"), segment), values)


def bomb(values: Array) -> bytes:
    """Return a stream that inflates to a thousand times a chunk."""
    return zlib.compress(bytes(1000 * values.nbytes))


def too_short(values: Array) -> bytes:
    """Return a sound stream of fewer bytes than a chunk has."""
    return zlib.compress(values.tobytes()[:-4])


def too_long(values: Array) -> bytes:
    """Return a sound stream of one byte more."""
    return zlib.compress(values.tobytes() + b"x")


def wrong_sum(values: Array) -> bytes:
    """Return a stream whose checksum is another's."""
    return zlib.compress(values.tobytes())[:-1] + b"\0"


def huge(values: Array) -> bytes:
    """Return more bytes than any filter makes of a chunk."""
    return zlib.compress(values.tobytes()) + bytes(20_000)


@pytest.mark.parametrize("stored", [bomb, too_short, too_long, wrong_sum, huge])
@pytest.mark.usefixtures("_codec")
def test_a_chunk_of_another_size(stored: Any, tmp_path: Path) -> None:
    """It is an error with the chunk and its first row, not the memory of anybody."""
    values = np.arange(300, dtype="<i4").reshape(10, 30)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        dataset = make(file, (10, 30), values.dtype, (5, 30), filters=("deflate",))
        dataset[...] = values
        dataset.id.write_direct_chunk((5, 0), stored(values[5:]))
    source = Source.of(path, dataset="x")
    plan = probe(source)
    with pytest.raises(BadFile, match=r"the chunk at \[5, 0\] \(from row 5 on\)"):
        for part in plan.parts:
            list(hdf5.fill(source, plan, part))


def test_a_chunk_without_filters_of_another_size(tmp_path: Path) -> None:
    """Nothing is made up where a chunk is shorter than it should be."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        dataset = make(file, (4, 4), np.dtype("i4"), (4, 4), filters=("deflate",))
        dataset.id.write_direct_chunk((0, 0), bytes(60), filter_mask=1)
    source = Source.of(path, dataset="x")
    plan = probe(source)
    with pytest.raises(BadFile, match="it has 60 bytes, not 64"):
        list(hdf5.fill(source, plan, plan.parts[0]))


def test_an_index_that_is_damaged(tmp_path: Path) -> None:
    """A chunk outside of the dataset, or where another is, is an error."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        dataset = make(file, (12,), np.dtype("u1"), (3,), filters=("deflate",))
        dataset[...] = 7
        size = dataset.id.get_chunk_info_by_coord((6,)).size
    data = path.read_bytes()
    # A key of the B-tree: stored size, filter mask, where the chunk begins in rows and in bytes.
    key = size.to_bytes(4, "little") + bytes(4) + (6).to_bytes(8, "little") + bytes(8)
    assert data.count(key) == 1
    for wrong in (300, 7, 3):
        path.write_bytes(data.replace(key, key[:8] + wrong.to_bytes(8, "little") + bytes(8)))
        source = Source.of(path, dataset="x")
        with pytest.raises(BadFile):
            list(hdf5.fill(source, probe(source), probe(source).parts[-1]))


def test_the_file_ends_within_a_chunk(tmp_path: Path) -> None:
    """It is said which chunk, and not of what another reader left."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        dataset = make(file, (8, 300), np.dtype("u1"), (4, 300), filters=("deflate",))
        dataset[:4] = 7
        dataset.id.write_direct_chunk((4, 0), bytes(1200), filter_mask=1)
        address = file["x"].id.get_chunk_info_by_coord((4, 0)).byte_offset
    source = Source.of(path, dataset="x")
    plan = probe(source)
    with h5py.File(path) as file:
        reader = chunks.ChunkReader(source, file["x"])
        with open(path, "r+b") as other:
            other.truncate(address + 100)
        with pytest.raises(BadFile, match=r"the chunk at \[4, 0\].*1100 bytes before its end"):
            reader.read((slice(4, 8), slice(0, 300)))
    assert plan.detail[3]


def test_left_to_libhdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other filters or none, conversions, small and large chunks, files that are being written."""
    values = np.arange(64, dtype="<i4").reshape(8, 8)
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        ours = {"data": values, "chunks": (4, 8), "compression": "gzip", "shuffle": True}
        file.create_dataset("ours", **ours)
        file.create_dataset("lzf", **ours | {"compression": "lzf"})
        file.create_dataset("summed", **ours, fletcher32=True)
        file.create_dataset("scaled", data=values, chunks=(4, 8), scaleoffset=0)
        file.create_dataset("text", (4,), h5py.string_dtype(), chunks=(2,))
        file.create_dataset("pairs", (8, 8), "2<i4", chunks=(4, 8), compression="gzip")
        file.create_dataset("chunked", data=values, chunks=(4, 8))
        file.create_dataset("contiguous", data=values)

    def decoded_here(**options: Any) -> list[str]:
        names = ("ours", "lzf", "summed", "scaled", "text", "pairs", "chunked", "contiguous")
        found = []
        for name in names:
            source = Source.of(tmp_path / "a.h5", dataset=name, **options)
            plan = hdf5.probe(replace(source, cast=np.dtype("S8") if name == "text" else None))
            found += [name] if plan.detail[3] else []
            filtered = name not in ("text", "chunked", "contiguous")
            assert plan.apart == (filtered and not plan.detail[3])
        return found

    assert decoded_here() == ["ours"]
    assert decoded_here(swmr=True) == []
    for name, value in (("MIN_BYTES", 129), ("MAX_BYTES", 127), ("MAX_CHUNKS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(chunks, name, value)
            assert decoded_here() == []


def test_chunks_at_the_edge_without_filters(tmp_path: Path, segment: Path) -> None:
    """A file may have its partial chunks as they are, and nothing in their entries says so."""
    path, values = tmp_path / "a.h5", np.arange(60, dtype="<i4").reshape(10, 6)
    with h5py.File(path, "w", libver="latest") as file:
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((4, 6))
        created.set_shuffle()
        created.set_deflate(4)
        hdf5_library = ctypes.CDLL(h5py.h5p.__file__)
        assert hdf5_library.H5Pset_chunk_opts(ctypes.c_int64(created.id), ctypes.c_uint(2)) >= 0
        space = h5py.h5s.create_simple(values.shape)
        made = h5py.h5d.create(file.id, b"x", h5py.h5t.STD_I32LE, space, created)
        h5py.Dataset(made)[...] = values
        last = file["x"].id.get_chunk_info_by_coord((8, 0))
        assert (last.filter_mask, last.size) == (0, 96)
    source = Source.of(path, dataset="x")
    assert not probe(source).detail[3]
    same(load(source, segment), values)


def test_another_dataset_than_was_planned(tmp_path: Path) -> None:
    """libhdf5 does not decode, in a process that has read other files, what we planned to."""
    source = Source.of(tmp_path / "a.h5", dataset="x")
    plans = []
    for filters in ("gzip", "lzf"):
        with h5py.File(source.path, "w") as file:
            file.create_dataset("x", data=np.arange(99), chunks=(9,), compression=filters)
        plans.append(probe(source))
    plan = plans[0]
    assert [one.detail[3] for one in plans] == [True, False]
    with pytest.raises(SourceChanged):
        list(hdf5.fill(source, plan, plan.parts[0]))
