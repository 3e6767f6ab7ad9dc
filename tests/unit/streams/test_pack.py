from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrayd.errors import AccessDenied, BadFile, CastError, NoRoom
from arrayd.samples.manifest import Manifest
from arrayd_server.loaders.dataset import reading
from arrayd_server.streams.pack import PackedRows
from tests.support.datasets import make_dataset, make_samples
from tests.support.streams import OneReader, identity_of

Array = np.ndarray[Any, Any]
WHOLE = np.arange(5.0 * 100).reshape(100, 5)


def make(kind: str, folder: Path) -> Manifest:
    """Return a dataset of `WHOLE` in files of one kind, in chunks of 7 rows if they are chunked."""
    if kind == "samples":
        return make_samples(folder, list(WHOLE))
    return make_dataset(folder, kind, [WHOLE[:70], WHOLE[70:]])


@contextmanager
def packed(manifest: Manifest, folder: Path, cast: str = "f4") -> Iterator[PackedRows]:
    """Have rows of a dataset by a pack in `folder`."""
    one, target = manifest.fields[0], np.dtype(cast)
    with closing(PackedRows(manifest, one, target, "error", str(folder))) as rows:
        yield rows


def read(rows: PackedRows, ids: Any, cast: str = "f4") -> int:
    """Read rows and compare them; return the bytes that were read or decoded."""
    wanted = np.asarray(ids, np.uint64)
    out = np.zeros((len(wanted), 5), cast)
    stats = rows.read(wanted, out, np.arange(len(wanted)))
    np.testing.assert_array_equal(out, WHOLE[wanted].astype(cast))
    return stats.bytes_read


def forbid_decoding(rows: PackedRows, patch: pytest.MonkeyPatch) -> None:
    """Let decoding fail from now on."""

    def decoded(*_: object) -> None:
        raise AssertionError("decoded again")

    patch.setattr(rows._decoded, "read", decoded)


