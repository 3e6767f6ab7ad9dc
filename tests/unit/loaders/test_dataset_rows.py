from __future__ import annotations

import ctypes
import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrayd.errors import BadFile, CastError, SourceChanged, SourceNotFound, SpecMismatch
from arrayd.samples.manifest import Field, Files, Manifest
from arrayd.source import Source
from arrayd_server.kernel import aio
from arrayd_server.loaders import npz
from arrayd_server.loaders.dataset import file_rows, open_files, reading, rows
from arrayd_server.loaders.dataset.decoded import DecodedRows
from arrayd_server.loaders.dataset.open_files import NotAddressed
from arrayd_server.loaders.dataset.rows import Placer, RowReader
from arrayd_server.loaders.dataset.runs import Runs
from arrayd_server.loaders.hdf5 import loader as hdf5
from tests.support.datasets import (
    WRITERS,
    field_of,
    make_dataset,
    make_samples,
    stats_of,
    write_chunked,
    write_hdf5,
    write_npy,
)

Array = np.ndarray[Any, Any]
IN_PLACE = ("npy", "raw", "stored", "hdf5")


def no_queue(*_: object) -> None:
    """Stand for a system that forbids native AIO."""
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.fixture(params=["direct", "cached"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Read past the page cache, and through it."""
    if request.param == "cached":
        monkeypatch.setattr(reading, "AioQueue", no_queue)
    yield request.param


def arrays_of(*rows: int, width: int = 5) -> list[Array]:
    """Return one array for each of `rows`, all values different."""
    edges = np.cumsum([0, *rows])
    whole = np.arange(edges[-1] * width, dtype="f8").reshape(-1, width)
    return [whole[a:b] for a, b in itertools.pairwise(edges)]


def read(reader: RowReader | DecodedRows, ids: Any, dtype: Any = "f8", width: int = 5) -> Array:
    """Read rows into places that are mixed up; return them in the order of `ids`."""
    wanted = np.asarray(ids, np.uint64)
    out = np.zeros((len(wanted) + 3, width), dtype)
    where = np.random.default_rng(1).permutation(len(out))[: len(wanted)]
    reader.read(wanted, out, where)
    rest = np.delete(out, where, axis=0)
    assert not rest.any()
    return out[where]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.lists(st.integers(0, 300), unique=True, min_size=1).map(sorted), max_size=4),
    st.integers(1, 1500),
    st.integers(0, 700),
    st.sampled_from([1, 512, 4096]),
    st.integers(0, 1000),
)
def test_runs_hold_their_rows(
    wanted: list[list[int]], row_bytes: int, base: int, align: int, gap: int
) -> None:
    """Each row lies in its run, runs are aligned, and do not touch or overlap each other."""
    files = np.repeat(np.arange(len(wanted)), list(map(len, wanted))).astype(np.int64)
    index = np.array([row for some in wanted for row in some], np.int64)
    offsets = base + index * row_bytes
    runs = Runs.of(files, offsets, row_bytes, align, gap)
    assert not (runs.starts % align).any() and not (runs.lengths % align).any()
    assert runs.lengths.max(initial=0) <= max(256 << 10, row_bytes + 2 * align)
    run = runs.run
    assert run.tolist() == np.repeat(np.arange(len(runs)), np.diff(runs.first)).tolist()
    assert (runs.files[run] == files).all()
    assert (runs.starts[run] + runs.inside == offsets).all()
    assert (runs.inside + row_bytes <= runs.needed[run]).all()
    assert (runs.needed <= runs.lengths).all()


def test_rows_side_by_side_are_read_once() -> None:
    """Neighbours are one run, up to its longest; what lies apart is not read."""
    zeros = np.zeros(4, np.int64)
    runs = Runs.of(zeros, np.array([0, 512, 5120, 9000]), 512, 512)
    assert runs.starts.tolist() == [0, 5120, 8704]
    assert runs.lengths.tolist() == [1024, 512, 1024]
    many = Runs.of(np.zeros(1000, np.int64), np.arange(1000) * 4096, 4096, 512)
    assert 10 < len(many) < 30
    assert many.lengths.sum() == 4096000


@pytest.mark.parametrize("kind", IN_PLACE)
def test_rows_in_place(kind: str, way: str, tmp_path: Path) -> None:
    """Rows come from several files, in any order, cast or not."""
    arrays = arrays_of(100, 1, 0, 700, 50)
    manifest = make_dataset(tmp_path, kind, [one for one in arrays if len(one)])
    whole = np.concatenate(arrays)
    ids = np.random.default_rng(0).permutation(len(whole))[:500]
    for cast in (None, np.dtype(">f4")):
        with closing(RowReader(manifest, manifest.fields[0], cast)) as reader:
            for some in (ids, ids[:1], ids[:0], np.arange(len(whole))):
                np.testing.assert_array_equal(read(reader, some, cast or "f8"), whole[some])


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_decoded(kind: str, tmp_path: Path) -> None:
    """Whatever the format, rows can be decoded at random."""
    arrays = arrays_of(30, 1, 50)
    manifest = make_dataset(tmp_path, kind, arrays)
    placer = Placer(manifest, manifest.fields[0], np.dtype("f4"), "error")
    reader, whole = DecodedRows(manifest, manifest.fields[0], placer), np.concatenate(arrays)
    for ids in ([80, 0, 31, 30, 7, 6], range(81)):
        np.testing.assert_array_equal(read(reader, ids, "f4"), whole[list(ids)])


def test_samples_decoded(tmp_path: Path) -> None:
    """Files that are one row each are read at random as well."""
    arrays = [one.reshape(5) for one in arrays_of(*[1] * 9)]
    manifest = make_samples(tmp_path, arrays)
    placer = Placer(manifest, manifest.fields[0], np.dtype("f8"), "error")
    with closing(DecodedRows(manifest, manifest.fields[0], placer)) as reader:
        np.testing.assert_array_equal(read(reader, [8, 0, 5]), np.stack(arrays)[[8, 0, 5]])


def test_one_chunk_is_decoded_once(tmp_path: Path) -> None:
    """Rows of one chunk are decoded together, and all of them offered to be kept."""
    whole = arrays_of(70)[0]
    manifest = make_dataset(tmp_path, "chunked", [whole])
    placer = Placer(manifest, manifest.fields[0], np.dtype("f8"), "error")
    kept: list[tuple[int, Array]] = []
    reader = DecodedRows(manifest, manifest.fields[0], placer)
    out = np.zeros((3, 5))
    ids = np.array([69, 8, 7], np.uint64)
    stats = reader.read(
        ids, out, np.arange(3), lambda ids, some: kept.append((int(ids[0]), some.copy()))
    )
    assert [at for at, _ in kept] == [7, 63]
    for at, some in kept:
        np.testing.assert_array_equal(some, whole[at : at + 7])
    assert stats.bytes_read == 2 * 7 * 40


def test_a_transposed_file_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a compressed file in Fortran order any row costs all of it: so all is one unit."""
    monkeypatch.setattr(file_rows, "BLOCK_BYTES", 400)
    (whole,) = arrays_of(300)
    manifest = make_dataset(tmp_path, "npz", [np.asfortranarray(whole)])
    placer = Placer(manifest, manifest.fields[0], np.dtype("f8"), "error")
    reader, out, fills = DecodedRows(manifest, manifest.fields[0], placer), np.zeros((3, 5)), []
    fill = npz.fill

    def counted(*args: Any) -> Any:
        fills.append(args)
        return fill(*args)

    monkeypatch.setattr(npz, "fill", counted)
    stats = reader.read(np.array([299, 0, 150], np.uint64), out, np.arange(3))
    np.testing.assert_array_equal(out, whole[[299, 0, 150]])
    assert (len(fills), stats.bytes_read) == (1, whole.nbytes)


@pytest.mark.parametrize("kind", ["npz", "chunked", "text"])
def test_what_is_decoded_has_no_address(kind: str, tmp_path: Path) -> None:
    """Such files are refused before anything is read."""
    manifest = make_dataset(tmp_path, kind, arrays_of(9))
    with (
        closing(RowReader(manifest, manifest.fields[0])) as reader,
        pytest.raises(NotAddressed),
    ):
        read(reader, [0])


def test_more_layouts_of_hdf5(tmp_path: Path) -> None:
    """A user block moves the rows; other types in the file than in memory have no address."""
    whole = arrays_of(40)[0]
    path = str(tmp_path / "user.h5")
    with h5py.File(path, "w", userblock_size=1024) as file:
        file["x"] = whole.astype(">f8")
    one, files = field_of([path], [whole.astype(">f8")], member="x")
    manifest = Manifest(40, (one,), (files,), {})
    with closing(RowReader(manifest, one, np.dtype("f8"))) as reader:
        np.testing.assert_array_equal(read(reader, [39, 2]), whole[[39, 2]])


def test_the_address_of_rows(tmp_path: Path) -> None:
    """It is that of the first row of ``rows=``; rows that do not follow each other have none."""
    (whole,) = arrays_of(40)
    path = write_hdf5(tmp_path / "a", whole)
    data = Path(path).read_bytes()
    for slice_, first in (
        (None, 0),
        (slice(7, 20), 7),
        (slice(-3, None), 37),
        (slice(0, 9, 2), None),
        (slice(None, None, -1), None),
    ):
        source = Source.of(path, dataset="x", rows=slice_)
        found = hdf5.address(source, hdf5.probe(source))
        assert (found is None) == (first is None)
        if found is not None:
            assert data[found : found + 40] == whole[first].tobytes()
    swmr = Source.of(path, dataset="x", swmr=True)
    assert hdf5.address(swmr, hdf5.probe(swmr)) is None


@pytest.mark.parametrize("row_bytes", [512, 4096])
def test_aligned_rows_go_straight_to_their_place(row_bytes: int, tmp_path: Path) -> None:
    """Where file, row and place are aligned nothing is copied; neighbours come by the buffer."""
    whole = np.random.default_rng(0).integers(0, 255, (300, row_bytes), np.uint8)
    path = tmp_path / "a.bin"
    path.write_bytes(whole.tobytes())
    options = (("shape", (-1, row_bytes)),)
    one, files = field_of([str(path)], [whole], format="raw", options=options)
    place = np.zeros(301 * row_bytes + 4096, np.uint8)
    begin = -place.ctypes.data % 4096
    out = place[begin : begin + 300 * row_bytes].reshape(300, row_bytes)
    ids = np.random.default_rng(1).permutation(300)[:200].astype(np.uint64)
    with closing(RowReader(Manifest(300, (one,), (files,), {}), one)) as reader:
        stats = reader.read(ids, out, np.arange(200)[::-1])
    np.testing.assert_array_equal(out[:200], whole[ids][::-1])
    assert stats.bytes_read < 300 * row_bytes + 4096


def test_rows_larger_than_the_buffer(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read one after another, cast or not."""
    monkeypatch.setattr(rows, "LARGE_BYTES", 1000)
    whole = np.arange(20 * 500, dtype="f4").reshape(20, 500)
    manifest = make_dataset(tmp_path, "npy", [whole])
    for cast in (None, np.dtype("f8")):
        with closing(RowReader(manifest, manifest.fields[0], cast)) as reader:
            found = read(reader, [3, 19, 0], cast or "f4", 500)
        np.testing.assert_array_equal(found, whole[[3, 19, 0]])


def test_few_files_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files there are."""
    monkeypatch.setattr(open_files, "MOST", 5)
    monkeypatch.setattr(rows, "FILES_AT_A_TIME", 3)
    arrays = arrays_of(*[2] * 40)
    manifest = make_dataset(tmp_path, "npy", arrays)
    with closing(RowReader(manifest, manifest.fields[0])) as reader:
        np.testing.assert_array_equal(read(reader, range(80)), np.concatenate(arrays))
        names = [os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors()]
        assert sum(str(tmp_path) in name for name in names) <= 5
    assert not any(str(tmp_path) in os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors())


def _descriptors() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]


def test_a_value_that_does_not_fit(tmp_path: Path) -> None:
    """The error names field, row, file, place and value; clipping is no error."""
    arrays = arrays_of(100, 100)
    manifest = make_dataset(tmp_path, "npy", arrays)
    one = manifest.fields[0]
    words = r"Field 'x', row 150 \(.*npy1\.npy\) at \[0\]: The value 750\.0 does not fit uint8"
    for reader in (
        RowReader(manifest, one, np.dtype("u1")),
        DecodedRows(manifest, one, Placer(manifest, one, np.dtype("u1"), "error")),
    ):
        with pytest.raises(CastError, match=words) as caught:
            read(reader, [3, 150], "u1")
        assert caught.value.details["row"] == 150
        if isinstance(reader, RowReader):
            reader.close()
    with closing(RowReader(manifest, one, np.dtype("u1"), "clip")) as clipping:
        assert read(clipping, [150], "u1").tolist() == [[255] * 5]
    with pytest.raises(SpecMismatch, match="cannot be cast"):
        RowReader(manifest, one, np.dtype("M8[s]"))


def test_files_that_are_not_what_they_were(way: str, tmp_path: Path) -> None:
    """Truncated, rewritten, replaced, gone: a typed error that names the file; no signal."""
    arrays = arrays_of(2000, 2000)
    manifest = make_dataset(tmp_path, "npy", arrays)
    path = manifest.files[0].path(1)
    with closing(RowReader(manifest, manifest.fields[0])) as reader:
        read(reader, [3000])
        os.truncate(path, 5000)
        with pytest.raises(SourceChanged, match=r"npy1\.npy.* make the dataset again"):
            read(reader, [3000])
        with pytest.raises(SourceChanged, match=r"npy1\.npy.* make the dataset again"):
            read(reader, [2000])
        os.unlink(path)
    with closing(RowReader(manifest, manifest.fields[0])) as reader:
        with pytest.raises(SourceNotFound, match=r"npy1\.npy is not there: it has rows 2000 to 39"):
            read(reader, [3000])
        np.testing.assert_array_equal(read(reader, [5]), arrays[0][[5]])
        os.utime(manifest.files[0].path(0))
        with pytest.raises(SourceChanged, match=r"npy0\.npy has changed .*written since"):
            read(reader, [5])


def test_a_disk_error(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO names file and row, and what to do."""
    manifest = make_dataset(tmp_path, "npy", arrays_of(2000))

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def reap(self: aio.AioQueue, least: int) -> Any:
        tags, results = whole(self, least)
        return tags, np.full_like(results, -errno.EIO)

    whole = aio.AioQueue.reap
    with closing(RowReader(manifest, manifest.fields[0])) as reader:
        read(reader, [7])
        monkeypatch.setattr(aio.AioQueue, "reap", reap)
        monkeypatch.setattr(os, "preadv", broken)
        with pytest.raises(BadFile, match=r"npy0\.npy, row 7 of field 'x' cannot be read: Input/"):
            read(reader, [7])
        monkeypatch.undo()
        read(reader, [7])


def test_a_file_unlike_the_first(tmp_path: Path) -> None:
    """A file with rows of another shape, or with more of them than were counted, is named."""
    arrays = arrays_of(4, 4)
    paths = [write_npy(tmp_path / "a", arrays[0]), write_npy(tmp_path / "b", arrays[1][:, :3])]
    one = Field("x", arrays[0].dtype, (5,))
    manifest = Manifest(8, (one,), (Files.of(paths, stats_of(paths), [4, 4]),), {})
    words = r"b\.npy.*\(3,\).*\(5,\)"
    with closing(RowReader(manifest, one)) as reader, pytest.raises(SpecMismatch, match=words):
        read(reader, [5])
    manifest = Manifest(7, (one,), (Files.of(paths, stats_of(paths), [3, 4]),), {})
    with closing(RowReader(manifest, one)) as reader, pytest.raises(BadFile, match="has 4 rows"):
        read(reader, [0])


def test_some_files_in_place_and_some_not(tmp_path: Path) -> None:
    """The reader says which file must be decoded."""
    arrays = arrays_of(10, 10)
    paths = [write_hdf5(tmp_path / "a", arrays[0]), write_chunked(tmp_path / "b", arrays[1])]
    one, files = field_of(paths, arrays, member="x")
    with closing(RowReader(Manifest(20, (one,), (files,), {}), one)) as reader:
        np.testing.assert_array_equal(read(reader, [5]), arrays[0][[5]])
        with pytest.raises(NotAddressed) as caught:
            read(reader, [15])
    assert caught.value.args == (1,)


def test_the_page_cache_is_left_alone(way: str, tmp_path: Path) -> None:
    """What was read at random is not kept by the kernel: it would push out everything else."""
    whole = np.arange(2000 * 64, dtype="f8").reshape(2000, 64)
    manifest = make_dataset(tmp_path, "npy", [whole])
    path = manifest.files[0].path(0)
    with closing(RowReader(manifest, manifest.fields[0])) as reader:
        read(reader, [0], width=64)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if cached_pages(path):
            pytest.skip("this file system keeps its files in memory")
        read(reader, range(0, 2000, 3), width=64)
    assert cached_pages(path) == 0


def cached_pages(path: str) -> int:
    """Return how many pages of a file are in the page cache."""
    size = os.path.getsize(path)
    resident = np.zeros(-(-size // 4096), np.uint8)
    mapped = np.memmap(path, np.uint8, "r")
    libc = ctypes.CDLL(None, use_errno=True)
    address, length = ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(size)
    assert libc.mincore(address, length, ctypes.c_void_p(resident.ctypes.data)) == 0
    return int((resident & 1).sum())
