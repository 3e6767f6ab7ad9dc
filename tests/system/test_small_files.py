"""Many small files in one request: together in one block, and each as if it were alone."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import arrayd
from arrayd import cli
from arrayd.common import failpoints
from arrayd.errors import ArraydError, BadFile, SourceNotFound, SpecMismatch
from arrayd.session.session import Session
from arrayd_server.loaders.small import MAX_BYTES
from tests.faults.grounds import halted, points
from tests.support.daemons import Daemon
from tests.support.processes import block_of, only_block, save, wait_until

__all__ = ["points"]

pytestmark = pytest.mark.one_daemon

Array = np.ndarray[Any, Any]

DTYPES = st.one_of(
    hnp.scalar_dtypes(),
    hnp.byte_string_dtypes(min_len=1, max_len=9),
    hnp.unicode_string_dtypes(min_len=1, max_len=9),
    hnp.array_dtypes(hnp.scalar_dtypes(), max_size=4),
)

SPOILED: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "no header": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "text": lambda path: path.write_text("1 2 3\n"),
    "objects": lambda path: save(path, np.array([{}])),
}
"""How a file that holds a few numbers is made one that cannot be loaded."""


def files(folder: Path, count: int, start: float = 0.0) -> list[Path]:
    """Write small files of different values and return their paths."""
    paths = [folder / f"{i}.npy" for i in range(count)]
    for i, path in enumerate(paths):
        save(path, np.arange(10.0) + start + 100 * i)
    return paths


def names(arrays: list[arrayd.SharedArray]) -> set[str]:
    """Return the blocks in which arrays lie."""
    return {block_of(array).name for array in arrays}


def message(array: Array) -> bytes:
    """Return an array as it goes to another process."""
    return bytes(ForkingPickler.dumps(array))


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Return an array of a file, 0-d and empty ones among them, in either order."""
    shape = draw(hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
    values: Array = draw(hnp.arrays(draw(DTYPES), shape, fill=st.nothing()))
    return np.asfortranarray(values) if draw(st.booleans()) else values


def test_as_np_load_reads_them(client: arrayd.Client, tmp_path: Path) -> None:
    """Random arrays, with broken and missing files and repeated ones among them (hypothesis)."""
    count = iter(range(1 << 30))

    @settings(max_examples=25, deadline=None)
    @given(
        st.lists(arrays(), min_size=1, max_size=8),
        st.lists(st.sampled_from(sorted(SPOILED)), max_size=3),
        st.randoms(use_true_random=False),
    )
    def check(values: list[Array], spoiled: list[str], chance: Any) -> None:
        folder = tmp_path / str(next(count))
        folder.mkdir()
        good = [folder / f"{i}.npy" for i in range(len(values))]
        for path, array in zip(good, values, strict=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # names that need version 3 of the format
                save(path, array)
        bad = [folder / f"bad{i}.npy" for i in range(len(spoiled))]
        for path, way in zip(bad, spoiled, strict=True):
            save(path, np.arange(3))
            SPOILED[way](path)
        asked = [*good, *bad, *good[:2]]
        chance.shuffle(asked)
        for path, got in zip(asked, client.get_many(asked, return_errors=True), strict=True):
            if path in bad:
                assert isinstance(got, (BadFile, SourceNotFound, SpecMismatch))
                assert str(path) in str(got)
            else:
                equal(got, np.load(path))

    check()


def equal(got: Any, wanted: Array) -> None:
    """Assert that an array has the very bytes, dtype and order of another, and is read-only."""
    assert isinstance(got, arrayd.SharedArray)
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    assert got.strides == wanted.strides or not wanted.size
    assert got.tobytes("A") == wanted.tobytes("A")
    assert not got.flags.writeable


def test_casts(client: arrayd.Client, tmp_path: Path) -> None:
    """What a cast makes of each is what it makes of one; where it cannot, that file alone fails."""
    paths = files(tmp_path, 3)
    save(paths[1], np.array([1e300, 0.1]))
    save(paths[2], np.array([0.5]))
    with pytest.warns(arrayd.PrecisionWarning, match=r"0\.npy") as warned:
        save(paths[0], np.array([0.1, 0.2, 0.5]))
        got = client.get_many(paths, cast="f4", return_errors=True)
    assert len(warned) == 1
    assert got[0].tolist() == np.array([0.1, 0.2, 0.5], "f4").tolist()
    assert isinstance(got[1], arrayd.CastError)
    assert got[2].tolist() == [0.5]
    wider = client.get_many(paths[::2], cast="c16")
    assert [array.dtype for array in wider] == [np.dtype("c16")] * 2


def test_one_block(client: arrayd.Client, daemon: Daemon, tmp_path: Path) -> None:
    """One segment, one line of status, one mapping; large files and pinned ones are by themselves.

    A request for one of them, or some of its rows, leads to the same block.
    """
    paths = files(tmp_path, 5)
    large = tmp_path / "large.npy"
    save(large, np.zeros(MAX_BYTES, "u1"))
    got = client.get_many([*paths, large])
    assert len(names(got[:5])) == 1
    assert names(got[5:]) != names(got[:5])
    together = next(block for block in client.status().blocks if block.members)
    assert (together.members, together.source) == (5, f"5 files in {tmp_path}/")
    assert "5 arrays" in str(client.status())
    with arrayd.Client(daemon.endpoint) as other:
        again = other.get(paths[3])
        rows = other.get(paths[4], rows=slice(8, None, -2))
        assert names([again, rows]) == names(got[:5])
        assert again.tolist() == got[3].tolist()
        assert rows.tolist() == got[4][8::-2].tolist()
        del again, rows
    pinned = client.get_many(files(tmp_path, 2, 5.0), pin=60)
    assert len(names(pinned)) == 2


def test_a_single_one(client: arrayd.Client, daemon: Daemon, tmp_path: Path) -> None:
    """It is loaded in the same way, into a block of its own that is called by its name."""
    (path,) = files(tmp_path, 1)
    array = client.get(path)
    block = only_block(client)
    assert (block.members, block.source, block.path) == (0, str(path), str(path))
    assert (block.shape, block.dtype, block.nbytes) == ((10,), array.dtype, array.nbytes)
    np.testing.assert_array_equal(array, np.load(path))
    with arrayd.Client(daemon.endpoint) as other:
        assert names([other.get(path, rows=slice(2, 5))]) == names([array])
    with pytest.raises(SpecMismatch, match="there is no cast="):
        client.get(path, overflow="clip")
    del array
    assert client.evict(path) == {"blocks": 1, "bytes": block.size, "arrays": 1}


@pytest.mark.parametrize(("dtype", "cast"), [("records", None), ("u1", "f4"), ("f8", "f4")])
def test_a_single_one_is_loaded_once(
    client: arrayd.Client, tmp_path: Path, dtype: str, cast: str | None
) -> None:
    """Whatever it holds, and whatever becomes of that: blocks are numbered."""
    records = np.dtype([(f"a rather long name {n}", "<f4") for n in range(30)])
    path = tmp_path / "x.npy"
    save(path, np.ones(5000, records if dtype == "records" else dtype))
    before, array, after = client.put([1]), client.get(path, cast=cast), client.put([2])
    numbers = {block.segment: block.number for block in client.status().blocks}
    first, second, third = (numbers[block_of(one).name] for one in (before, array, after))
    assert (second, third) == (first + 1, first + 2)


def test_a_single_one_waits_for_no_load(
    points: Path, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """It is read, or its error told, while the only loader fills something."""
    failpoints.arm(points, "worker.reading", "stop")
    large, bad = tmp_path / "large.npy", tmp_path / "bad.npy"
    save(large, np.zeros(MAX_BYTES))
    bad.write_bytes(b"no array")
    with arrayd.Client(start_daemon("--workers", "1").endpoint) as client:
        client.prefetch(large)
        with halted(points, "worker.reading"):
            assert client.get(*files(tmp_path, 1), timeout=60).tolist() == list(range(10))
            with pytest.raises(BadFile):
                client.get(bad, timeout=60)
        assert client.get(large).sum() == 0


def test_where_others_are_served(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A single one has a block that others may be let into: not one with members."""
    daemon = start_daemon("--allow", "all")
    (path,) = files(tmp_path, 1)
    with arrayd.Client(daemon.endpoint) as client:
        array = client.get(path)
        assert array.tolist() == list(range(10))
        assert array._held is not None
        assert array._held.hold is array._held  # of the block itself


def test_a_spelling_that_is_in_memory(client: arrayd.Client, tmp_path: Path) -> None:
    """Of a file that is there under another name, no second copy is made."""
    paths = files(tmp_path, 3)
    alone = client.get(paths[0])
    (tmp_path / "link.npy").symlink_to(paths[0])
    (tmp_path / "link2.npy").symlink_to(paths[1])
    got = client.get_many([tmp_path / "link.npy", *paths[1:], tmp_path / "link2.npy"])
    assert np.shares_memory(got[0], alone)
    assert np.shares_memory(got[1], got[3])
    assert got[1].tolist() == got[3].tolist() == (np.arange(10.0) + 100).tolist()


def test_a_file_that_changes(client: arrayd.Client, tmp_path: Path) -> None:
    """It alone is loaded again; the block goes when nothing in it is up to date any more."""
    paths = files(tmp_path, 3)
    client.release(client.get_many(paths)[0])
    (before,) = (block.segment for block in client.status().blocks)
    save(paths[0], np.full(4, -1.0))
    got = client.get_many(paths)
    assert got[0].tolist() == [-1.0] * 4
    assert names(got[1:]) == {before}
    assert before not in names(got[:1])
    del got
    for path in paths[1:]:
        save(path, np.full(4, -2.0))
    assert [array[0] for array in client.get_many(paths)] == [-1, -2, -2]
    client._session.send_releases()
    gone = lambda: before not in [block.segment for block in client.status().blocks]  # noqa: E731
    wait_until(gone, "the block of old editions goes")


def test_references(client: arrayd.Client, daemon: Daemon, tmp_path: Path) -> None:
    """Views of each travel, also onwards; if the block has gone, the file is loaded again."""
    paths = files(tmp_path, 4)
    save(paths[2], np.asfortranarray(np.arange(12.0).reshape(3, 4)))
    got = client.get_many(paths)
    for array in (*got, got[1][2:7:2], got[2][:, 1:3].T, got[3][::-1]):
        once = pickle.loads(message(array))
        twice = pickle.loads(message(once))
        for arrived in (once, twice):
            assert arrived.block == array.block
            assert arrived.strides == array.strides
            np.testing.assert_array_equal(arrived, array)
    sent = [message(got[2][1:]), message(got[3])]
    values = [got[2][1:].copy(), got[3].copy()]
    outside = np.lib.stride_tricks.as_strided(got[1], (40,))  # beyond the array: bytes, no view
    assert not isinstance(pickle.loads(message(outside)), arrayd.SharedArray)
    del got, array, once, twice, arrived, outside
    client.close()
    daemon.stop(signal.SIGTERM)
    daemon.start()
    arrived = [pickle.loads(one) for one in sent]
    for one, wanted in zip(arrived, values, strict=True):
        np.testing.assert_array_equal(one, wanted)
    del one, arrived


def test_after_a_restart(client: arrayd.Client, daemon: Daemon, tmp_path: Path) -> None:
    """The next run of the daemon adopts the block, and finds each of its members."""
    paths = files(tmp_path, 4)
    with pytest.warns(arrayd.PrecisionWarning):
        save(paths[3], np.array([0.1]))
        before = client.get_many(paths, cast="f4")
    daemon.stop(signal.SIGUSR1)
    daemon.start()
    with arrayd.Client(daemon.endpoint) as other:
        with pytest.warns(arrayd.PrecisionWarning):
            after = other.get_many(paths, cast="f4")
        assert names(after) == names(before)
        assert [a.tolist() for a in after] == [b.tolist() for b in before]
        assert only_block(client).members == 4
        assert client.status().counters["loads"] == 0
        del after


def test_an_older_client(
    client: arrayd.Client, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not say that it understands members gets blocks of its own."""
    paths = files(tmp_path, 3)
    ours = client.get_many(paths)
    hello = Session._hello
    monkeypatch.setattr(Session, "_hello", lambda self: _without_members(hello(self)))
    with arrayd.Client(daemon.endpoint) as other:
        theirs = other.get_many(paths)
        assert len(names(theirs)) == 3
        assert not names(theirs) & names(ours)
        assert [block_of(array).offset for array in theirs] == [0, 0, 0]
        assert [a.tolist() for a in theirs] == [b.tolist() for b in ours]
        sent = pickle.loads(message(ours[2]))  # names offset and shape by itself
        assert sent.tolist() == ours[2].tolist()
        del theirs, sent


def _without_members(hello: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in hello.items() if key != "members"}


def test_evict(client: arrayd.Client, tmp_path: Path) -> None:
    """Whoever evicts one file evicts its block, and is told how many arrays that were."""
    paths = files(tmp_path, 3)
    got = client.get_many(paths)
    with pytest.raises(arrayd.InUse, match="3 files in"):
        client.evict(paths[1])
    del got
    client._session.send_releases()
    freed = client.evict(paths[1])
    assert (freed["blocks"], freed["arrays"]) == (1, 3)
    assert client.status().blocks == ()


def test_release_and_modes(client: arrayd.Client, tmp_path: Path) -> None:
    """The hold is the block's: with one array released the others stay readable; "c" is private."""
    paths = files(tmp_path, 3)
    got = client.get_many(paths)
    private = client.get_many(paths, mode="c")
    private[1][:] = -1
    assert got[1].tolist() == (np.arange(10.0) + 100).tolist()
    assert private[0].tolist() == got[0].tolist()
    client.release(got[0])
    assert got[2].tolist() == (np.arange(10.0) + 200).tolist()
    assert client.get(paths[2]).tolist() == got[2].tolist()


def test_the_lines_to_paste(
    client: arrayd.Client, daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``arrayd get --attach`` says where in the block an array begins."""
    paths = files(tmp_path, 3)
    got = client.get_many(paths)
    assert cli.main(["get", str(paths[2]), "--attach", "--endpoint", daemon.endpoint]) == 0
    script = capsys.readouterr().out.partition("\n\n")[2] + "\nprint(a.tolist())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == f"{got[2].tolist()}\n", done.stderr


def test_a_reader_that_dies(
    points: Path, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """The files of its message are loaded one by one, and all are there."""
    failpoints.arm(points, "worker.probing", "kill")
    paths = files(tmp_path, 6)
    with arrayd.Client(start_daemon().endpoint) as client:
        got = client.get_many(paths)
        assert [array[0] for array in got] == [0, 100, 200, 300, 400, 500]
        assert [path for path in os.listdir(points) if path.startswith("worker.probing.")]
        del got


def test_no_room_for_all(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """What has no room together is loaded one by one, as far as the budget goes."""
    paths = [tmp_path / f"{i}.npy" for i in range(8)]
    for path in paths:
        save(path, np.zeros(20_000, "u1"))
    with arrayd.Client(start_daemon("--budget", "96K").endpoint) as client:
        got = client.get_many(paths, return_errors=True)
        there = [one for one in got if not isinstance(one, ArraydError)]
        assert 0 < len(there) < 8
        assert all(isinstance(one, arrayd.NoRoom) for one in got if isinstance(one, ArraydError))
        del got, there