@pytest.mark.parametrize("kind", ["chunked", "npz", "text", "samples"])
@pytest.mark.parametrize("way", ["direct", "cached"])
def test_each_unit_is_decoded_once(
    kind: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was decoded once is read from the pack, whatever is asked for; also by a later run."""
    if way == "cached":
        monkeypatch.setattr(reading, "AioQueue", _no_queue)
    manifest = make(kind, tmp_path)
    order = np.random.default_rng(0).permutation(100)
    with packed(manifest, tmp_path) as rows:
        for start in range(0, 100, 10):
            read(rows, order[start : start + 10])
        forbid_decoding(rows, monkeypatch)
        read(rows, range(100))
        read(rows, [99, 3])
    with packed(manifest, tmp_path) as rows:
        forbid_decoding(rows, monkeypatch)
        read(rows, order)
    (pack,) = tmp_path.glob("*.pack")
    assert pack.stat().st_mode & 0o777 == 0o600


def _no_queue(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_unit_is_all_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row wanted brings those of its chunk, and no others."""
    with packed(make("chunked", tmp_path), tmp_path) as rows:
        assert read(rows, [9]) == 7 * 40
        assert rows.pack.has(np.arange(100, dtype=np.uint64)).nonzero()[0].tolist() == [
            *range(7, 14)
        ]
        forbid_decoding(rows, monkeypatch)
        read(rows, range(7, 14))


def test_other_casts_have_other_packs(tmp_path: Path) -> None:
    """Each kind of rows has a pack of its own; what another manifest says as well."""
    manifest = make("chunked", tmp_path)
    with packed(manifest, tmp_path) as rows, packed(manifest, tmp_path, "f8") as others:
        assert rows.pack.path != others.pack.path
        read(rows, [1])
        read(others, [1], "f8")
    os.utime(manifest.files[0].path(0))
    again = make("chunked", tmp_path)
    with packed(again, tmp_path) as rows:
        assert not rows.pack.has(np.array([1], np.uint64)).any()


def test_two_readers_of_one_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one decodes the other finds, in both directions; a third one finds all of it."""
    manifest = make("chunked", tmp_path)
    with packed(manifest, tmp_path) as first, packed(manifest, tmp_path) as second:
        read(first, [0])
        assert read(second, [0, 20]) < 14 * 20 + 8192
        with monkeypatch.context() as patch:
            forbid_decoding(first, patch)
            read(first, [0, 20])
        read(first, [40])
        with packed(manifest, tmp_path) as third:
            forbid_decoding(third, monkeypatch)
            read(third, [0, 20, 40])


def test_a_reader_that_stands_still_while_it_has_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops nobody: others decode, read again what they decoded, and tell of it later."""
    manifest = make("chunked", tmp_path)
    with packed(manifest, tmp_path) as rows:
        read(rows, [0])
        still = os.open(rows.pack.path, os.O_RDWR)
        fcntl.flock(still, fcntl.LOCK_EX)
        read(rows, [20])
        with monkeypatch.context() as patch:
            forbid_decoding(rows, patch)
            read(rows, [20])
        with packed(manifest, tmp_path) as other:
            assert other.pack.has(np.array([0, 20], np.uint64)).tolist() == [True, False]
        os.close(still)
    with packed(manifest, tmp_path) as later:
        assert later.pack.has(np.array([0, 20], np.uint64)).all()


def test_a_pack_that_cannot_be_made_yet(tmp_path: Path) -> None:
    """Another process is about to make it, and stands still: rows are decoded until it is there."""
    manifest = make("chunked", tmp_path)
    with packed(manifest, tmp_path) as rows:
        path = rows.pack.path
    os.truncate(path, 0)
    still = os.open(path, os.O_RDWR)
    fcntl.flock(still, fcntl.LOCK_EX)
    with packed(manifest, tmp_path) as rows:
        read(rows, [0])
        assert not rows.pack.ready
        os.close(still)
        read(rows, [0])
        assert rows.pack.ready
        assert rows.pack.has(np.array([0], np.uint64)).all()


def test_many_readers_at_once(tmp_path: Path) -> None:
    """No bit of any is lost, and no row is wrong."""
    manifest = make("chunked", tmp_path)
    wrong: list[BaseException] = []

    def one(seed: int) -> None:
        try:
            with packed(manifest, tmp_path) as rows:
                for some in np.random.default_rng(seed).permutation(100).reshape(-1, 5):
                    read(rows, some)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    with packed(manifest, tmp_path) as rows:
        assert rows.pack.has(np.arange(100, dtype=np.uint64)).all()


def test_what_is_no_pack_is_made_anew(tmp_path: Path) -> None:
    """A file of that name with other contents, or of another size, is no pack."""
    manifest = make("chunked", tmp_path)
    with packed(manifest, tmp_path) as rows:
        read(rows, [0])
        path = rows.pack.path
    for size in (5000, 0):
        os.truncate(path, size)
        with packed(manifest, tmp_path) as rows:
            assert not rows.pack.has(np.arange(100, dtype=np.uint64)).any()
            read(rows, [0])
    with open(path, "r+b") as file:
        file.write(b"nonsense")
    with packed(manifest, tmp_path) as rows:
        assert not rows.pack.has(np.array([0], np.uint64)).any()


def test_a_pack_that_is_truncated_meanwhile(tmp_path: Path) -> None:
    """It is named, with what to do; no signal."""
    with packed(make("chunked", tmp_path), tmp_path) as rows:
        read(rows, range(100))
        os.truncate(rows.pack.path, 4096)
        with pytest.raises(BadFile, match=r"The pack .*\.pack is damaged .* Remove it"):
            read(rows, [99])


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full file system is a typed error with path and numbers; nothing is marked."""
    with packed(make("chunked", tmp_path), tmp_path) as rows:
        read(rows, [0])

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(
                NoRoom, match=r"\.pack has .* of the .* free .*scratch=.*windowed"
            ) as caught:
                read(rows, [50])
        assert caught.value.details["total"] == rows.pack.spec.size
        assert not rows.pack.has(np.array([50], np.uint64))[0]
        read(rows, [0, 50])


def test_no_folder(tmp_path: Path) -> None:
    """The error names the folder and the way out."""
    with (
        pytest.raises(AccessDenied, match=r"nowhere: no pack .*No such file.*scratch="),
        packed(make("chunked", tmp_path), tmp_path / "nowhere"),
    ):
        pass


def test_a_value_that_does_not_fit(tmp_path: Path) -> None:
    """It is an error when its row is wanted, not when another row of its unit is."""
    manifest = make("chunked", tmp_path)
    with packed(manifest, tmp_path, "u1") as rows:
        read(rows, [50], "u1")  # 250 to 254; row 51 is of the same chunk
        assert not rows.pack.has(np.array([50], np.uint64))[0]
        with pytest.raises(CastError, match=r"row 52 \(.*chunked0\.h5\)"):
            read(rows, [50, 52], "u1")


def test_a_reader_that_is_killed_leaves_a_pack(tmp_path: Path) -> None:
    """What it packed is there for the next; files are not opened again after an epoch."""
    manifest = make("chunked", tmp_path)

    async def work() -> None:
        async with OneReader(identity_of(manifest, tmp_path), tmp_path) as reader:
            await reader.window(0, 50)
            os.kill(reader.pid, signal.SIGKILL)
            await reader.failure()
            reader.start()
            await reader.window(0, 50)
            await reader.window(50, 100)
            for number in range(2):
                os.unlink(manifest.files[0].path(number))
            ids, values, stats = await reader.window(100, 160)
            np.testing.assert_array_equal(values["x"], WHOLE[ids])
            assert stats["bytes_read"] < 100 * 40 + 8192

    asyncio.run(work())
