"""`arrayd.writer`: what is appended is what numpy reads, whatever ends the writing."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arrayd
from arrayd import SpecMismatch, TargetExists
from arrayd.errors import AccessDenied, ArraydError, BadFile, SourceBusy, SourceNotFound

RECORD = np.dtype([("chr", "S3"), ("pos", "<i4"), ("x", "f4", (2,))])


def kill(writer: arrayd.RowWriter) -> None:
    """Leave a writer's file as SIGKILL would: nothing is flushed, nothing is cut off."""
    assert writer._file is not None
    writer._file.abandon()
    writer._file = None


def rows_of(first: int, count: int) -> np.ndarray[Any, Any]:
    """Return rows of shape (3,) that tell their index."""
    return (np.arange(first, first + count, dtype="f4") * 3)[:, None] + np.arange(3, dtype="f4")


# ---- the file --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "row_shape", "stored"),
    [
        ("f4", (), "<f4"),
        (">i2", (2, 3), ">i2"),
        ("M8[ns]", (1,), "M8[ns]"),
        ("U5", (2,), "<U5"),
        (RECORD, (), RECORD),
        (("f4", (2,)), (3,), "<f4"),
        ("bfloat16", (4,), "V2"),
        ("f8", (0, 2), "<f8"),
        ([("ä€", "i4")], (), [("ä€", "<i4")]),
        ([(f"{n:020}", "u1") for n in range(2400)], (), None),
    ],
)
def test_numpy_reads_what_was_appended(
    tmp_path: Path, dtype: Any, row_shape: tuple[int, ...], stored: Any
) -> None:
    """Every dtype and row shape, in batches and single rows, mapped and loaded; 0 rows too."""
    path = tmp_path / "x.npy"
    with arrayd.writer(path, dtype, row_shape) as out:
        assert np.load(path, max_header_size=1 << 20).shape == (0, *out.row_shape)
        batch = np.zeros((5, *out.row_shape), out.dtype)
        raw = batch.reshape(-1).view("u1")
        raw[:] = np.arange(raw.size) % 100
        out.append(batch[:3])
        out.append(batch[3])
        out.append(batch[4:])
        assert (out.rows, out.flushed) == (5, 0)
    found = np.load(path, mmap_mode=None if 0 in row_shape else "r", max_header_size=1 << 20)
    assert found.shape == batch.shape
    assert found.dtype == np.dtype(batch.dtype if stored is None else stored)
    assert found.tobytes() == batch.tobytes()


def test_a_file_of_numpys_goes_on(tmp_path: Path) -> None:
    """What `numpy.save` wrote is gone on with, and a header never moves the data."""
    path = tmp_path / "x.npy"
    np.save(path, rows_of(0, 9))
    with arrayd.writer(path, "f4", 3, resume=True) as out:
        assert out.rows == 9
        for n in range(9, 1200):
            out.append(rows_of(n, 1))
    np.testing.assert_array_equal(np.load(path), rows_of(0, 1200))


