"""Reading past the page cache: part after part of the buffer, in whatever order reads are over."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrayd.errors import SourceChanged
from arrayd.samples.manifest import Manifest
from arrayd_server.kernel import aio
from arrayd_server.loaders.dataset import reading
from arrayd_server.loaders.dataset.reading import ReadQueues
from arrayd_server.loaders.dataset.rows import RowReader
from arrayd_server.loaders.dataset.runs import spaced, spaced_rows
from tests.support.datasets import field_of, make_dataset

Array = np.ndarray[Any, Any]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the buffer in parts of few reads, so that each is used many times."""
    monkeypatch.setattr(reading, "PART_READS", 5)
    monkeypatch.setattr(reading, "BOUNCE_BYTES", 24 << 10)
    if not ReadQueues(1).has_direct:
        pytest.skip("no native AIO here")
    yield


class AwkwardQueue(aio.AioQueue):
    """Takes two reads at a time; they are over one by one, and the last one is over first."""

    over: list[tuple[int, int]]

    def submit(self, reads: aio.Reads, start: int, stop: int) -> int:
        """Begin two."""
        return super().submit(reads, start, min(stop, start + 2))

    def reap(self, least: int) -> Any:
        """Return the last one that is over."""
        over = self.__dict__.setdefault("over", [])
        if self.in_flight:
            tags, results = super().reap(self.in_flight)
            over += zip(tags.tolist(), results.tolist(), strict=True)
        tag, result = over.pop()
        return np.array([tag]), np.array([result])


def raw_files(folder: Path, row_bytes: int, *rows: int, base: int) -> tuple[Manifest, Array]:
    """Return a dataset of files with `base` bytes before the first row, and all its rows."""
    whole = np.random.default_rng(3).integers(0, 255, (sum(rows), row_bytes), np.uint8)
    arrays = np.split(whole, np.cumsum(rows)[:-1])
    paths = [str(folder / f"{number}.bin") for number in range(len(rows))]
    for path, array in zip(paths, arrays, strict=True):
        Path(path).write_bytes(bytes(base) + array.tobytes())
    options = (("shape", (-1, row_bytes)), ("offset", base))
    one, files = field_of(paths, arrays, format="raw", options=options)
    return Manifest(len(whole), (one,), (files,), {}), whole


@pytest.mark.parametrize("awkward", [False, True])
@pytest.mark.parametrize("row_bytes", [1, 100, 512, 4096, 5000, 30_000])
def test_rows_of_any_size(
    row_bytes: int, awkward: bool, small_parts: None, tmp_path: Path, monkeypatch: Any
) -> None:
    """Few or many of them, to the last one of each file, from files that are aligned or not."""
    if awkward:
        monkeypatch.setattr(reading, "AioQueue", AwkwardQueue)
    random = np.random.default_rng(row_bytes)
    for base in (0, 128):
        manifest, whole = raw_files(tmp_path, row_bytes, 70, 1, 50, base=base)
        place = np.zeros(130 * row_bytes + 4096, np.uint8)
        begin = -place.ctypes.data % 4096  # with aligned files some come without the buffer
        out = place[begin : begin + 130 * row_bytes].reshape(130, row_bytes)
        with closing(RowReader(manifest, manifest.fields[0])) as reader:
            for count in (1, 2, 17, 100, 121):
                ids = random.permutation(121)[:count].astype(np.uint64)
                where = random.permutation(130)[:count]
                out[:] = 255
                stats = reader.read(ids, out, where)
                np.testing.assert_array_equal(out[where], whole[ids])
                assert (np.delete(out, where, axis=0) == 255).all()
                assert stats.bytes_read >= min(count, 121) * row_bytes


def test_a_file_that_ends_early(small_parts: None, tmp_path: Path) -> None:
    """The first row that is not there any more is named, whichever part it is in."""
    manifest = make_dataset(tmp_path, "npy", [np.zeros((3000, 500), "u1")])
    ids = np.arange(0, 3000, 9, dtype=np.uint64)
    out = np.zeros((len(ids), 500), "u1")
    with closing(RowReader(manifest, manifest.fields[0])) as reader:
        reader.read(ids[:1], out, np.zeros(1, np.int64))
        os.truncate(manifest.files[0].path(0), 128 + 1800 * 500)
        with pytest.raises(SourceChanged, match="row 1800 of field 'x': the file has become short"):
            reader.read(ids, out, np.arange(len(ids)))


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_parts_of_the_buffer(blocks: list[int]) -> None:
    """Reads of parts that are in use at a time lie apart, aligned, within the buffer."""
    sizes = np.array(blocks) * 512
    begins, edges, room = reading._parts(sizes)
    assert (edges[0], edges[-1]) == (0, len(sizes))
    assert not (begins % 512).any()
    assert (begins + sizes).max() <= room
    for first, stop in itertools.pairwise(edges[i] for i in range(0, len(edges), reading.PARTS)):
        used = [
            at + 512 * k
            for at, blocks_of_one in zip(
                begins[first:stop].tolist(), blocks[first:stop], strict=True
            )
            for k in range(blocks_of_one)
        ]
        assert len(set(used)) == len(used)


@given(st.lists(st.integers(1, 3), max_size=12))
def test_rows_at_one_distance(steps: list[int]) -> None:
    """Pieces of one distance hold all rows, each at its place."""
    at = np.cumsum([4, *(3 * step for step in steps)])
    source = np.arange(150, dtype=np.uint8)
    edges = spaced(at)
    assert (edges[0], edges[-1]) == (0, len(at))
    found = [spaced_rows(source, at[a:b], 3) for a, b in itertools.pairwise(edges)]
    assert np.concatenate(found).tobytes() == b"".join(bytes(source[a : a + 3]) for a in at)
