"""Arrays by reference through multiprocessing and joblib; values in whatever may be kept."""

from __future__ import annotations

import copy
import io
import multiprocessing as mp
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arrayd
from arrayd import api
from tests.fixtures import Daemon
from tests.helpers import (
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

METHODS = ["fork", "spawn", "forkserver"]

# From Python 3.12 on; that a fork among threads works is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

_kept: list[Any] = []


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


def same(got: Any, wanted: Any) -> bool:
    """Say whether two arrays are equal in all that numpy shows of them but their memory."""
    np.testing.assert_array_equal(got, wanted)
    return (got.dtype, got.shape, got.strides) == (wanted.dtype, wanted.shape, wanted.strides)


# ---- what the other processes do -------------------------------------------------------------


def look(shared: Any) -> tuple[str, str, float, bool]:
    """Tell what has arrived."""
    block = shared.block.name if isinstance(shared, arrayd.SharedArray) else ""
    return type(shared).__name__, block, float(shared.sum()), shared.flags.writeable


def keep(*shared: Any) -> None:
    """Keep what has arrived for as long as the process lives."""
    _kept.extend(shared)


def upper_half(shared: Any) -> Any:
    """Send a part back."""
    return shared[len(shared) // 2 :]


def fill(shared: Any, start: int, stop: int) -> str:
    """Write a part."""
    shared[start:stop] = np.arange(start, stop)
    return str(shared.block.name)


def answer(inbox: Any, outbox: Any) -> None:
    """Send back what is received, until that is None."""
    for shared in iter(inbox.get, None):
        outbox.send(shared)


def give(outbox: Any, endpoint: str) -> None:
    """Publish an array, send it, and end."""
    outbox.put(api.client_of(endpoint).put(np.arange(1000)))


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


@pytest.mark.parametrize("name", VIEWS)
def test_every_view(client: arrayd.Client, tmp_path: Path, name: str) -> None:
    """Whatever view of a block is sent, it arrives as that view of that block, read-only."""
    values, view = VIEWS[name]
    save(tmp_path / "x.npy", values)
    sent = view(client.get(tmp_path / "x.npy"))
    assert isinstance(sent, arrayd.SharedArray)
    assert len(message(sent)) < SMALL
    got = pickle.loads(message(sent))
    assert same(got, sent)
    assert got.block == sent.block
    assert np.shares_memory(got, sent)
    with pytest.raises(ValueError, match="WRITEABLE"):
        got.flags.writeable = True
    del got, sent


def test_any_slices(client: arrayd.Client) -> None:
    """Random slices of slices arrive equal (hypothesis)."""
    whole = client.put(np.arange(4 * 5 * 6).reshape(4, 5, 6))
    some = st.slices(6)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(some, some, some), min_size=1, max_size=2), st.permutations(range(3)))
    def check(cuts: list[tuple[slice, ...]], axes: list[int]) -> None:
        sent = whole
        for cut in cuts:
            sent = sent[cut].transpose(axes)
        got = pickle.loads(message(sent))
        np.testing.assert_array_equal(got, sent)
        assert isinstance(got, arrayd.SharedArray) == (sent.size > 0)

    check()
    del whole


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
        assert type(got) is np.ndarray
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
    """Run a script against a daemon; return the lines it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *args],
        env={**os.environ, "ARRAYD_ENDPOINT": daemon.endpoint},
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
    name = first.block.name
    views = [first[::-1, ::2]]
    del first
    got = pickle.loads(late(client, views))
    assert same(got, values[::-1, ::2])
    assert got.block.name != name
    views = [pickle.loads(message(got))]
    del got
    again = pickle.loads(late(client, views))
    assert same(again, values[::-1, ::2])
    del again


@pytest.mark.parametrize("rows", [slice(2, 7), slice(None, None, -1), slice(1, None, 3)], ids=str)
@pytest.mark.parametrize("whole_first", [True, False], ids=["window", "rows alone"])
@pytest.mark.parametrize("whole_later", [True, False], ids=["whole resident", "nothing resident"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_are_loaded_again(
    client: arrayd.Client,
    tmp_path: Path,
    rows: slice,
    whole_first: bool,
    whole_later: bool,
    order: str,
) -> None:
    """``rows=`` of a block or as a block of its own: what is loaded instead has the same values."""
    values = save(tmp_path / "x.npy", np.arange(40).reshape(10, 4))
    first = [client.get(tmp_path / "x.npy", order=order)] if whole_first else []
    shared = [client.get(tmp_path / "x.npy", rows=rows, order=order)[1:, ::2]]
    first.clear()
    sent = late(client, shared)
    later = [client.get(tmp_path / "x.npy", order=order)] if whole_later else []
    got = pickle.loads(sent)
    np.testing.assert_array_equal(got, values[rows][1:, ::2])
    assert not got.flags.writeable
    del got, later


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
    with pytest.raises(arrayd.SourceChanged, match=r"x\.npy changed while a reference"):
        pickle.loads(sent)


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
    with pytest.raises(arrayd.SourceNotFound, match="x.npy"):
        pickle.loads(sent)


def test_a_published_block_is_gone(client: arrayd.Client) -> None:
    """What was published cannot be loaded again: NoSuchBlock, which says what to do."""
    sent = message(client.put(np.arange(10)))
    pickle.loads(sent)
    leaves_nothing_behind(client)
    with pytest.raises(arrayd.NoSuchBlock, match="published and sent by reference, is gone"):
        pickle.loads(sent)


# ---- through multiprocessing -----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_pool(client: arrayd.Client, tmp_path: Path, method: str) -> None:
    """A Pool's workers map the same block, as holders of their own, and send views back."""
    values = save(tmp_path / "x.npy", np.arange(1000.0))
    x = client.get(tmp_path / "x.npy")
    with mp.get_context(method).Pool(1, keep, (x,)) as pool:
        seen = pool.map(look, [x, x[10:], x * 2])
        back = pool.apply(upper_half, (x[::2],))
        (worker,) = pool._pool  # type: ignore[attr-defined]  # its pid is nowhere else
        status = only_block(client)
        assert pids(status) == sorted([os.getpid(), worker.pid])
        assert status.lends == 0
        pool.close()
        pool.join()
    assert seen == [
        ("SharedArray", x.block.name, values.sum(), False),
        ("SharedArray", x.block.name, values[10:].sum(), False),
        ("ndarray", "", 2 * values.sum(), True),
    ]
    assert back.block == x.block
    assert same(back, values[::2][250:])
    wait_until(lambda: pids(only_block(client)) == [os.getpid()], "the workers' holds ended")
    del x, back


