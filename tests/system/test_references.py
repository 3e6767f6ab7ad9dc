"""References: what travels as one, who keeps its block, and what a late one brings."""

from __future__ import annotations

import copy
import io
import itertools
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arrayd
from arrayd import api
from tests.support.daemons import Daemon
from tests.support.processes import (
    SLOW,
    frozen_load,
    leaves_nothing_behind,
    only_block,
    pids,
    save,
    wait_until,
)

SMALL = 1024
"""Bytes that a reference stays below, whatever the array's size."""


@pytest.fixture
def client(daemon: Daemon) -> Iterator[arrayd.Client]:
    """Give the very session in which this process redeems references."""
    yield from session(daemon)


def session(daemon: Daemon) -> Iterator[arrayd.Client]:
    """Give this process's own session with a daemon, and forget it."""
    with api.client_of(daemon.endpoint) as own:
        yield own
    del api._clients[daemon.endpoint]


def message(value: Any) -> bytes:
    """Return what multiprocessing would send."""
    return bytes(ForkingPickler.dumps(value))


def name_of(shared: arrayd.SharedArray) -> str:
    """Return the name of the block an array lies in."""
    assert shared.block is not None
    return shared.block.name


def same(got: Any, wanted: Any) -> bool:
    """Say whether two arrays are equal in all that numpy shows of them but their memory."""
    np.testing.assert_array_equal(got, wanted)
    return (got.dtype, got.shape, got.strides) == (wanted.dtype, wanted.shape, wanted.strides)


# ---- what travels ----------------------------------------------------------------------------


def test_a_reference_is_small(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """100 MB, a part of them and a strided view all travel in less than 1 KiB."""
    with (tmp_path / "x.bin").open("wb") as file:
        file.truncate(100_000_000)
    for client in session(start_daemon("--budget", "256M")):
        x = client.get(tmp_path / "x.bin", dtype="f4", shape=(-1, 1000))
        assert x.nbytes == 100_000_000
        for sent in (x, x[100:], x[::-2, ::7].T):
            assert len(message(sent)) < SMALL
            assert same(pickle.loads(message(sent))[..., :3], sent[..., :3])
        del sent, x


FIELDS = np.dtype([("name", "S5"), ("pos", "<i4"), ("w", ">f8", (2,))])

VIEWS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "whole": (np.arange(24).reshape(4, 6), lambda x: x),
    "slice": (np.arange(24).reshape(4, 6), lambda x: x[1:3]),
    "backwards": (np.arange(24).reshape(4, 6), lambda x: x[::-1, ::-2]),
    "strided": (np.arange(24).reshape(4, 6), lambda x: x[::2, 1::3]),
    "transposed": (np.arange(24).reshape(4, 6), lambda x: x.T),
    "new axis": (np.arange(24).reshape(4, 6), lambda x: x[:, None, 2]),
    "reshaped": (np.arange(24).reshape(4, 6), lambda x: x.reshape(2, -1)),
    "other type": (np.arange(24).reshape(4, 6), lambda x: x.view("u2")),
    "imaginary": (np.arange(5) * 1j, lambda x: x.imag),
    "Fortran": (np.asfortranarray(np.arange(24.0).reshape(4, 6)), lambda x: x[1:]),
    "0-d": (np.float32(2.5), lambda x: x),
    "0-d of many": (np.arange(5), lambda x: x[3, ...]),
    "records": (np.ones(4, FIELDS), lambda x: x[1:]),
    "field": (np.ones(4, FIELDS), lambda x: x["pos"]),
    "array in a field": (np.ones(4, FIELDS), lambda x: x["w"][:, 1]),
    "fields in another order": (np.ones(4, FIELDS), lambda x: x[["w", "name"]]),
    "text": (np.array(["grün", "ß"]), lambda x: x[1:]),
}


def test_every_view(client: arrayd.Client, tmp_path: Path) -> None:
    """Whatever view of a block is sent, it arrives as that view of that block, read-only."""
    for name, (values, view) in VIEWS.items():
        save(tmp_path / f"{name}.npy", values)
        sent = view(client.get(tmp_path / f"{name}.npy"))
        assert isinstance(sent, arrayd.SharedArray), name
        assert len(message(sent)) < SMALL, name
        got = pickle.loads(message(sent))
        assert same(got, sent), name
        assert got.block == sent.block, name
        assert np.shares_memory(got, sent), name
        with pytest.raises(ValueError, match="WRITEABLE"):
            got.flags.writeable = True
    del got, sent


def test_what_put_returns_is_read_only(client: arrayd.Client) -> None:
    """A published array can no more be made writeable than a loaded one."""
    x = client.put(np.arange(10))
    with pytest.raises(ValueError, match="WRITEABLE"):
        x.flags.writeable = True
    del x


