"""References through Pool, Executor, Queue, Pipe and joblib; several writers of one array."""

from __future__ import annotations

import multiprocessing as mp
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayd
from arrayd import api
from tests.support.daemons import Daemon
from tests.support.processes import leaves_nothing_behind, only_block, pids, save, wait_until
from tests.system.test_references import message, name_of, run, same, session

METHODS = ["fork", "spawn", "forkserver"]

# From Python 3.12 on; that a fork among threads works is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

_kept: list[Any] = []


@pytest.fixture
def client(daemon: Daemon) -> Iterator[arrayd.Client]:
    """Give the very session in which this process redeems references."""
    yield from session(daemon)


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Give multiprocessing's context of each way to start a process."""
    yield mp.get_context(request.param)
    if request.param == "forkserver":
        forkserver._forkserver._stop()  # type: ignore[attr-defined]  # it would stay for good


# ---- what the other processes do -------------------------------------------------------------


def look(shared: Any) -> tuple[str, str, float, bool]:
    """Tell what has arrived."""
    block = name_of(shared) if isinstance(shared, arrayd.SharedArray) else ""
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
    return name_of(shared)


def answer(inbox: Any, outbox: Any) -> None:
    """Send back what is received, until that is None."""
    for shared in iter(inbox.get, None):
        outbox.send(shared)


def give(outbox: Any, endpoint: str) -> None:
    """Publish an array, send it, and end."""
    outbox.put(api.client_of(endpoint).put(np.arange(1000)))


# ---- through multiprocessing -----------------------------------------------------------------


def test_a_pool(client: arrayd.Client, tmp_path: Path, context: Any) -> None:
    """A Pool's workers map the same block, as holders of their own, and send views back."""
    values = save(tmp_path / "x.npy", np.arange(1000.0))
    x = client.get(tmp_path / "x.npy")
    with context.Pool(1, keep, (x,)) as pool:
        seen = pool.map(look, [x, x[10:], x * 2])
        back = pool.apply(upper_half, (x[::2],))
        (worker,) = pool._pool  # its pid is nowhere else
        status = only_block(client)
        assert pids(status) == sorted([os.getpid(), worker.pid])
        assert status.lends == 0
        pool.close()
        pool.join()
    assert seen == [
        ("SharedArray", name_of(x), values.sum(), False),
        ("SharedArray", name_of(x), values[10:].sum(), False),
        ("ndarray", "", 2 * values.sum(), True),
    ]
    assert back.block == x.block
    assert same(back, values[::2][250:])
    wait_until(lambda: pids(only_block(client)) == [os.getpid()], "the workers' holds ended")
    del x, back


def test_an_executor(client: arrayd.Client, context: Any) -> None:
    """The same through concurrent.futures."""
    x = client.put(np.arange(1000))
    with ProcessPoolExecutor(1, context) as executor:
        seen = executor.submit(look, x[1:]).result()
        back = executor.submit(upper_half, x).result()
    assert seen == ("SharedArray", name_of(x), 499500.0, False)
    assert back.block == x.block
    assert back.tolist() == list(range(500, 1000))
    del x, back
    leaves_nothing_behind(client)


def test_queue_and_pipe(client: arrayd.Client, context: Any) -> None:
    """Through a Queue there and a Pipe back, in containers too, and dropped in between."""
    inbox = context.Queue()
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
    assert set(names) == {name_of(out)}
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


def test_joblib_whenever_it_is_imported(daemon: Daemon) -> None:
    """Loky's pickler sends references, whichever of joblib, arrayd, the array came first."""
    pytest.importorskip("joblib", reason="joblib is not installed: pip install '.[test]'")
    for first, then in ORDERS.values():
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