@pytest.mark.parametrize("method", METHODS)
def test_an_executor(client: arrayd.Client, method: str) -> None:
    """The same through concurrent.futures."""
    x = client.put(np.arange(1000))
    with ProcessPoolExecutor(1, mp.get_context(method)) as executor:
        seen = executor.submit(look, x[1:]).result()
        back = executor.submit(upper_half, x).result()
    assert seen == ("SharedArray", x.block.name, 499500.0, False)
    assert back.block == x.block
    assert back.tolist() == list(range(500, 1000))
    del x, back
    leaves_nothing_behind(client)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_queue_and_pipe(client: arrayd.Client, method: str) -> None:
    """Through a Queue there and a Pipe back, in containers too, and dropped in between."""
    context = mp.get_context(method)
    inbox: Any = context.Queue()
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(inbox, sending))
    process.start()
    for number in range(3):
        inbox.put({"number": number, "data": [client.put(np.full(100, number))]})
        got = receiving.recv()
        assert got["data"][0].tolist() == [got["number"]] * 100 == [number] * 100
        assert isinstance(got["data"][0], arrayd.SharedArray)
    inbox.put(None)
    process.join()
    assert process.exitcode == 0
    process.close()
    inbox.close()
    inbox.join_thread()
    receiving.close()
    sending.close()
    del got
    leaves_nothing_behind(client)


def test_what_a_process_leaves_in_a_queue(client: arrayd.Client) -> None:
    """A child publishes, puts and ends at once; the parent reads when the child is gone."""
    context = mp.get_context("spawn")
    queue: Any = context.Queue()
    process = context.Process(target=give, args=(queue, client.endpoint))
    process.start()
    process.join()
    process.close()
    wait_until(lambda: only_block(client).state == "lent", "only the message has it")
    got = queue.get()
    assert got.tolist() == list(range(1000))
    queue.close()
    queue.join_thread()
    del got
    leaves_nothing_behind(client)


# ---- filling one array -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_fill_one_array(client: arrayd.Client, method: str) -> None:
    """Several processes write parts of one unsealed block by reference; then it is sealed."""
    with client.create(1000, "i8") as out:
        with mp.get_context(method).Pool(2) as pool:
            parts = [(out, start, start + 100) for start in range(0, 1000, 100)]
            names = pool.starmap(fill, parts, chunksize=1)
            del parts
        assert only_block(client).state == "writing"
    assert set(names) == {out.block.name}
    assert out.tolist() == list(range(1000))
    assert only_block(client).state == "held"
    got = pickle.loads(message(out[10:]))
    assert isinstance(got, arrayd.SharedArray), "sealed, it travels by reference as well"
    assert got.tolist() == list(range(10, 1000))
    assert not got.flags.writeable
    del out, got
    leaves_nothing_behind(client)


def test_a_worker_keeps_it(client: arrayd.Client) -> None:
    """Who can still write to a block bars its seal: NotSealed, and the block is given up."""
    with mp.get_context("spawn").Pool(1) as pool:
        with pytest.raises(arrayd.NotSealed), client.create(10) as out:
            pool.apply(keep, (out,))
        pool.close()
        pool.join()
    del out
    leaves_nothing_behind(client)


