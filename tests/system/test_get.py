"""`arrayd.get` and its relatives, in real processes, on real files, against numpy and h5py."""

from __future__ import annotations

import copy
import os
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from tests.support.daemons import Daemon
from tests.support.processes import Stage, block_of, only_block, pids, raised, save, wait_until
from tests.support.shared_daemon import counters

pytestmark = pytest.mark.one_daemon


# ---- what a source can be --------------------------------------------------------------------


def test_every_spelling_of_a_source(client: arrayd.Client, tmp_path: Path) -> None:
    """Paths, members, datasets, names and Source all give the values that the file holds."""
    x, y = np.arange(12.0).reshape(3, 4), np.arange(5, dtype="i2")
    save(tmp_path / "x.npy", x)
    save(tmp_path / "odd:name.npy", y)
    np.savez(tmp_path / "both.npz", x=x, y=y)
    with h5py.File(tmp_path / "both.h5", "w") as file:
        file["group/x"], file["y"] = x, y
    published = client.put(x, name="X")
    spellings: list[tuple[Any, dict[str, Any], Any]] = [
        (f"{tmp_path}/x.npy", {}, x),
        (tmp_path / "x.npy", {}, x),
        (f"{tmp_path}/odd:name.npy", {}, y),
        (f"{tmp_path}/both.npz:y", {}, y),
        (f"{tmp_path}/both.npz", {"dataset": "x"}, x),
        (f"{tmp_path}/both.h5:/group/x", {}, x),
        (f"{tmp_path}/both.h5", {"dataset": "y"}, y),
        (arrayd.Source.of(f"{tmp_path}/both.h5:y"), {}, y),
        ("name:X", {}, x),
    ]
    for what, options, wanted in spellings:
        got = client.get(what, **options)
        np.testing.assert_array_equal(got, wanted)
        assert (got.dtype, type(got)) == (wanted.dtype, arrayd.SharedArray)
    assert counters(client)["loads"] == 6, "two spellings of one array shared a block"
    del got, published


def test_shapes_and_types_survive(client: arrayd.Client, tmp_path: Path) -> None:
    """0-d, empty, Fortran and structured arrays come out as numpy reads them."""
    fields = np.dtype([("name", "S5"), ("pos", "<i4"), ("w", "f8", (2,))])
    cases: list[Any] = [
        np.float32(2.5),
        np.zeros((0, 3)),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array([(b"chr1", 7, (0.5, 1.5))] * 3, fields),
        np.array(["grün", "ß"]),
        np.arange(3, dtype=">u2"),
    ]
    for number, case in enumerate(cases):
        wanted = save(tmp_path / f"{number}.npy", case)
        got = client.get(tmp_path / f"{number}.npy")
        np.testing.assert_array_equal(got, wanted)
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        assert got.flags.f_contiguous == wanted.flags.f_contiguous
    del got