def test_any_slices(client: arrayd.Client) -> None:
    """Random slices of slices arrive equal (hypothesis)."""
    source = [client.put(np.arange(4 * 5 * 6).reshape(4, 5, 6))]
    some = st.slices(6)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(some, some, some), min_size=1, max_size=2), st.permutations(range(3)))
    def check(cuts: list[tuple[slice, ...]], axes: list[int]) -> None:
        sent = source[0]
        for cut in cuts:
            sent = sent[cut].transpose(axes)
        got = pickle.loads(message(sent))
        np.testing.assert_array_equal(got, sent)
        assert isinstance(got, arrayd.SharedArray) == (sent.size > 0)

    check()
    source.clear()


def test_what_travels_by_value(client: arrayd.Client, tmp_path: Path) -> None:
    """What no block has exactly so, or what nobody could lend, arrives as a plain array."""
    save(tmp_path / "x.npy", np.arange(12.0).reshape(3, 4))
    x = client.get(tmp_path / "x.npy")
    private = client.get(tmp_path / "x.npy", mode="c")
    private[0] = -1
    frozen = client.get(tmp_path / "x.npy", mode="c")
    frozen[0] = -2
    frozen.flags.writeable = False
    plain = [private, frozen, x + 1, x[[0, 2]], x.copy(), np.asarray(x), x[:0], x.view(np.recarray)]
    for sent in plain:
        got = pickle.loads(message(sent))
        assert not isinstance(got, arrayd.SharedArray)
        np.testing.assert_array_equal(got, np.asarray(sent))
    assert {block.lends for block in client.status().blocks} == {0}
    client.release(x)
    released = pickle.loads(message(x))
    client.close()
    closed = pickle.loads(message(private))
    assert (type(released), type(closed)) == (np.ndarray, np.ndarray)
    assert (released.tolist(), closed.tolist()) == (x.tolist(), private.tolist())


