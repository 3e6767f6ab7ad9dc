"""`arrayd.writer` and values: none is changed without a word; and disks that fail."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import arrayd
from arrayd import CastError, SpecMismatch
from arrayd.errors import ArraydError, NoRoom


def rows_of(first: int, count: int) -> np.ndarray[Any, Any]:
    """Return rows of shape (3,) that tell their index."""
    return (np.arange(first, first + count, dtype="f4") * 3)[:, None] + np.arange(3, dtype="f4")


# ---- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (
            np.array([[0.1, 0.2, 0.3]]),
            r"would round 3 of 3 values of float64.*cast=True",
        ),
        (np.array([[1e300, 0, 0]]), r"append, at \[0, 0\]: The value 1e\+300 does not fit float32"),
        ([[16777217, 0, 0]], "would round 1 of 3"),
        (np.array([["a", "b", "c"]]), "cannot be cast"),
        (np.ma.masked_equal([[1.0, 2, 3]], 2), "would drop the mask"),
        ([[1, 2]], r"shape \(1, 2\).*rows of shape \(3,\).*\(k, 3"),
        ([[[1, 2, 3]]], r"shape \(1, 1, 3\)"),
        (7.0, r"shape \(\)"),
        ([object()], "holds Python objects"),
    ],
)
def test_values_are_not_changed_silently(tmp_path: Path, batch: Any, said: str) -> None:
    """What numpy would round, drop or broadcast is an error, and no row of the batch is there."""
    with arrayd.writer(tmp_path / "x.npy", "f4", 3) as out:
        out.append(rows_of(0, 2))
        with pytest.raises(ArraydError, match=said):
            out.append(batch)
        out.append([[0.5, 2**20, -1]])
    found = np.load(tmp_path / "x.npy")
    np.testing.assert_array_equal(found, [*rows_of(0, 2), [0.5, 2**20, -1]])


def test_values_of_fields_are_counted(tmp_path: Path) -> None:
    """Of records with fields and subarrays, each value counts."""
    kind = np.dtype([("x", "f8"), ("y", "f8", (3,)), ("n", "i4")])
    target = np.dtype([("x", "f2"), ("y", "f2", (3,)), ("n", "i4")])
    records = np.zeros(2, kind)
    records["x"] = records["y"] = 0.1
    with (
        arrayd.writer(tmp_path / "x.npy", target) as out,
        pytest.raises(CastError, match="would round 8 of 10 values") as caught,
    ):
        out.append(records)
    assert caught.value.details["of"] == 10


def test_casts_on_request(tmp_path: Path) -> None:
    """``cast=True`` lets values be rounded, `overflow` what is beyond; else it is an error."""
    for how, last in (("clip", 65504.0), ("inf", np.inf)):
        with arrayd.writer(tmp_path / f"{how}.npy", "f2", cast=True, overflow=how) as out:
            out.append([1 / 3, 1e9])
        np.testing.assert_array_equal(np.load(tmp_path / f"{how}.npy"), [np.float16(1 / 3), last])
    with arrayd.writer(tmp_path / "x.npy", "f2", cast=True) as out, pytest.raises(CastError):
        out.append([1 / 3, 1e9])
    with pytest.raises(SpecMismatch, match="infinity"):
        arrayd.writer(tmp_path / "i.npy", "i2", cast=True, overflow="inf").append([1.5])
    with pytest.raises(SpecMismatch, match="cast=True is not set"):
        arrayd.writer(tmp_path / "y.npy", "f2", overflow="clip")


def test_an_error_far_in_a_batch_names_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large batch goes in pieces: the index is that of the batch, and nothing of it stays."""
    monkeypatch.setattr("arrayd.datasets.writer._PIECE_BYTES", 64)
    batch = np.zeros((50, 3))
    batch[33, 2] = 1e300
    with arrayd.writer(tmp_path / "x.npy", "f4", 3) as out:
        with pytest.raises(CastError, match=r"at \[33, 2\]") as caught:
            out.append(batch)
        assert caught.value.details["at"] == (33, 2)
        out.append(batch[:33])
    assert np.load(tmp_path / "x.npy").shape == (33, 3)


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is mapped from a file, and cast, costs the memory of a few pieces of it."""
    monkeypatch.setattr("arrayd.datasets.writer._PIECE_BYTES", 64 << 10)
    np.save(tmp_path / "large.npy", np.zeros((500_000, 4)))
    with arrayd.writer(tmp_path / "x.npy", "f4", 4, cast=True) as out:
        batch = np.load(tmp_path / "large.npy", mmap_mode="r")
        tracemalloc.start()
        out.append(batch)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert np.load(tmp_path / "x.npy", mmap_mode="r").shape == batch.shape
    assert peak < 2 << 20  # of 16 MiB


def test_bfloat16_comes_back(tmp_path: Path) -> None:
    """The bits are those of ml_dtypes, and a resume knows them again."""
    kind = np.dtype(ml_dtypes.bfloat16)
    for resume in (False, True):
        with arrayd.writer(tmp_path / "x.npy", "bfloat16", 2, resume=resume) as out:
            out.append(np.array([[1, 0.5]], kind))
    found = np.load(tmp_path / "x.npy").view(kind)
    np.testing.assert_array_equal(found.astype("f4"), [[1, 0.5]] * 2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda path: arrayd.writer(path, "O"), "Python objects"),
        (lambda path: arrayd.writer(path, "S"), "no bytes"),
        (lambda path: arrayd.writer(path, "f4", -1), "row_shape=-1"),
        (lambda path: arrayd.writer(path, "f4", flush_every=0), "flush_every=0"),
        (lambda path: arrayd.writer(path, "f4", flush_every="1GB"), "flush_every='1GB'"),
        (lambda path: arrayd.writer(path, "f4", resume=True, replace=True), "say one"),
        (lambda path: arrayd.writer(path, "f4").truncate(1), "0 rows to keep"),
    ],
)
def test_wrong_arguments(tmp_path: Path, call: Callable[[Path], object], said: str) -> None:
    """Each is a SpecMismatch that says what is wrong."""
    with pytest.raises(SpecMismatch, match=said):
        call(tmp_path / "x.npy")


def test_a_closed_writer_says_so(tmp_path: Path) -> None:
    """Closing twice is fine; appending is not."""
    out = arrayd.writer(tmp_path / "x.npy", "f4")
    out.close()
    out.close()
    with pytest.raises(SpecMismatch, match="is closed"):
        out.append([1.0])
    assert "closed" in repr(out)


# ---- a disk that fails -----------------------------------------------------------------------


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers, a file of the rows before, and a writer that goes on when there is room."""
    path = tmp_path / "x.npy"
    with arrayd.writer(path, "f4", 3) as out:
        out.append(rows_of(0, 2))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", _full)
            with pytest.raises(NoRoom, match=r"No space left.*24 B more.* are free in") as caught:
                out.append(rows_of(2, 2))
        assert caught.value.details["needed"] == 24
        out.append(rows_of(2, 1))
    np.testing.assert_array_equal(np.load(path), rows_of(0, 3))


def test_a_flush_that_fails_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error of the disk nothing is known of its pages: the last flush is what stays."""
    path = tmp_path / "x.npy"
    out = arrayd.writer(path, "f4", 3)
    out.append(rows_of(0, 2))
    out.flush()
    out.append(rows_of(2, 2))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", _failing)
        with pytest.raises(ArraydError, match="Input/output error"):
            out.flush()
    with pytest.raises(ArraydError, match=r"has the 2 rows of the last flush.*resume=True"):
        out.append(rows_of(2, 2))
    out.close()
    np.testing.assert_array_equal(np.load(path), rows_of(0, 2))


def _full(*_: object) -> int:
    raise OSError(28, os.strerror(28))


def _failing(*_: object) -> None:
    raise OSError(5, os.strerror(5))
