"""HDF5 datasets whose bytes are as they are in memory are read without libhdf5; others are not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from arrayd.errors import SourceChanged
from arrayd.source import Source
from arrayd_server.loaders.formats import probe
from arrayd_server.loaders.hdf5 import loader as hdf5
from arrayd_server.loaders.hdf5 import reading
from tests.support.loading import Array, make_segment, same, target_of, write

RECORD = np.dtype({"names": ["a", "b"], "formats": ["i1", ">f8"], "offsets": [2, 8]})
segment = pytest.fixture(make_segment)


def without_libhdf5(source: Source, monkeypatch: pytest.MonkeyPatch, segment: Path) -> Array:
    """Load what is planned with libhdf5, and read without it."""
    plan = probe(source)
    target = target_of(source, plan, segment)
    with monkeypatch.context() as patch:
        patch.setattr(hdf5, "opened", None)
        for part in plan.parts:
            write(source, plan, part, target)
    return np.frombuffer(segment.read_bytes(), plan.dtype).reshape(plan.shape)


@pytest.mark.parametrize("rows", [None, slice(3, 30), slice(None, None, -3)])
@pytest.mark.parametrize("userblock", [0, 1024])
@pytest.mark.parametrize("dtype", ["<f4", ">i2", "?", "S5", "c16", RECORD, "(2,3)>u2"], ids=str)
def test_contiguous(
    dtype: Any,
    userblock: int,
    rows: slice | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    segment: Path,
) -> None:
    """Plain values of any byte order, behind a user block too, are what h5py reads."""
    kind = np.dtype(dtype)
    values = np.zeros((40, 3), kind)
    raw = values.reshape(-1).view(np.uint8)
    raw[...] = np.arange(raw.size) % 2 if kind.kind == "b" else np.arange(raw.size) % 59 + 1
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=userblock) as file:
        file.create_dataset("x", (40, 3), kind)[...] = values
    with h5py.File(tmp_path / "a.h5") as file:
        expected = file["x"][()][rows or slice(None)]
    source = Source.of(tmp_path / "a.h5", dataset="x", rows=rows)
    same(without_libhdf5(source, monkeypatch, segment), expected)


def test_not_plain(tmp_path: Path) -> None:
    """Left to libhdf5: what it converts, what is elsewhere or nowhere, what is being written."""
    (tmp_path / "a.bin").write_bytes(bytes(24))
    made = h5py.h5t.C_S1.copy()
    made.set_size(3)
    made.set_strpad(h5py.h5t.STR_SPACEPAD)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["there"] = np.arange(9.0)
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        space = h5py.h5s.create_simple((4,))
        h5py.Dataset(h5py.h5d.create(file.id, b"padded", made, space))[...] = b"ab"
        file.create_dataset("unwritten", (5,), "f4")
        file.create_dataset("outside", (3,), "i8", external=[("a.bin", 0, 24)])
        file["linked"] = h5py.ExternalLink("b.h5", "/there")
        file["here"] = np.arange(9.0)
    plans = {
        name: hdf5.probe(Source.of(tmp_path / "a.h5", dataset=name))
        for name in ("padded", "unwritten", "outside", "linked", "here")
    }
    assert [name for name, plan in plans.items() if plan.detail[2]] == ["here"]
    swmr = Source.of(tmp_path / "a.h5", dataset="here", swmr=True)
    assert not hdf5.probe(swmr).detail[2]


def test_a_file_that_becomes_shorter(tmp_path: Path, segment: Path) -> None:
    """What is not there any more is not made up."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(90_000)
    source = Source.of(path, dataset="x")
    plan = hdf5.probe(source)
    os.truncate(path, path.stat().st_size - 1000)
    with pytest.raises(SourceChanged, match="shorter"):
        list(hdf5.fill(source, plan, plan.parts[0]))


def test_no_cache_of_chunks(tmp_path: Path) -> None:
    """A chunk is wanted once: libhdf5 keeps none, unless those of others make up the values."""
    values = np.arange(60.0).reshape(12, 5)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("it", data=values, chunks=(3, 5), compression="lzf")
        layout = h5py.VirtualLayout((12, 5), "f8")
        layout[...] = h5py.VirtualSource(".", "it", (12, 5))
        file.create_virtual_dataset("virtual", layout)
    with h5py.File(tmp_path / "a.h5") as file:
        for name, kept in (("it", False), ("virtual", True)):
            again = reading.uncached(file[name])
            assert bool(again.id.get_access_plist().get_chunk_cache()[1]) == kept
            np.testing.assert_array_equal(again[()], values)
