"""The end of `arrayd.create` where others can still write: by accident, or in earnest."""

from __future__ import annotations

import multiprocessing as mp
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest

import arrayd
from tests.support.daemons import Daemon
from tests.support.processes import leaves_nothing_behind, only_block, wait_until
from tests.system.test_references import name_of, session

# From Python 3.12 on; that a fork among threads works is what is tested here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
    pytest.mark.one_daemon,
]

FORK: Any = mp.get_context("fork")

_inherited: list[Any] = []


@pytest.fixture
def client(daemon: Daemon) -> Iterator[arrayd.Client]:
    """Give the very session in which this process redeems references."""
    yield from session(daemon)


def square(out: Any, i: int) -> int:
    """Write one element; return the worker."""
    out[i] = i * i
    return os.getpid()


def square_inherited(i: int) -> int:
    """Write one element of what was there at the fork."""
    return square(_inherited[0], i)


def wait_for(receiving: Any) -> None:
    """Wait for a word, then write what was there at the fork."""
    receiving.recv()
    square_inherited(0)


def test_an_executor_around_create(client: arrayd.Client) -> None:
    """Workers that were forked meanwhile, busy or idle, bar no seal; the values are right."""
    with ProcessPoolExecutor(3, FORK) as executor:
        with client.create(100, "i8", "squares") as out:
            first, view = name_of(out), out[50:]
            assert os.getpid() not in set(executor.map(square, [out] * 100, range(100)))
            view[-1] += 1
        assert out.tolist() == [*(i * i for i in range(99)), 99 * 99 + 1]
        np.testing.assert_array_equal(view, out[50:])
        last = name_of(out)
        assert last == name_of(view) != first
        assert not out.flags.writeable
        with pytest.raises(arrayd.NameTaken), client.create(3, name="squares"):
            raise AssertionError("not reached")
        assert executor.submit(square_of, out, 7).result() == 49
        held = [block.segment for block in client.status().blocks if block.state == "held"]
        assert held == [last]
        np.testing.assert_array_equal(client.get("name:squares"), out)
    wait_until(lambda: [b.segment for b in client.status().blocks] == [last], "the first is gone")
    del out, view
    leaves_nothing_behind(client)


def square_of(shared: Any, i: int) -> int:
    """Read one element."""
    return int(shared[i])


def test_a_pool_whose_workers_are_replaced(client: arrayd.Client) -> None:
    """Those that were forked while the array was written are no hindrance either."""
    with FORK.Pool(2, maxtasksperchild=1) as pool:
        with client.create((2, 20), "i8", order="F") as out:
            pool.starmap(square, [(out[1], i) for i in range(20)], chunksize=1)
            out[0] = -1
        assert out[1].tolist() == [i * i for i in range(20)]
        assert out[0].tolist() == [-1] * 20
        pool.close()
        pool.join()
    del out
    leaves_nothing_behind(client)


def test_workers_that_write_what_they_inherited(client: arrayd.Client) -> None:
    """They may go on: NotSealed, which names them and the remedy, and the remedy works."""
    with ProcessPoolExecutor(1, FORK) as executor:
        with pytest.raises(arrayd.NotSealed) as caught, client.create(10, "i8", "n") as out:
            _inherited.append(out)
            (worker,) = set(executor.map(square_inherited, range(10)))
        _inherited.clear()
        assert caught.value.details["pids"] == [worker]
        assert f"mapped by {worker} (" in str(caught.value)
        assert "arrayd.put(array, name=" in str(caught.value)
        saved = client.put(out, name="n")
        assert saved.tolist() == [i * i for i in range(10)]
    del out, saved, caught  # whose traceback has the array
    leaves_nothing_behind(client)


def test_a_process_that_has_yet_to_write(client: arrayd.Client) -> None:
    """A child of one's own that has not begun is no pool's worker: its work would be lost."""
    receiving, sending = FORK.Pipe(duplex=False)
    with pytest.raises(arrayd.NotSealed, match="forked meanwhile"), client.create(10) as out:
        _inherited.append(out)
        process = FORK.Process(target=wait_for, args=(receiving,))
        process.start()
    _inherited.clear()
    sending.send("go")
    process.join()
    assert process.exitcode == 0
    process.close()
    receiving.close()
    sending.close()
    del out
    leaves_nothing_behind(client)


def test_no_room_for_the_copy(start_daemon: Callable[..., Daemon]) -> None:
    """A copy needs as much again: NotSealed says so, and the array keeps its values."""
    for client in session(start_daemon("--budget", "1M")):
        with ProcessPoolExecutor(1, FORK) as executor:
            with (
                pytest.raises(arrayd.NotSealed, match="no room for a copy"),
                client.create(80_000, "i8") as out,
            ):
                executor.submit(square, out, 9).result()
            assert out[9] == 81
        del out
        leaves_nothing_behind(client)


def test_a_worker_that_still_writes(client: arrayd.Client) -> None:
    """Inherited, and received as well: as long as it has the array the block is not sealed."""
    with ProcessPoolExecutor(1, FORK) as executor:
        with pytest.raises(arrayd.NotSealed), client.create(10) as out:
            late = executor.submit(write_late, out, only_block(client).segment)
            wait_until(late.running, "the worker has it")
            wait_until(lambda: len(only_block(client).holders) > 1, "the worker has it")
        assert late.result() == "given up"
    del out
    leaves_nothing_behind(client)


def write_late(out: Any, segment: str) -> str:
    """Keep the array until its block is gone; it will have been unlinked by then."""
    while os.path.exists(f"/dev/shm/{segment}"):
        time.sleep(0.01)
    out[0] = 1
    return "given up"