def test_what_is_kept_holds_the_values(client: arrayd.Client, tmp_path: Path) -> None:
    """Pickles, copies and joblib's files are plain arrays, good after the block has gone."""
    joblib = pytest.importorskip("joblib", reason="joblib is not installed: pip install '.[test]'")
    values = save(tmp_path / "x.npy", np.arange(12.0).reshape(3, 4))
    x = client.get(tmp_path / "x.npy")
    saved = [pickle.dumps(x, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    file = io.BytesIO()
    joblib.dump(x, file)
    copies = [copy.copy(x), copy.deepcopy([x])[0]]
    del x
    client.evict(tmp_path / "x.npy")
    file.seek(0)
    for got in (*map(pickle.loads, saved), joblib.load(file), *copies):
        assert getattr(got, "block", None) is None
        np.testing.assert_array_equal(got, values)


# ---- who keeps the block ---------------------------------------------------------------------


def test_the_daemon_knows_before_the_message_is_there(client: arrayd.Client) -> None:
    """As soon as the message exists the block is lent, and after it is redeemed no more."""
    x = client.put(np.arange(1000))
    with arrayd.connect(client.endpoint) as other:
        sent = message(x)
        assert only_block(other).lends == 1
        got = pickle.loads(sent)
        assert only_block(other).lends == 0
    del x, got


def test_the_sender_drops_it_at_once(client: arrayd.Client) -> None:
    """A published block that nobody holds lives in its message, and dies with its receiver."""
    sent = message(client.put(np.arange(1000)))
    wait_until(lambda: only_block(client).state == "lent", "only the message has it")
    got = pickle.loads(sent)
    assert got.tolist() == list(range(1000))
    assert pids(only_block(client)) == [os.getpid()]
    del got
    leaves_nothing_behind(client)


KILLED = """
import os, signal
from multiprocessing.reduction import ForkingPickler
import numpy as np, arrayd

for number in range(10):
    if os.fork() == 0:
        sent = ForkingPickler.dumps(arrayd.put(np.full(1000, number)))
        os.write(1, bytes(sent).hex().encode() + b"\\n")
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL
"""


def run(script: str, daemon: Daemon, *args: str) -> list[str]:
    """Run a script against a daemon to its normal end; return the lines it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *args],
        env={**os.environ, "ARRAYD_ENDPOINT": daemon.endpoint, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def test_the_sender_is_killed(client: arrayd.Client, daemon: Daemon) -> None:
    """What a process sent right before its SIGKILL arrives, ten times out of ten."""
    for number, sent in enumerate(run(KILLED, daemon)):
        got = pickle.loads(bytes.fromhex(sent))
        assert got.tolist() == [number] * 1000
    assert number == 9
    del got
    leaves_nothing_behind(client)


def test_one_message_may_be_read_twice(client: arrayd.Client) -> None:
    """A message that goes to several is good for each, as long as somebody has the block."""
    sent = message(client.put(np.arange(10)))
    first, second = pickle.loads(sent), pickle.loads(sent)
    assert np.shares_memory(first, second)
    assert only_block(client).lends == 0
    del first, second
    leaves_nothing_behind(client)


def test_sending_does_not_wait_for_a_load(
    client: arrayd.Client, daemon: Daemon, slow_file: Path
) -> None:
    """While a thread waits for a long load, another sends and receives references."""
    x = client.put(np.arange(10))
    thread = threading.Thread(target=client.get, args=(slow_file,), kwargs=SLOW)
    thread.start()
    with arrayd.connect(daemon.endpoint) as other, frozen_load(daemon, other):
        got = pickle.loads(message(x))
        assert got.tolist() == list(range(10))
        assert thread.is_alive()
    thread.join()
    del x, got


# ---- redeemed too late -----------------------------------------------------------------------


def late(client: arrayd.Client, shared: list[Any]) -> bytes:
    """Return the message of an array whose block is then freed; `shared` gives it up."""
    sent = message(shared.pop())
    pickle.loads(sent)  # ends the lend
    wait_until(lambda: only_block(client).state == "idle", "nobody has it any more")
    client.evict(block=only_block(client).number)
    return sent


def test_it_is_loaded_again(client: arrayd.Client, tmp_path: Path) -> None:
    """The block is gone, the file is the same: the same view of a new block; and it goes on."""
    values = save(tmp_path / "x.npy", np.arange(24).reshape(4, 6))
    first = client.get(tmp_path / "x.npy")
    name = name_of(first)
    views = [first[::-1, ::2]]
    del first
    got = pickle.loads(late(client, views))
    assert same(got, values[::-1, ::2])
    assert name_of(got) != name
    views = [pickle.loads(message(got))]
    del got
    again = pickle.loads(late(client, views))
    assert same(again, values[::-1, ::2])
    del again


ROWS = [slice(2, 7), slice(None, None, -1), slice(1, None, 3)]


@pytest.mark.parametrize("whole_first", [True, False], ids=["window", "rows alone"])
@pytest.mark.parametrize("whole_later", [True, False], ids=["whole resident", "nothing resident"])
def test_rows_are_loaded_again(
    client: arrayd.Client, tmp_path: Path, whole_first: bool, whole_later: bool
) -> None:
    """``rows=`` of a block or as a block of its own: what is loaded instead has the same values."""
    values = np.arange(40).reshape(10, 4)
    for number, (order, rows) in enumerate(itertools.product("CF", ROWS)):
        path = tmp_path / f"{number}.npy"
        save(path, values)
        first = [client.get(path, order=order)] if whole_first else []
        for _ in range(2):  # the second time without the daemon
            shared = [client.get(path, rows=rows, order=order)[1:, ::2]]
        first.clear()
        sent = late(client, shared)
        later = [client.get(path, order=order)] if whole_later else []
        got = pickle.loads(sent)
        np.testing.assert_array_equal(got, values[rows][1:, ::2])
        assert not got.flags.writeable
        del got, later
        wait_until(lambda: {b.state for b in client.status().blocks} <= {"idle"}, "all dropped")
        for block in client.status().blocks:
            client.evict(block=block.number)


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "written over"])
def test_a_changed_file_is_not_loaded(
    client: arrayd.Client, tmp_path: Path, replaced: bool
) -> None:
    """The block is gone, the file another one: SourceChanged, never the other values."""
    save(tmp_path / "x.npy", np.arange(24))
    sent = late(client, [client.get(tmp_path / "x.npy")])
    save(tmp_path / "y.npy", np.arange(24) + 1)
    if replaced:
        (tmp_path / "y.npy").rename(tmp_path / "x.npy")
    else:
        (tmp_path / "x.npy").write_bytes((tmp_path / "y.npy").read_bytes())
    got = pickle.loads(sent)
    with pytest.raises(arrayd.SourceChanged, match=r"x\.npy changed while a reference"):
        got[0]


def test_a_changed_file_matters_only_then(client: arrayd.Client, tmp_path: Path) -> None:
    """As long as the block is there, the reference means it, whatever became of the file."""
    save(tmp_path / "x.npy", np.arange(24))
    sent = message(client.get(tmp_path / "x.npy"))
    (tmp_path / "x.npy").unlink()
    got = pickle.loads(sent)
    assert got.sum() == 276
    del got


def test_the_file_is_gone_as_well(client: arrayd.Client, tmp_path: Path) -> None:
    """Neither block nor file: SourceNotFound."""
    save(tmp_path / "x.npy", np.arange(24))
    sent = late(client, [client.get(tmp_path / "x.npy")])
    (tmp_path / "x.npy").unlink()
    got = pickle.loads(sent)
    with pytest.raises(arrayd.SourceNotFound, match=r"x\.npy"):
        got.sum()


def test_a_published_block_is_gone(client: arrayd.Client) -> None:
    """What was published cannot be loaded again: NoSuchBlock, which says what to do."""
    sent = message(client.put(np.arange(10)))
    pickle.loads(sent)
    leaves_nothing_behind(client)
    got = pickle.loads(sent)
    with pytest.raises(arrayd.NoSuchBlock, match="published and sent by reference, is gone"):
        np.asarray(got)
