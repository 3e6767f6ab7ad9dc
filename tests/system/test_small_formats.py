"""Small files of any format in one request: together in one block, each as if it were alone."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.common import failpoints
from arrayd.errors import ArraydError
from tests.faults.grounds import halted, points
from tests.support.daemons import Daemon
from tests.support.processes import block_of, only_block

__all__ = ["points"]

pytestmark = pytest.mark.one_daemon

Array = np.ndarray[Any, Any]

RECORDS = np.dtype([("chr", "S10"), ("pos", "<i4"), ("pct", "<f4"), ("c", "<i4"), ("t", "<i4")])
COUNT = 5


def _text(path: Path, n: int) -> Array:
    """Write numbers as short as can be: their array has more bytes than the file."""
    values = np.arange(3.0 * (n + 2)).reshape(-1, 3) % 10
    np.savetxt(path, values, "%d")
    return values


def _records(path: Path, n: int) -> Array:
    """Write rows of a lab's coverage file."""
    rows = [(f"chr{i % 22}".encode(), 1000 * i, i / (n + 7), i, 2 * i) for i in range(n + 3)]
    values = np.array(rows, RECORDS)
    np.savetxt(path, values, ["%s", "%d", "%.9g", "%d", "%d"], "\t")
    path.write_text(path.read_text().replace("b'", "").replace("'", ""))
    return values


def _raw(path: Path, n: int) -> Array:
    """Write values without a header."""
    values = (np.arange(12).reshape(4, 3) + 1000 * n).astype(">i2")
    values.tofile(path)
    return values


def _zip(path: Path, n: int, save: Any = np.savez) -> Array:
    """Write an archive with a second member; what is asked for is in Fortran order."""
    values = np.asfortranarray(np.arange(20.0).reshape(4, 5) + n)
    save(path, x=values, y=np.zeros(3))
    return values


def _hdf5(path: Path, n: int, **how: Any) -> Array:
    """Write a dataset, maybe in compressed chunks: then it is far larger than its file.

    Chunks of less than 16 KiB would be decoded by a process of their own, for each file alone.
    """
    values = np.zeros((60 + n, 500), "f4")
    values[n] = n + 0.5
    with h5py.File(path, "w") as file:
        file.create_dataset("group/x", data=values, **how)
        file["y"] = np.arange(3)
    return values


def _npy(path: Path, n: int) -> Array:
    """Write a ``.npy``; a dtype is claimed of it, so it is not read the shortest way."""
    values = np.arange(5.0) + n
    np.save(path, values)
    return values


KINDS: dict[str, tuple[str, Callable[[Path, int], Array], dict[str, Any]]] = {
    "text": ("txt", _text, {}),
    "records": ("cov", _records, {"dtype": RECORDS, "delimiter": "\t"}),
    "raw": ("bin", _raw, {"dtype": ">i2", "shape": (-1, 3)}),
    "stored": ("npz", _zip, {"dataset": "x"}),
    "deflated": ("npz", lambda path, n: _zip(path, n, np.savez_compressed), {"dataset": "x"}),
    "hdf5": ("h5", _hdf5, {"dataset": "/group/x"}),
    "chunked": (
        "h5",
        lambda p, n: _hdf5(p, n, chunks=(16, 500), compression=4),
        {"dataset": "group/x"},
    ),
    "npy": ("npy", _npy, {"dtype": "f8"}),
}
"""Of each kind its suffix, what writes the file of a number and returns its array, and options."""


def written(folder: Path, kind: str, count: int = COUNT) -> tuple[list[Path], list[Array]]:
    """Write files of a kind; return their paths and arrays."""
    suffix, write, _ = KINDS[kind]
    paths = [folder / f"{n}.{suffix}" for n in range(count)]
    return paths, [write(path, n) for n, path in enumerate(paths)]


def equal(got: Any, wanted: Array) -> None:
    """Assert that an array has the values, dtype and order of another, and is read-only."""
    assert isinstance(got, arrayd.SharedArray), got
    assert (got.dtype, got.shape, got.strides) == (wanted.dtype, wanted.shape, wanted.strides)
    assert got.tobytes("A") == wanted.tobytes("A")
    assert not got.flags.writeable


@pytest.mark.parametrize("kind", KINDS)
def test_they_lie_in_one_block(client: arrayd.Client, tmp_path: Path, kind: str) -> None:
    """With the values that each has by itself; then each is found by itself, too."""
    paths, values = written(tmp_path, kind)
    options = KINDS[kind][2]
    before = client.status().counters["loads"]
    got = client.get_many([*paths, paths[1]], **options)
    for one, wanted in zip(got, [*values, values[1]], strict=True):
        equal(one, wanted)
    assert np.shares_memory(got[1], got[-1])
    block = only_block(client)
    assert (block.members, block.source) == (COUNT, f"{COUNT} files in {tmp_path}/")
    equal(client.get(paths[2], **options), values[2])
    assert client.status().counters["loads"] == before + COUNT
    rows = client.get(paths[3], rows=slice(1, 3), **options)
    assert rows.tobytes() == values[3][1:3].tobytes()
    assert block_of(rows).name == block.segment


@pytest.mark.parametrize("kind", ["text", "records", "stored", "chunked"])
def test_one_alone_has_the_same_key(client: arrayd.Client, tmp_path: Path, kind: str) -> None:
    """What is in memory by itself is not loaded again with others, under whatever name."""
    paths, values = written(tmp_path, kind)
    options, link = KINDS[kind][2], tmp_path / f"link{paths[0].suffix}"
    alone = client.get(paths[0], **options)
    link.symlink_to(paths[0])
    got = client.get_many([link, *paths[1:]], **options)
    assert np.shares_memory(got[0], alone)
    equal(got[0], values[0])
    assert only_of(client, COUNT - 1).members == COUNT - 1


