from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrayd.errors import (
    CastError,
    LoaderCrashed,
    LoadError,
    LoadTimeout,
    ProtocolMismatch,
    SourceChanged,
    SpecMismatch,
)
from arrayd.samples.manifest import Field, Files, Manifest
from arrayd.samples.order import EpochOrder
from arrayd.samples.selection import Rows
from arrayd_server.loading import own_process
from arrayd_server.streams import readers
from arrayd_server.streams.messages import WindowRead, WindowTask, checked
from arrayd_server.streams.share import ResidentShare
from tests.support.datasets import make_dataset, stats_of, write_chunked, write_hdf5, write_npy
from tests.support.streams import OneReader, identity_of

Array = np.ndarray[Any, Any]


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine."""
    asyncio.run(work)


def arrays_of(*rows: int) -> list[Array]:
    """Return one array of 5 columns for each of `rows`, all values different."""
    whole = np.arange(5.0 * sum(rows)).reshape(-1, 5)
    return np.split(whole, np.cumsum(rows)[:-1])


def two_fields(folder: Path) -> tuple[Manifest, Array, Array]:
    """Return a dataset with x in two files and y in one, and their values."""
    x, y = arrays_of(60, 40), np.arange(100, dtype="i8") * 3
    paths = [write_npy(folder / "a", x[0]), write_npy(folder / "b", x[1])]
    label = write_hdf5(folder / "y", y)
    fields = (
        Field("x", np.dtype("f8"), (5,)),
        Field("y", np.dtype("i8"), (), files=1, member="x"),
    )
    files = (
        Files.of(paths, stats_of(paths), [60, 40]),
        Files.of([label], stats_of([label]), [100]),
    )
    return Manifest(100, fields, files, {}), np.concatenate(x), y


def order_of(n: int, epoch: int, rows: Rows | None = None) -> Array:
    """Return the order of an epoch."""
    order = EpochOrder(rows or Rows(n), 7, epoch, "exact", block=4, buffer=2)
    return order.window(0, n)


def test_it_reads_windows_over_epochs(tmp_path: Path) -> None:
    """Ids and all fields are those of the order, wherever a window begins and wraps in the ring."""
    manifest, x, y = two_fields(tmp_path)

    async def work() -> None:
        async with OneReader(identity_of(manifest, tmp_path), tmp_path) as reader:
            for start, stop in [(0, 1), (1, 40), (40, 100), (100, 164), (290, 300), (300, 330)]:
                ids, values, stats = await reader.window(start, stop)
                epoch, at = divmod(start, 100)
                expected = order_of(100, epoch)[at : at + stop - start]
                np.testing.assert_array_equal(ids, expected)
                np.testing.assert_array_equal(values["x"], x[expected])
                np.testing.assert_array_equal(values["y"], y[expected])
                assert stats["bytes_used"] == (stop - start) * 48
                assert stats["bytes_read"] > 0
                assert stats["rows_from_share"] == 0

    run(work())


def test_two_windows_at_a_time(tmp_path: Path) -> None:
    """Both are answered; and a ring that is changed gets only what is asked for afterwards."""
    manifest, x, _ = two_fields(tmp_path)

    async def work() -> None:
        async with OneReader(identity_of(manifest, tmp_path), tmp_path) as reader:
            assert await reader.news() == "ready"
            reader.readers.read(1, 0, 16)
            reader.readers.read(1, 16, 32)
            other = reader.segment("other", reader.identity.ring.nbytes)
            reader.readers.change_ring(1, str(other), 1)
            reader.readers.read(1, 16, 40)
            places = {(await reader.news())[:3] for _ in range(3)}
            assert places == {(0, 0, 16), (0, 16, 32), (1, 16, 40)}
            order = order_of(100, 0)
            np.testing.assert_array_equal(reader.look(reader.ring, 0, 32)[0], order[:32])
            np.testing.assert_array_equal(reader.look(other, 16, 40)[1]["x"], x[order[16:40]])
            assert not reader.look(other, 0, 16)[1]["x"].any()
            held = [
                os.readlink(f"/proc/{reader.pid}/fd/{fd}")
                for fd in os.listdir(f"/proc/{reader.pid}/fd")
            ]
            assert not {str(reader.ring), str(other)} & set(held)

    run(work())


def test_a_selection_cast(tmp_path: Path) -> None:
    """Of a list of row ids a part is the selection; values are cast."""
    manifest, x, _ = two_fields(tmp_path)
    ids = np.arange(1, 100, 3)
    np.save(tmp_path / "ids.npy", ids)
    identity = identity_of(manifest, tmp_path, cast="f4", start=5, stop=25)
    identity = replace(identity, ids=str(tmp_path / "ids.npy"))

    async def work() -> None:
        async with OneReader(identity, tmp_path) as reader:
            found, values, _ = await reader.window(20, 40)
            np.testing.assert_array_equal(found, order_of(20, 1, Rows.of(ids[5:25], 100)))
            assert values["x"].dtype == np.dtype("f4")
            np.testing.assert_array_equal(values["x"], x[found].astype("f4"))

    run(work())


def test_the_resident_share(tmp_path: Path) -> None:
    """The first rows that were read are never read again; each epoch saves as many reads."""
    manifest, x, y = two_fields(tmp_path)

    async def work() -> None:
        async with OneReader(identity_of(manifest, tmp_path, share=30), tmp_path) as reader:
            await reader.window(80, 100)  # an epoch that begins late has some of them
            from_share = []
            for epoch in (1, 2, 3):
                total = 0
                for start in range(100 * epoch, 100 * epoch + 100, 50):
                    ids, values, stats = await reader.window(start, start + 50)
                    np.testing.assert_array_equal(values["x"], x[ids])
                    np.testing.assert_array_equal(values["y"], y[ids])
                    total += stats["rows_from_share"]
                from_share.append(total)
            assert from_share == [20, 30, 30]

    run(work())


def test_a_row_kept_twice_is_one() -> None:
    """Two windows at the end of an epoch and the begin of the next may keep the same row."""
    ids, array = np.zeros(4, np.uint64), np.zeros((4, 2))
    share = ResidentShare(ids, {"x": array})
    ring = np.arange(8.0).reshape(4, 2)
    share.keep(np.array([5, 3], np.uint64), {"x": ring}, np.array([0, 1]))
    share.keep(np.array([3, 8, 9], np.uint64), {"x": ring}, np.array([1, 2, 3]))
    assert share.find(np.array([3, 5], np.uint64), 0).tolist() != [-1, -1]
    slots = share.find(np.array([9, 8, 3, 5], np.uint64), 1)
    assert (slots[0], slots[3]) == (-1, 0)
    out = np.zeros((3, 2))
    share.take(slots[1:], {"x": out}, np.array([2, 1, 0]))
    np.testing.assert_array_equal(out, ring[[0, 1, 2]])


@pytest.mark.parametrize("kinds", ["decoded", "mixed"])
def test_files_that_are_decoded(kinds: str, tmp_path: Path) -> None:
    """Compressed files are read as well, alone and among others."""
    arrays = arrays_of(50, 50)
    first = write_chunked if kinds == "decoded" else write_hdf5
    paths = [first(tmp_path / "a", arrays[0]), write_chunked(tmp_path / "b", arrays[1])]
    files = Files.of(paths, stats_of(paths), [50, 50])
    manifest = Manifest(100, (Field("x", np.dtype("f8"), (5,), member="x"),), (files,), {})

    async def work() -> None:
        async with OneReader(identity_of(manifest, tmp_path), tmp_path) as reader:
            for start in (0, 50):
                ids, values, _ = await reader.window(start, start + 50)
                np.testing.assert_array_equal(values["x"], np.concatenate(arrays)[ids])

    run(work())


def test_a_file_is_truncated(tmp_path: Path) -> None:
    """The stream fails with an error that names the file; no signal, nothing half read."""
    manifest = make_dataset(tmp_path, "npy", arrays_of(400, 400))

    async def work() -> None:
        async with OneReader(identity_of(manifest, tmp_path), tmp_path) as reader:
            await reader.window(0, 20)
            os.truncate(manifest.files[0].path(1), 3000)
            with pytest.raises(SourceChanged, match=r"npy1\.npy.*make the dataset again"):
                await reader.window(20, 60)

    run(work())


def test_a_value_that_does_not_fit(tmp_path: Path) -> None:
    """The error names field, row, file and value."""
    manifest = make_dataset(tmp_path, "npy", arrays_of(100))
    identity = identity_of(manifest, tmp_path, cast="u1")

    async def work() -> None:
        async with OneReader(identity, tmp_path) as reader:
            with pytest.raises(CastError, match=r"Field 'x', row \d+ \(.*npy0\.npy\).*value \d+"):
                await reader.window(0, 50)

    run(work())


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"stat": (1, 2, 3, 4, 5)}, SourceChanged, "another file than when"),
        ({"stop": 101}, SpecMismatch, "101"),
        ({"fields": ()}, None, ""),
        ({"cast": "M8[s]"}, SpecMismatch, "cannot be cast"),
    ],
)
def test_requests_that_cannot_be(changes: Any, error: Any, words: str, tmp_path: Path) -> None:
    """They fail before a window is asked for; no fields at all are ids alone."""
    manifest, _, _ = two_fields(tmp_path)

    async def work() -> None:
        async with OneReader(identity_of(manifest, tmp_path, **changes), tmp_path) as reader:
            news = await reader.news()
            if error is None:
                assert news == "ready"
                ids, _, _ = await reader.window(0, 64)
                np.testing.assert_array_equal(ids, order_of(100, 0)[:64])
            else:
                assert type(news) is error
                assert words in str(news)

    run(work())


def test_a_field_that_is_another(tmp_path: Path) -> None:
    """A field of another type than the manifest says is refused, with those there are."""
    manifest, _, _ = two_fields(tmp_path)
    identity = identity_of(manifest, tmp_path)
    identity = replace(identity, fields=(replace(identity.fields[0], row_shape=(6,)),))

    async def work() -> None:
        async with OneReader(identity, tmp_path) as reader:
            error = await reader.failure()
            assert isinstance(error, SpecMismatch)
            assert "no field x of float64 (6,), but x (float64 (5,)), y" in str(error)

    run(work())


def test_a_reader_that_is_killed(tmp_path: Path) -> None:
    """Its stream fails with the cause; another one can be started."""
    manifest, _, _ = two_fields(tmp_path)

    async def work() -> None:
        async with OneReader(identity_of(manifest, tmp_path), tmp_path) as reader:
            await reader.window(0, 10)
            os.kill(reader.pid, signal.SIGSEGV)
            process = reader.readers._readers[1]
            while not process.detached:
                await asyncio.sleep(0)
            reader.readers.read(1, 10, 20)  # the core may not know yet
            reader.readers.change_ring(1, str(reader.ring), 1)
            error = await reader.failure()
            assert isinstance(error, LoaderCrashed)
            assert "SIGSEGV" in str(error)
            assert error.details["signal"] == signal.SIGSEGV
            reader.start()
            await reader.window(10, 20)

    run(work())


def test_a_reader_that_hangs(tmp_path: Path) -> None:
    """A window that takes too long fails the stream."""
    manifest, _, _ = two_fields(tmp_path)

    async def work() -> None:
        async with OneReader(identity_of(manifest, tmp_path), tmp_path) as reader:
            await reader.window(0, 10)
            pid = reader.pid
            reader.readers._timeout = 0.2
            os.kill(pid, signal.SIGSTOP)
            reader.readers.read(1, 10, 20)
            error = await reader.failure()
            assert isinstance(error, LoadTimeout)
            assert "longer than 0.2 s" in str(error)
            assert not os.path.exists(f"/proc/{pid}")

    run(work())


def test_a_reader_that_is_stopped(tmp_path: Path) -> None:
    """It ends at once, and nothing is heard of it."""
    manifest, _, _ = two_fields(tmp_path)

    async def work() -> None:
        async with OneReader(identity_of(manifest, tmp_path), tmp_path) as reader:
            await reader.window(0, 10)
            pid = reader.pid
            reader.readers.read(1, 10, 20)
            reader.readers.stop(1)
            reader.readers.read(1, 20, 30)
            reader.readers.close()
            assert not os.path.exists(f"/proc/{pid}")
            assert reader._news.empty()

    run(work())


@pytest.mark.parametrize(
    ("program", "error", "words"),
    [
        ("import time; s.send(b'\\xc1'); time.sleep(60)", LoaderCrashed, "SIGKILL"),
        ("raise SystemExit(3)", LoaderCrashed, "exit code 3"),
        ("s.send(b'\\x81\\xa5ready\\xa30.0'); s.recv(9); s.recv(9)", ProtocolMismatch, "0.0"),
    ],
)
def test_what_is_no_reader(
    program: str, error: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nonsense, an early end, another version."""
    begin = "import sys, socket; s = socket.socket(fileno=int(sys.argv[1])); "
    monkeypatch.setattr(readers, "PROGRAM", ("-c", begin + program))
    manifest, _, _ = two_fields(tmp_path)

    async def work() -> None:
        async with OneReader(identity_of(manifest, tmp_path), tmp_path) as reader:
            found = await reader.failure()
            assert type(found) is error
            assert words in str(found)

    run(work())


def test_no_process_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream fails, not the daemon."""

    def none(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(own_process, "execute", none)
    manifest, _, _ = two_fields(tmp_path)

    async def work() -> None:
        async with OneReader(identity_of(manifest, tmp_path), tmp_path) as reader:
            error = await reader.failure()
            assert type(error) is LoadError
            assert "Resource temporarily unavailable" in str(error)

    run(work())


def test_messages_stay_what_they_are() -> None:
    """The keys are those of the first version."""
    assert WindowTask(1, 2, 3).to_wire() == {"generation": 1, "start": 2, "stop": 3}
    read = WindowRead(1, 2, 3, {"bytes_read": 4})
    assert checked({"read": read.to_wire()}) == ("read", read)
    with pytest.raises(ProtocolMismatch):
        checked({"read": {**read.to_wire(), "v": 2}})
    nonsense: list[Any] = [{}, {"read": 3}, {"ready": "1", "err": {}}, [], {"read": {"start": 1}}]
    for wrong in nonsense:
        with pytest.raises(TypeError):
            checked(wrong)
