from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrayd.errors import BadFile, SourceChanged, SourceNotFound, SpecMismatch
from arrayd.samples.manifest import Files, Manifest
from arrayd.source import Source
from arrayd_server.loaders.base import Chunks
from arrayd_server.loaders.dataset import file_rows
from arrayd_server.loaders.dataset.manifests import check_file, stat_of
from arrayd_server.loaders.formats import probe
from tests.support.datasets import (
    WRITERS,
    Write,
    field_of,
    make_dataset,
    make_samples,
    stats_of,
    write_npy,
    write_npz,
)
from tests.support.loading import load, make_segment, make_tiny

Array = np.ndarray[Any, Any]


@pytest.fixture
def segment() -> Iterator[Path]:
    """Path of a segment to be."""
    yield from make_segment()


def arrays_of(*rows: int) -> list[Array]:
    """Return one array of 5 columns for each of `rows`, all values different."""
    arrays, value = [], 0
    for count in rows:
        arrays.append(np.arange(value, value + 5 * count, dtype="f8").reshape(count, 5))
        value += 5 * count
    return arrays


def source_of(manifest: Manifest, folder: Path, **options: Any) -> Source:
    """Save a manifest and return the source of its field x."""
    return Source.of(manifest.save(str(folder)), dataset="x", format="dataset", **options)


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_of_many_files(
    kind: str, tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A field is the rows of its files, one after another, whatever their format."""
    make_tiny(monkeypatch)
    arrays = arrays_of(30, 1, 50, 17)
    source = source_of(make_dataset(tmp_path, kind, arrays), tmp_path)
    parts = probe(source).parts
    assert len(parts) == len(arrays) if kind == "npz" else len(parts) > 10
    np.testing.assert_array_equal(load(source, segment), np.concatenate(arrays))


@pytest.mark.parametrize("kind", WRITERS)
def test_chosen_rows(
    kind: str, tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ids only those rows, in that order; rows= cuts what is left."""
    make_tiny(monkeypatch)
    monkeypatch.setattr("arrayd_server.loaders.dataset.loader.SKIP_BYTES", 100)
    arrays = arrays_of(30, 1, 50, 17)
    ids = np.array([0, 3, 4, 29, 30, 31, 70, 97])
    np.save(tmp_path / "ids.npy", ids)
    manifest = make_dataset(tmp_path, kind, arrays)
    source = source_of(manifest, tmp_path, ids=str(tmp_path / "ids.npy"), rows=slice(1, None))
    np.testing.assert_array_equal(load(source, segment), np.concatenate(arrays)[ids[1:]])
    assert probe(source).files == (str(tmp_path / "ids.npy"),)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many values each chunk had that a format gave."""
    sizes: list[int] = []
    flat = file_rows.flat

    def counted(source: Source, chunks: Chunks) -> Chunks:
        for chunk in flat(source, chunks):
            sizes.append(chunk.size)
            yield chunk

    monkeypatch.setattr(file_rows, "flat", counted)
    return sizes


@pytest.mark.parametrize("kind", ["npz", "text"])
def test_rows_of_a_long_file_are_decoded_once(
    kind: str, tmp_path: Path, segment: Path, decoded: list[int]
) -> None:
    """However many rows a part has, what can only be read from its beginning is read once."""
    array = np.arange(70_000.0).reshape(-1, 1)
    source = source_of(make_dataset(tmp_path, kind, [array]), tmp_path)
    np.testing.assert_array_equal(load(source, segment), array)
    assert sum(decoded) == array.size


def write_transposed(path: Path, array: Array) -> str:
    """Write a compressed archive in Fortran order."""
    return write_npz(path, np.asfortranarray(array))


def write_gzipped(path: Path, array: Array) -> str:
    """Write a compressed table of numbers."""
    np.savetxt(f"{path}.txt.gz", array, fmt="%.17g")
    return f"{path}.txt.gz"


ONE_UNIT: list[tuple[Write, str | None]] = [
    (write_npz, "x"),
    (write_transposed, "x"),
    (write_gzipped, None),
]
"""How files are written that are decoded as a whole, and the member of their field."""


@pytest.mark.parametrize(("write", "member"), ONE_UNIT)
def test_one_unit_is_in_one_part(
    write: Write,
    member: str | None,
    tmp_path: Path,
    segment: Path,
    monkeypatch: pytest.MonkeyPatch,
    decoded: list[int],
) -> None:
    """Rows of a file that is decoded as a whole are in one part, near each other or not."""
    make_tiny(monkeypatch)
    monkeypatch.setattr("arrayd_server.loaders.dataset.loader.SKIP_BYTES", 80)
    arrays = arrays_of(30, 1, 50, 17)
    paths = [write(tmp_path / f"{n}", array) for n, array in enumerate(arrays)]
    one, files = field_of(paths, arrays, member=member)
    manifest, whole = Manifest(files.rows, (one,), (files,), {}), np.concatenate(arrays)
    ids = np.array([0, 3, 4, 29, 31, 40, 41, 55, 70, 79], np.uint64)
    np.save(tmp_path / "ids.npy", ids)
    some = source_of(manifest, tmp_path, ids=str(tmp_path / "ids.npy"))
    spread = source_of(manifest, tmp_path, rows=slice(2, None, 3))
    for source, wanted, parts, most in (
        (source_of(manifest, tmp_path), np.arange(98), 4, whole.size),
        (some, ids, 2, 80 * 5),
        (spread, np.arange(2, 98, 3), 3, 97 * 5),
    ):
        decoded.clear()
        assert len(probe(source).parts) == parts
        np.testing.assert_array_equal(load(source, segment), whole[wanted])
        assert sum(decoded) <= most
        segment.unlink()


def test_what_follows_the_last_row_is_not_decoded(
    tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    """Of a compressed file as much is decoded as the rows need."""
    make_tiny(monkeypatch)
    (array,) = arrays_of(100)
    source = source_of(make_dataset(tmp_path, "npz", [array]), tmp_path, rows=slice(2, 9))
    np.testing.assert_array_equal(load(source, segment), array[2:9])
    assert 9 * 5 <= sum(decoded) <= 10 * 5


def test_parts_of_a_text_without_wanted_rows(
    tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    """A part of a text is decoded once if rows of it are wanted, and else not at all."""
    monkeypatch.setattr("arrayd_server.loaders.text.row_scan.BLOCK_BYTES", 4096)
    monkeypatch.setattr("arrayd_server.loaders.text.loader.PART_BYTES", 8192)
    array = np.arange(20_000.0).reshape(-1, 1)
    manifest = make_dataset(tmp_path, "text", [array])
    text = Source.of(manifest.files[0].path(0), ndmin=2)
    parts = probe(text).parts
    assert len(parts) > 6
    ids = np.r_[parts[1].start, parts[2].stop - 1, parts[5].start : parts[5].stop : 9]
    np.save(tmp_path / "ids.npy", ids)
    source = source_of(manifest, tmp_path, ids=str(tmp_path / "ids.npy"))
    np.testing.assert_array_equal(load(source, segment), array[ids])
    assert sum(decoded) <= sum(parts[n].stop - parts[n].start for n in (1, 2, 5))


def test_a_wrong_checksum(tmp_path: Path, segment: Path) -> None:
    """It is compared where the last row of a compressed file is read."""
    (array,) = arrays_of(100)
    path = Path(WRITERS["npz"](tmp_path / "a", array))
    with zipfile.ZipFile(path) as archive:
        crc = struct.pack("<I", archive.infolist()[0].CRC)
    data = path.read_bytes()
    assert data.count(crc) == 2
    path.write_bytes(data.replace(crc, bytes(4)))
    one, files = field_of([str(path)], [array], member="x")
    manifest = Manifest(100, (one,), (files,), {})
    with pytest.raises(BadFile, match="CRC"):
        load(source_of(manifest, tmp_path), segment)


def test_fortran_order(tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of an array in Fortran order are rows all the same."""
    make_tiny(monkeypatch)
    monkeypatch.setattr("arrayd_server.loaders.dataset.file_rows.BLOCK_BYTES", 100)
    arrays = [np.asfortranarray(one) for one in arrays_of(30, 12)]
    source = source_of(make_dataset(tmp_path, "npy", arrays), tmp_path)
    np.testing.assert_array_equal(load(source, segment), np.concatenate(arrays))


def test_rows_longer_than_a_chunk(
    tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that comes in pieces is put together, and cast."""
    make_tiny(monkeypatch)
    array = np.arange(4 * 3 * 7 * 5).reshape(4, 3, 7, 5)
    for kind in ("npy", "hdf5"):
        source = source_of(make_dataset(tmp_path, kind, [array]), tmp_path, cast="u2")
        np.testing.assert_array_equal(load(source, segment), array.astype("u2"))
        segment.unlink()


@pytest.mark.parametrize("kind", ["npy", "npz", "hdf5"])
def test_one_sample_per_file(kind: str, tmp_path: Path, segment: Path) -> None:
    """Each file as a whole is a row."""
    arrays = [one.reshape(2, 5) for one in arrays_of(*[2] * 40)]
    source = source_of(make_samples(tmp_path, arrays, kind), tmp_path)
    np.testing.assert_array_equal(load(source, segment), np.stack(arrays))


def test_samples_with_other_headers(tmp_path: Path, segment: Path) -> None:
    """A file whose header is written in another way, or whose order is Fortran's, is no odd one."""
    arrays = [one.reshape(2, 5) for one in arrays_of(*[2] * 6)]
    manifest = make_samples(tmp_path, arrays)
    arrays[2] = np.asfortranarray(arrays[2])
    write_npy(tmp_path / "sample2", arrays[2])
    with open(tmp_path / "sample4.npy", "wb") as file:
        np.lib.format.write_array(file, arrays[4], version=(2, 0))
    manifest = make_samples_again(manifest)
    source = source_of(manifest, tmp_path)
    np.testing.assert_array_equal(load(source, segment), np.stack(arrays))


def make_samples_again(manifest: Manifest) -> Manifest:
    """Return the manifest with the present stats of its files."""
    paths = [manifest.files[0].path(n) for n in range(manifest.rows)]
    files = Files.of(paths, stats_of(paths), [1] * len(paths))
    return Manifest(manifest.rows, manifest.fields, (files,), {})


def test_a_sample_of_another_shape(tmp_path: Path, segment: Path) -> None:
    """The error names the file, both shapes, and what to do."""
    arrays = [one.reshape(2, 5) for one in arrays_of(*[2] * 6)]
    arrays[3] = arrays[3].reshape(5, 2)
    source = source_of(make_samples(tmp_path, arrays), tmp_path)
    with pytest.raises(SpecMismatch, match=r"sample3\.npy.*\(5, 2\).*\(2, 5\).*make the dataset"):
        load(source, segment)
    arrays[3] = arrays[2].astype("f4")
    source = source_of(make_samples(tmp_path, arrays), tmp_path)
    with pytest.raises(SpecMismatch, match=r"sample3\.npy.*float32.*float64"):
        load(source, segment)


@pytest.mark.parametrize("make", [make_samples, lambda f, a: make_dataset(f, "npy", a)])
def test_files_that_changed_or_are_gone(make: Any, tmp_path: Path, segment: Path) -> None:
    """A file in another state than when it was scanned is named; so is a missing one."""
    arrays = [one.reshape(2, 5) for one in arrays_of(*[2] * 6)]
    manifest = make(tmp_path, arrays)
    source, path = source_of(manifest, tmp_path), manifest.files[0].path(4)
    stat = os.stat(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(SourceChanged, match=r"4\.npy has changed .* written since.* make the"):
        load(source, segment)
    os.truncate(path, 100)
    with pytest.raises(SourceChanged, match=r"208 bytes, and has 100"):
        load(source, segment)
    os.unlink(path)
    with pytest.raises(SourceNotFound, match=r"4\.npy is not there: it has rows? (4|8 to 9) of"):
        load(source, segment)


def with_stat(found: os.stat_result, **changes: int) -> os.stat_result:
    """Return a ``stat`` with another inode or times."""
    reduced: Any = found.__reduce__()
    numbers, named = reduced[1]
    numbers = (numbers[0], changes.pop("st_ino", numbers[1]), *numbers[2:])
    return os.stat_result(numbers, {**named, **changes})


def test_inodes_of_64_bits(tmp_path: Path) -> None:
    """A manifest has them as int64; they are compared, and named as the system has them."""
    path = write_npy(tmp_path / "a", np.zeros(3))
    found = with_stat(os.stat(path), st_ino=2**64 - 5)
    files = Files.of([path], [stat_of(found)], [3])
    assert stat_of(found) == tuple(files.stats[0].tolist())
    check_file(files, 0, found)
    with pytest.raises(SourceChanged, match=rf"it was inode {2**64 - 5}, and is 7\)"):
        check_file(files, 0, with_stat(found, st_ino=7))
    with pytest.raises(SourceChanged, match=r"\(its owner, its rights, its links or its device"):
        check_file(files, 0, with_stat(found, st_ctime_ns=1))


def test_fields_are_found_by_name(tmp_path: Path) -> None:
    """A name that is not there is told from those that are; one field needs no name."""
    manifest = make_dataset(tmp_path, "npy", arrays_of(3))
    path = manifest.save(str(tmp_path))
    assert probe(Source.of(path, format="dataset")).member == "x"
    with pytest.raises(SourceNotFound, match="no field 'y'"):
        probe(Source.of(path, format="dataset", dataset="y"))
    with pytest.raises(SpecMismatch, match="no option nonsense"):
        probe(Source.of(path, format="dataset", nonsense=1))


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        ([0, 3], SpecMismatch, "from 0 to 2"),
        ([1, 1], SpecMismatch, "rise strictly"),
        ([[0, 1]], BadFile, "one axis of integers"),
        ([0.5], BadFile, "float64"),
    ],
)
def test_ids_that_are_none(ids: Any, error: type[Exception], words: str, tmp_path: Path) -> None:
    """Row ids of another dataset, or what is no list of ids, are refused."""
    np.save(tmp_path / "ids.npy", np.array(ids))
    manifest = make_dataset(tmp_path, "npy", arrays_of(3))
    with pytest.raises(error, match=words):
        probe(source_of(manifest, tmp_path, ids=str(tmp_path / "ids.npy")))
