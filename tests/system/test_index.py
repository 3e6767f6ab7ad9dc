"""A hit asks nobody: what is resident is attached by the index, and told of afterwards."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd.errors import InUse
from tests.support.daemons import Daemon
from tests.support.processes import Stage, block_of, pids, save, wait_until
from tests.support.shared_daemon import counters

pytestmark = pytest.mark.one_daemon


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Give a file of 1,000 values."""
    save(tmp_path / "x.npy", np.arange(1000.0))
    return str(tmp_path / "x.npy")


@pytest.fixture
def other(daemon: Daemon, tmp_path: Path) -> Iterator[arrayd.Client]:
    """Give a second session, which the daemon has welcomed."""
    save(tmp_path / "first.npy", np.zeros(1))
    with arrayd.Client(daemon.endpoint, start=False) as client:
        client.get(tmp_path / "first.npy")
        yield client


@contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    """Stop a daemon for a while: who asks it something waits."""
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


def holders(client: arrayd.Client, segment: str) -> int:
    """Return how many sessions hold a block."""
    return next(len(pids(b)) for b in client.status().blocks if b.segment == segment)


def test_a_resident_block_needs_no_daemon(
    daemon: Daemon, client: arrayd.Client, other: arrayd.Client, path: str
) -> None:
    """The daemon is stopped; the array comes all the same, and later it knows who has it."""
    mine = client.get(path)
    with stopped(daemon):
        theirs = other.get(path)
        np.testing.assert_array_equal(theirs, np.arange(1000.0))
        assert block_of(theirs) == block_of(mine)
        assert not theirs.flags.writeable
        part = other.get(path, rows=slice(10, 20))  # a window of the same block
        np.testing.assert_array_equal(part, np.arange(10.0, 20.0))
    segment = block_of(mine).name
    wait_until(lambda: holders(client, segment) == 2, "the second hold is told")
    del theirs, part
    wait_until(lambda: holders(client, segment) == 1, "and its end")


def test_rows_of_a_resident_file_are_a_window(
    daemon: Daemon, client: arrayd.Client, other: arrayd.Client, path: str
) -> None:
    """Nothing is loaded for them, and the daemon is not asked either."""
    whole = client.get(path)
    with stopped(daemon):
        part = other.get(path, rows=slice(None, None, 7))
        np.testing.assert_array_equal(part, np.arange(0.0, 1000.0, 7))
    assert block_of(part) == block_of(whole)


def test_own_status_knows_what_was_just_attached(
    client: arrayd.Client, other: arrayd.Client, path: str
) -> None:
    """A claim goes ahead of every request of its session."""
    mine = client.get(path)
    theirs = other.get(path)
    assert holders(other, block_of(mine).name) == 2
    assert counters(other)["hits"] == 1
    del theirs


def test_a_block_in_use_is_not_evicted_though_nobody_told(
    daemon: Daemon, client: arrayd.Client, other: arrayd.Client, path: str
) -> None:
    """The kernel's word keeps it, before the claim has come."""
    segment = block_of(client.get(path)).name
    theirs = other.get(path)
    with pytest.raises(InUse):
        client.evict(path)
    assert holders(other, segment) == 1
    np.testing.assert_array_equal(theirs, np.arange(1000.0))
    del theirs
    wait_until(lambda: holders(client, segment) == 0, "it is let go of")
    assert client.evict(path)["blocks"] == 1


def test_an_evicted_block_is_loaded_again(
    client: arrayd.Client, other: arrayd.Client, path: str
) -> None:
    """The index forgets it before it goes."""
    first = block_of(client.get(path)).name
    wait_until(lambda: holders(client, first) == 0, "it is let go of")
    client.evict(path)
    theirs = other.get(path)
    assert block_of(theirs).name != first
    np.testing.assert_array_equal(theirs, np.arange(1000.0))


def test_a_changed_file_is_not_served_from_the_index(
    client: arrayd.Client, other: arrayd.Client, path: str
) -> None:
    """The key has the file's stat in it."""
    old = client.get(path)
    save(Path(path), np.arange(5.0))
    np.testing.assert_array_equal(other.get(path), np.arange(5.0))
    assert old.shape == (1000,)


def test_a_segment_that_somebody_removed_is_asked_for(
    daemon: Daemon, client: arrayd.Client, other: arrayd.Client, path: str
) -> None:
    """A resource tracker unlinks the name: the daemon links it back, or loads again."""
    mine = client.get(path)
    os.unlink(f"/dev/shm/{block_of(mine).name}")
    np.testing.assert_array_equal(other.get(path), mine)


def test_a_reference_of_what_was_attached_by_the_index(
    daemon: Daemon, client: arrayd.Client, other: arrayd.Client, puppets: Stage, path: str
) -> None:
    """It is lent by a session that the daemon has just been told of, and outlives its sender."""
    keep = client.get(path)
    theirs = other.get(path)
    one = puppets(daemon)
    sent = bytes(ForkingPickler.dumps(theirs))
    del theirs, keep
    assert one(f"import pickle; a = pickle.loads({sent!r}); float(a.sum())") == 499_500
    one.end()


def test_without_the_index_clients_ask(
    daemon: Daemon, client: arrayd.Client, other: arrayd.Client, path: str
) -> None:
    """Somebody removes the file; within a second or so the daemon makes another."""
    mine = client.get(path)
    assert client._session.index is not None
    index = client._session.index.path
    os.unlink(index)
    np.testing.assert_array_equal(other.get(path), mine)
    wait_until(lambda: os.path.exists(index), "the index is there again")


def test_many_blocks_make_the_index_grow(
    daemon: Daemon, client: arrayd.Client, other: arrayd.Client, tmp_path: Path
) -> None:
    """Each of 300 is found, with the daemon stopped, after the file was made anew."""
    paths = [str(tmp_path / f"{i}.npy") for i in range(300)]
    for i, one in enumerate(paths):
        save(Path(one), np.full(3, i))
    keep = client.get_many(paths)
    with stopped(daemon):
        for i, one in enumerate(other.get_many(paths)):
            assert one[0] == i
    del keep