def only_of(client: arrayd.Client, members: int) -> Any:
    """Return the one block with so many members."""
    (block,) = [one for one in client.status().blocks if one.members == members]
    return block


SPOILED: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_broken_spoils_no_other(
    client: arrayd.Client, tmp_path: Path, kind: str
) -> None:
    """Its error, or its array, is the one that it has alone."""
    options = KINDS[kind][2]
    paths, values = written(tmp_path, kind, COUNT + len(SPOILED))
    for path, spoil in zip(paths[COUNT:], SPOILED.values(), strict=True):
        spoil(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, of a text without rows
        got = client.get_many(paths, return_errors=True, **options)
    for one, wanted in zip(got[:COUNT], values[:COUNT], strict=True):
        equal(one, wanted)
    for path, one in zip(paths[COUNT:], got[COUNT:], strict=True):
        if isinstance(one, ArraydError):
            with pytest.raises(type(one)) as alone:
                client.get(path, **options)
            assert str(alone.value) == str(one)
        else:
            equal(one, np.asarray(client.get(path, **options)))


def test_what_refers_to_others_is_loaded_alone(client: arrayd.Client, tmp_path: Path) -> None:
    """For what a request says of it is not all that it depends on; the others lie together."""
    paths, values = written(tmp_path, "hdf5")
    with h5py.File(paths[0], "w") as file:
        file["group/x"] = h5py.ExternalLink(paths[1].name, "group/x")
    got = client.get_many(paths, dataset="group/x")
    for one, wanted in zip(got, [values[1], *values[1:]], strict=True):
        equal(one, wanted)
    assert only_of(client, COUNT - 1).members == COUNT - 1


def test_casts(client: arrayd.Client, tmp_path: Path) -> None:
    """Each warns of what it loses, and what does not fit is an error of its own."""
    paths, values = written(tmp_path, "text")
    np.savetxt(paths[1], np.array([[1e300, 0.5], [1, 2]]))
    np.savetxt(paths[2], np.array([[0.1, 0.5], [1, 2]]))
    with pytest.warns(arrayd.PrecisionWarning, match=r"2\.txt: .* 1 of 4 values"):
        got = client.get_many(paths, cast="f4", return_errors=True)
    assert isinstance(got[1], arrayd.CastError)
    assert got[2].tolist() == np.array([[0.1, 0.5], [1, 2]], "f4").tolist()
    equal(got[3], values[3].astype("f4"))
    assert only_of(client, COUNT - 1).members == COUNT - 1


def test_what_becomes_large_is_loaded_alone(client: arrayd.Client, tmp_path: Path) -> None:
    """A small file may hold a large array: that has a block of its own."""
    paths, values = written(tmp_path, "chunked")
    large = np.zeros((300, 500), "f4")
    with h5py.File(paths[0], "w") as file:
        file.create_dataset("group/x", data=large, chunks=(16, 500), compression=4)
    got = client.get_many(paths, dataset="group/x")
    equal(got[0], large)
    equal(got[1], values[1])
    assert block_of(got[0]).name != block_of(got[1]).name


def test_different_ways_to_read(client: arrayd.Client, tmp_path: Path) -> None:
    """Files of one request that are asked for in different ways lie in different blocks."""
    text, texts = written(tmp_path, "text")
    zipped, arrays = written(tmp_path, "stored")
    named = [arrayd.Source.of(path, dataset="x") for path in zipped]
    got = client.get_many([*text, *named])
    for one, wanted in zip(got, [*texts, *arrays], strict=True):
        equal(one, wanted)
    assert sorted(block.members for block in client.status().blocks) == [COUNT, COUNT]


def test_after_a_restart(client: arrayd.Client, daemon: Daemon, tmp_path: Path) -> None:
    """The next run of the daemon adopts the block, and finds each of its members."""
    paths, values = written(tmp_path, "records", 40)
    options = KINDS["records"][2]
    before = client.get_many(paths, **options)
    daemon.stop(signal.SIGUSR1)
    daemon.start()
    with arrayd.Client(daemon.endpoint) as other:
        after = other.get_many(paths, **options)
        assert {block_of(one).name for one in after} == {block_of(one).name for one in before}
        for one, wanted in zip(after, values, strict=True):
            equal(one, wanted)
        assert only_block(client).members == 40
        assert client.status().counters["loads"] == 0
        del after


@pytest.mark.parametrize("point", ["worker.probing", "worker.answering"])
def test_a_reader_that_dies(
    points: Path, start_daemon: Callable[..., Daemon], tmp_path: Path, point: str
) -> None:
    """Whether it measures or loads: the files are loaded one by one, and all are there."""
    failpoints.arm(points, point, "kill")
    paths, values = written(tmp_path, "text")
    with arrayd.Client(start_daemon().endpoint) as client:
        got = client.get_many(paths)
        for one, wanted in zip(got, values, strict=True):
            equal(one, wanted)
        assert list(points.glob(f"{point}.*"))
        del got


def test_who_waits_for_what_is_measured(
    points: Path, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """It is told of each of the files, though one job is for all."""
    failpoints.arm(points, "worker.probing", "stop")
    paths, values = written(tmp_path, "text", 2)
    daemon = start_daemon()
    with arrayd.Client(daemon.endpoint) as client, arrayd.Client(daemon.endpoint) as other:
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.extend(client.get_many(paths)))
        thread.start()
        with halted(points, "worker.probing"):
            for path in paths:
                assert other.who(path).jobs, path
        thread.join()
        for one, wanted in zip(got, values, strict=True):
            equal(one, wanted)
        got.clear()