def test_links_and_spellings_share_a_block(
    client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A symlink, a relative path and a detour name the block of the file itself."""
    save(tmp_path / "x.npy", np.arange(9))
    (tmp_path / "link.npy").symlink_to("x.npy")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    paths: list[str | Path] = ["x.npy", tmp_path / "link.npy", tmp_path / "sub" / ".." / "x.npy"]
    names = {block_of(array).name for array in client.get_many(paths)}
    assert len(names) == 1
    assert counters(client)["loads"] == 1


def test_a_changed_file_is_another_block(client: arrayd.Client, tmp_path: Path) -> None:
    """After an append to the file the next get loads anew; who holds the old one keeps it."""
    path = tmp_path / "x.bin"
    np.arange(4.0).tofile(path)
    old = client.get(path, dtype="f8", shape=-1)
    with path.open("ab") as file:
        np.arange(4.0, 6.0).tofile(file)
    new = client.get(path, dtype="f8", shape=-1)
    np.testing.assert_array_equal(old, np.arange(4.0))
    np.testing.assert_array_equal(new, np.arange(6.0))
    assert block_of(old).name != block_of(new).name
    del old, new


# ---- keywords --------------------------------------------------------------------------------


def test_dtype_is_a_claim(client: arrayd.Client, tmp_path: Path) -> None:
    """A right claim changes nothing; a wrong one is refused, with cast= as the way out."""
    save(tmp_path / "x.npy", np.arange(4.0))
    assert client.get(tmp_path / "x.npy", dtype="f8").sum() == 6
    error, _ = raised(lambda: client.get(tmp_path / "x.npy", dtype="i4"))
    assert isinstance(error, arrayd.SpecMismatch)
    assert "x.npy holds float64, not int32" in str(error)
    assert "cast='int32'" in str(error)


@pytest.mark.parametrize("rows", [slice(2, 5), slice(None, None, -2), slice(-3, None)])
def test_rows(client: arrayd.Client, daemon: Daemon, tmp_path: Path, rows: slice) -> None:
    """rows= means a[rows]: a block of its own, or a window once the whole is resident."""
    wanted = save(tmp_path / "x.npy", np.arange(40.0).reshape(10, 4))[rows]
    part = client.get(tmp_path / "x.npy", rows=rows)
    np.testing.assert_array_equal(part, wanted)
    assert block_of(part).shape == wanted.shape
    del part
    client.evict(tmp_path / "x.npy")
    whole = client.get(tmp_path / "x.npy")
    with arrayd.connect(daemon.endpoint) as other:
        for session in (client, other):
            window = session.get(tmp_path / "x.npy", rows=rows)
            np.testing.assert_array_equal(window, wanted)
            assert window.block == whole.block
        del window
    assert counters(client)["loads"] == 2
    del whole


def test_order(client: arrayd.Client, tmp_path: Path) -> None:
    """order= decides the layout in memory, not the values."""
    wanted = save(tmp_path / "x.npy", np.arange(12.0).reshape(3, 4))
    got = client.get(tmp_path / "x.npy", order="F")
    np.testing.assert_array_equal(got, wanted)
    assert got.flags.f_contiguous
    assert block_of(got).order == "F"
    del got


def test_copy_on_write(client: arrayd.Client, tmp_path: Path) -> None:
    """mode="c" is writeable, private to the array, and charged nothing."""
    wanted = save(tmp_path / "x.npy", np.arange(1000.0))
    shared = client.get(tmp_path / "x.npy")
    charged = client.status().charged
    mine = client.get(tmp_path / "x.npy", mode="c")
    mine[:10] = -1
    again = client.get(tmp_path / "x.npy", mode="c")
    np.testing.assert_array_equal(shared, wanted)
    np.testing.assert_array_equal(again, wanted)
    assert mine[:11].tolist() == [-1.0] * 10 + [10.0]
    assert client.status().charged == charged
    del shared
    assert pids(only_block(client)) == [os.getpid()], "the copy holds the block as well"
    del mine, again


def test_pin(client: arrayd.Client, tmp_path: Path) -> None:
    """A pinned block stays without a holder: for its seconds, or until it is evicted."""
    save(tmp_path / "x.npy", np.arange(9))
    client.get(tmp_path / "x.npy", pin=0.2)
    wait_until(lambda: only_block(client).state == "idle", "the hold ends")
    wait_until(lambda: not only_block(client).pinned, "the pin ends")
    assert client.get(tmp_path / "x.npy", pin=True).sum() == 36
    wait_until(lambda: only_block(client).state == "idle", "the hold ends")
    assert only_block(client).pinned
    assert client.evict(tmp_path / "x.npy")["blocks"] == 1
    assert counters(client)["loads"] == 1


def test_nonsense_is_refused_before_it_is_sent(client: arrayd.Client, tmp_path: Path) -> None:
    """Keyword values that mean nothing are SpecMismatch, and the daemon never hears of them."""
    save(tmp_path / "x.npy", np.arange(3))
    nonsense: list[dict[str, Any]] = [{"mode": "w"}, {"order": "K"}, {"rows": 3}, {"cast": "O"}]
    for options in nonsense:
        error, _ = raised(partial(client.get, tmp_path / "x.npy", **options))
        assert isinstance(error, arrayd.SpecMismatch), options
    assert counters(client)["requests"] == 0


# ---- the array -------------------------------------------------------------------------------


def test_read_only_for_good(client: arrayd.Client, tmp_path: Path) -> None:
    """Neither the array, nor a view, nor anything along their bases can be made writeable."""
    save(tmp_path / "x.npy", np.arange(6.0).reshape(2, 3))
    shared = client.get(tmp_path / "x.npy")
    for view in (shared, np.asarray(shared), shared[1:], shared.T, shared.view("u8")):
        link: Any = view
        while isinstance(link, np.ndarray):
            assert not link.flags.writeable
            with pytest.raises(ValueError, match="WRITEABLE"):
                link.flags.writeable = True
            link = link.base
    with pytest.raises(ValueError, match="read-only"):
        shared[0, 0] = 1
    del view, link, shared


def test_a_slice_keeps_the_block(client: arrayd.Client, tmp_path: Path) -> None:
    """The block is held as long as any view of it lives, and idle right after."""
    wanted = save(tmp_path / "x.npy", np.arange(100.0))
    shared = client.get(tmp_path / "x.npy")
    assert shared.block == arrayd.Block(
        only_block(client).segment, f"{tmp_path}/x.npy", (100,), np.dtype("f8"), "C"
    )
    corner, plain = shared[10:20], np.asarray(shared)[5:]
    assert corner.block == shared.block
    del shared
    client._session.send_releases()
    np.testing.assert_array_equal(corner, wanted[10:20])
    del corner
    client._session.send_releases()
    np.testing.assert_array_equal(plain, wanted[5:])
    assert only_block(client).state == "held"
    del plain
    wait_until(lambda: only_block(client).state == "idle", "the hold ends with the last view")


def test_computed_arrays_are_plain(client: arrayd.Client, tmp_path: Path) -> None:
    """What is computed from it or copied out of it is a numpy.ndarray that lies in no block."""
    save(tmp_path / "x.npy", np.arange(6.0).reshape(2, 3))
    shared = client.get(tmp_path / "x.npy")
    made = (shared + 1, np.sqrt(shared), shared[[0, 1]], shared[shared > 2], shared.sum(axis=0))
    assert [type(array) for array in made] == [np.ndarray] * 5
    assert type(shared.sum()) is np.float64
    copies = [shared.copy(), copy.copy(shared), copy.deepcopy(shared)]
    assert [type(array) for array in copies] == [np.ndarray] * 3
    del shared


def test_release_ends_the_hold_now(client: arrayd.Client, tmp_path: Path) -> None:
    """After release the block is nobody's, the pages stay readable, and again is no error."""
    wanted = save(tmp_path / "x.npy", np.arange(50))
    shared = client.get(tmp_path / "x.npy")
    client.release(shared)
    client.release(shared)
    assert only_block(client).holders == ()
    assert only_block(client).state == "stray"
    np.testing.assert_array_equal(shared, wanted)
    again = client.get(tmp_path / "x.npy")
    assert again.block == shared.block
    assert counters(client)["loads"] == 1
    del shared, again


def test_a_block_at_hand_costs_no_request(client: arrayd.Client, tmp_path: Path) -> None:
    """A second get of a block this process holds is answered here: no message, same pages."""
    save(tmp_path / "x.npy", np.arange(50))
    first = client.get(tmp_path / "x.npy")
    requests = counters(client)["requests"]
    second = client.get(tmp_path / "x.npy")
    assert counters(client)["requests"] == requests == 1
    assert second.__array_interface__["data"] == first.__array_interface__["data"]
    del first
    assert second.sum() == 1225
    assert only_block(client).state == "held"
    del second


# ---- many ------------------------------------------------------------------------------------


def test_get_many_keeps_the_order(client: arrayd.Client, tmp_path: Path) -> None:
    """Results stand where their sources stood; errors too, or the first one is raised."""
    for number in range(5):
        save(tmp_path / f"{number}.npy", np.full(1000, number))
    (tmp_path / "bad.npy").write_bytes(b"no array")
    names = ["3.npy", "gone.npy", "0.npy", "bad.npy", "3.npy", "4.npy"]
    paths = [tmp_path / name for name in names]
    found = client.get_many(paths, return_errors=True)
    assert [type(f) for f in (found[1], found[3])] == [arrayd.SourceNotFound, arrayd.BadFile]
    assert [int(found[i][0]) for i in (0, 2, 4, 5)] == [3, 0, 3, 4]
    assert found[0].block == found[4].block
    assert counters(client)["requests"] == 5, "one request's items; the missing file is none"
    with pytest.raises(arrayd.SourceNotFound, match=r"gone\.npy"):
        client.get_many(paths)
    assert client.get_many([]) == []
    del found


def test_eight_processes_load_each_file_once(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """Eight processes that ask at once for the same files cause one load of each."""
    files = [str(tmp_path / f"{number}.npy") for number in range(3)]
    for number, file in enumerate(files):
        save(Path(file), np.full(200_000, number + 1.0))
    first = puppets(daemon)
    everybody = [first, *(first.fork() for _ in range(7))]
    for one in everybody:
        one.send(f"arrays = arrayd.get_many({files!r}); [float(a.sum()) for a in arrays]")
    assert [one.reply() for one in everybody] == [[200_000.0, 400_000.0, 600_000.0]] * 8
    assert counters(client) | {"requests": 24, "loads": 3} == counters(client)
    status = client.status()
    assert [pids(b) for b in status.blocks] == [sorted(one.pid for one in everybody)] * 3


# ---- beside the arrays -----------------------------------------------------------------------


def test_info_loads_nothing(client: arrayd.Client, tmp_path: Path) -> None:
    """Info tells shape, dtype, members and size, and no block comes of it."""
    x = save(tmp_path / "x.npy", np.asfortranarray(np.ones((3, 4), "f4")))
    np.savez(tmp_path / "both.npz", x=x, y=np.arange(5))
    one = client.info(tmp_path / "x.npy")
    assert (one.shape, one.dtype, one.order, one.format) == ((3, 4), x.dtype, "F", "npy")
    assert one.bytes == (tmp_path / "x.npy").stat().st_size
    both = client.info(tmp_path / "both.npz")
    assert (both.shape, both.dtype) == (None, None)
    assert [(m.name, m.shape, m.dtype) for m in both.members] == [
        ("x", (3, 4), np.dtype("f4")),
        ("y", (5,), np.dtype("i8")),
    ]
    assert client.info(f"{tmp_path}/both.npz:y").shape == (5,)
    with pytest.raises(arrayd.SourceNotFound):
        client.info(tmp_path / "gone.npy")
    assert client.status().blocks == ()
    published = client.put(x, name="X")
    assert client.info("name:X").shape == (3, 4)
    del published
    with pytest.raises(arrayd.NoSuchBlock):
        client.info("name:Y")


def test_prefetch(client: arrayd.Client, tmp_path: Path) -> None:
    """Prefetch returns at once; the load goes on, and a later get finds it."""
    save(tmp_path / "x.npy", np.arange(50))
    client.prefetch(tmp_path / "x.npy")
    wait_until(lambda: [b.state for b in client.status().blocks] == ["idle"], "it is loaded")
    assert client.get(tmp_path / "x.npy").sum() == 1225
    assert counters(client) | {"loads": 1, "hits": 1} == counters(client)
    with pytest.raises(arrayd.SourceNotFound):
        client.prefetch(tmp_path / "gone.npy")


def test_evict(client: arrayd.Client, tmp_path: Path) -> None:
    """Evict frees what nobody uses, refuses what somebody holds and says who that is."""
    save(tmp_path / "x.npy", np.arange(50))
    shared = client.get(tmp_path / "x.npy")
    error, _ = raised(lambda: client.evict(tmp_path / "x.npy"))
    assert isinstance(error, arrayd.InUse)
    assert str(os.getpid()) in str(error)
    del shared
    freed = client.evict(tmp_path / "x.npy")
    assert freed["blocks"] == 1
    assert freed["bytes"] >= 400
    assert client.status().blocks == ()
    with pytest.raises(arrayd.NoSuchBlock):
        client.evict(tmp_path / "x.npy")


def test_the_module_functions_use_one_session(daemon: Daemon, puppets: Stage) -> None:
    """arrayd.get, put, info, evict and status share a client, found through ARRAYD_ENDPOINT."""
    one = puppets(daemon)
    one("a = arrayd.put(np.arange(4), name='A'); b = arrayd.get('name:A'); arrayd.info('name:A')")
    assert one("arrayd.release(a); del a, b; len(arrayd.status().sessions)") == 1
    with pytest.raises(arrayd.NoSuchBlock):
        one("arrayd.evict('name:A')")