def test_it_was_sealed_on_the_way(client: arrayd.Client) -> None:
    """A reference to an unsealed block that arrives after the seal is read-only."""
    with client.create(10) as out:
        out[:] = 7
        sent = message(out)
    got = pickle.loads(sent)
    assert got.tolist() == [7] * 10
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 1
    del got, out


def test_read_only_views_of_an_unsealed_block(client: arrayd.Client) -> None:
    """Who was given a read-only view may look while others write, and bars no seal."""
    with client.create(10) as out:
        view = out[2:]
        view.flags.writeable = False
        got = pickle.loads(message(view))
        out[:] = 7
        assert got.tolist() == [7] * 8
        assert not got.flags.writeable
    del got, view, out


def test_views_from_before_the_seal(client: arrayd.Client) -> None:
    """A view that can be written to after the seal shows a private page: it goes by value."""
    with client.create(10) as out:
        view = out[:5]
        out[:] = 7
    view[0] = 1
    got, sealed = pickle.loads(message(view)), pickle.loads(message(out[5:]))
    assert (type(got), got.tolist()) == (np.ndarray, [1, 7, 7, 7, 7])
    assert (type(sealed), sealed.tolist()) == (arrayd.SharedArray, [7] * 5)
    del view, out, sealed


def test_a_block_that_was_given_up(client: arrayd.Client) -> None:
    """An unsealed array whose block is gone is not sent: a copy would be written in vain."""
    with pytest.raises(RuntimeError), client.create(10) as out:
        raise RuntimeError
    with pytest.raises(arrayd.NoSuchBlock):
        message(out)
    del out


# ---- joblib ----------------------------------------------------------------------------------

PICKLED = """
import sys, numpy as np, {first}
{then}
from {loky}.backend import reduction
sent = bytes(reduction.dumps(x))
assert len(sent) < 1024, len(sent)
got = reduction.loads(sent)
assert isinstance(got, arrayd.SharedArray) and got.sum() == x.sum()
assert type(reduction.__loader__) is type(np.__loader__) is type(reduction.__spec__.loader)
"""

ORDERS = {
    "joblib first": ("joblib, arrayd", "x = arrayd.put(np.arange(1_000_000))"),
    "arrayd first": ("arrayd, joblib", "x = arrayd.put(np.arange(1_000_000))"),
    "an array first": ("arrayd", "x = arrayd.put(np.arange(1_000_000))\nimport joblib"),
}


@pytest.mark.parametrize("order", ORDERS)
def test_joblib_whenever_it_is_imported(daemon: Daemon, order: str) -> None:
    """Loky's pickler sends references, whichever of joblib, arrayd, the array came first."""
    pytest.importorskip("joblib", reason="joblib is not installed: pip install '.[test]'")
    first, then = ORDERS[order]
    run(PICKLED.format(first=first, then=then, loky="joblib.externals.loky"), daemon)


def test_loky_itself(daemon: Daemon, tmp_path: Path) -> None:
    """The same for the package loky, which joblib carries a copy of."""
    joblib = pytest.importorskip("joblib", reason="joblib is not installed: pip install '.[test]'")
    (tmp_path / "loky").symlink_to(Path(joblib.__file__).parent / "externals" / "loky")
    first, then = ORDERS["an array first"]
    then = then.replace("import joblib", f"sys.path.insert(0, {str(tmp_path)!r})")
    run(PICKLED.format(first=first, then=then, loky="loky"), daemon)


PARALLEL = """
import os, joblib, numpy as np, arrayd

def look(shared):
    return type(shared).__name__, getattr(shared, "block", None) and shared.block.name, shared[5:]

x = arrayd.put(np.arange(1_000_000))
with joblib.Parallel(n_jobs=2) as parallel:
    seen = parallel(joblib.delayed(look)(sent) for sent in (x, x[1:], x[::-1], x + 1))
    assert len(arrayd.status().blocks) == 1
assert [(kind, name) for kind, name, _ in seen] == 3 * [("SharedArray", x.block.name)] + [
    ("memmap", None)
], seen
for (_, _, back), sent in zip(seen, (x, x[1:], x[::-1], x + 1)):
    np.testing.assert_array_equal(back, sent[5:])
assert [type(back) for _, _, back in seen[:3]] == 3 * [arrayd.SharedArray]
"""


def test_parallel(client: arrayd.Client, daemon: Daemon) -> None:
    """joblib.Parallel takes references there and back; its own memmaps serve the others."""
    pytest.importorskip("joblib", reason="joblib is not installed: pip install '.[test]'")
    run(PARALLEL, daemon)
    leaves_nothing_behind(client)