def test_a_flush_is_seen_by_others(tmp_path: Path) -> None:
    """Before the flush nobody sees the rows; by `flush_every` it comes by itself."""
    path = tmp_path / "x.npy"
    with arrayd.writer(path, "f4", 3, flush_every=10 * 12) as out:
        out.append(rows_of(0, 9))
        assert len(np.load(path)) == 0
        out.flush()
        assert len(np.load(path)) == 9
        out.append(rows_of(9, 10))
        assert (out.flushed, len(np.load(path))) == (19, 19)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.just("append"), st.integers(0, 40))
        | st.tuples(st.sampled_from(["flush", "kill", "end", "replace"]), st.just(0))
        | st.tuples(st.just("truncate"), st.integers(0, 60)),
        max_size=25,
    )
)
def test_any_sequence_is_a_list_of_rows(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Appends, flushes, kills, ends and truncations leave what a plain list of rows has."""
    path = tmp_path_factory.mktemp("walk") / "x.npy"
    rows: list[float] = []
    safe: list[float] = []
    number = 0.0
    out = arrayd.writer(path, "f8", flush_every=20 * 8)
    for step, count in steps:
        if step == "append":
            batch = number + np.arange(count)
            number += count
            out.append(batch)
            rows += batch.tolist()
            safe = list(rows) if len(rows) - len(safe) >= 20 else safe
        elif step == "flush":
            out.flush()
            safe = list(rows)
        elif step == "truncate":
            rows = rows[:count]
            safe = safe[:count]
            out.truncate(len(rows))
        else:
            if step == "kill":
                kill(out)
                rows = list(safe)
            else:
                out.close()
            rows = [] if step == "replace" else rows
            safe = list(rows)
            how: dict[str, Any] = {"replace": True} if step == "replace" else {"resume": True}
            out = arrayd.writer(path, "f8", flush_every=20 * 8, **how)
        assert (out.rows, out.flushed) == (len(rows), len(safe))
        assert np.load(path).tolist() == safe
    out.close()
    assert np.load(path).tolist() == rows
    assert path.stat().st_size == np.load(path, mmap_mode="r").offset + 8 * len(rows) if rows else 1


def test_an_exception_keeps_what_was_appended(tmp_path: Path) -> None:
    """The ``with`` ends as it always does, and the exception goes on."""
    path = tmp_path / "x.npy"
    with pytest.raises(ZeroDivisionError), arrayd.writer(path, "f4", 3) as out:
        out.append(rows_of(0, 4))
        raise ZeroDivisionError
    np.testing.assert_array_equal(np.load(path), rows_of(0, 4))


def test_a_writer_that_is_dropped_is_closed(tmp_path: Path) -> None:
    """As h5py and Python's files do; its lock is free."""
    out = arrayd.writer(tmp_path / "x.npy", "f4", 3)
    out.append(rows_of(0, 4))
    del out
    arrayd.writer(tmp_path / "x.npy", "f4", 3, resume=True).close()
    assert len(np.load(tmp_path / "x.npy")) == 4


def test_a_child_leaves_the_file_to_its_parent(tmp_path: Path) -> None:
    """A forked child can neither append nor flush, and its end ends neither file nor lock."""
    path = tmp_path / "x.npy"
    with arrayd.writer(path, "f4", 3) as out:
        out.append(rows_of(0, 4))
        pid = os.fork()
        if not pid:
            try:
                out.append(rows_of(0, 1))
            except SpecMismatch:
                out.close()
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        with pytest.raises(SourceBusy, match="is being written"):
            arrayd.writer(path, "f4", 3, resume=True)
        assert out.flushed == 0
    assert len(np.load(path)) == 4


def test_threads_append_whole_batches(tmp_path: Path) -> None:
    """Batches of several threads come in some order, each in one piece."""
    with arrayd.writer(tmp_path / "x.npy", "i8", flush_every=1000) as out:
        batches = [np.full(50, n) for n in range(40)]

        def append(some: list[Any]) -> None:
            for batch in some:
                out.append(batch)

        threads = [threading.Thread(target=append, args=(batches[n::4],)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = np.load(tmp_path / "x.npy").reshape(40, 50)
    assert (found == found[:, :1]).all()
    assert sorted(found[:, 0]) == list(range(40))


# ---- files that are there --------------------------------------------------------------------


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    """Without `resume` or `replace` it is an error that names both; an empty file is none."""
    path = tmp_path / "x.npy"
    np.save(path, rows_of(0, 3))
    with pytest.raises(TargetExists, match=r"resume=True.*replace=True") as caught:
        arrayd.writer(path, "f4", 3)
    assert isinstance(caught.value, FileExistsError)
    np.testing.assert_array_equal(np.load(path), rows_of(0, 3))
    (tmp_path / "empty.npy").touch()
    arrayd.writer(tmp_path / "empty.npy", "f4", 3).close()


def test_replace_leaves_readers_their_file(tmp_path: Path) -> None:
    """The new file is another one: who has mapped the old one keeps it, and nothing lies about."""
    path = tmp_path / "x.npy"
    np.save(path, rows_of(0, 3))
    old = np.load(path, mmap_mode="r")
    with arrayd.writer(path, "f8", (), replace=True) as out:
        out.append([1.0, 2.0])
    np.testing.assert_array_equal(old, rows_of(0, 3))
    assert np.load(path).tolist() == [1.0, 2.0]
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.parametrize(
    ("there", "error", "said"),
    [
        (np.zeros((2, 4), "f4"), SpecMismatch, r"shape \(4,\) and dtype float32.*\(3,\).*float32"),
        (np.zeros((2, 3), "f8"), SpecMismatch, r"dtype float64.*dtype float32"),
        (np.float32(1), SpecMismatch, "0-d"),
        (np.asfortranarray(np.zeros((4, 3), "f4")), SpecMismatch, "Fortran order"),
        (b"\x93NUMPY\x01\x00\x10\x00{'shape': (1,),}", BadFile, "no .npy file to go on with"),
        (b"no array", BadFile, "no .npy file to go on with"),
    ],
)
def test_what_cannot_be_gone_on_with(
    tmp_path: Path, there: Any, error: type[ArraydError], said: str
) -> None:
    """Another dtype, shape, order or format is an error with both, and the file stays."""
    path = tmp_path / "x.npy"
    if isinstance(there, bytes):
        path.write_bytes(there)
    else:
        np.save(path, there)
    before = path.read_bytes()
    with pytest.raises(error, match=said):
        arrayd.writer(path, "f4", 3, resume=True)
    assert path.read_bytes() == before


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    """A header that promises more than there is was not written here."""
    path = tmp_path / "x.npy"
    np.save(path, rows_of(0, 3))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(BadFile, match="truncated: its header promises"):
        arrayd.writer(path, "f4", 3, resume=True)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """A second one is refused, however it would begin; the first one's end lets it in."""
    path = tmp_path / "x.npy"
    with arrayd.writer(path, "f4", 3) as out:
        for resume, replace in ((False, False), (True, False), (False, True)):
            with pytest.raises(SourceBusy, match="is being written"):
                arrayd.writer(path, "f4", 3, resume=resume, replace=replace)
        out.append(rows_of(0, 1))
    with arrayd.writer(path, "f4", 3, resume=True) as out:
        assert out.rows == 1


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    """No folder, a folder, a device: typed errors that name it."""
    with pytest.raises(SourceNotFound, match=r"there is no folder .*none"):
        arrayd.writer(tmp_path / "none" / "x.npy", "f4")
    with pytest.raises(ArraydError, match="Is a directory"):
        arrayd.writer(tmp_path, "f4")
    with pytest.raises(SpecMismatch, match="no regular file"):
        arrayd.writer("/dev/null", "f4")
    if os.geteuid():
        with pytest.raises(AccessDenied):
            arrayd.writer("/x.npy", "f4")
