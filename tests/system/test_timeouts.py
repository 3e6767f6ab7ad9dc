"""``timeout=``: a call ends in time with what there is, and what nobody waits for is stopped."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd.errors import LoadTimeout, SourceNotFound
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import (
    frozen,
    leaves_nothing_behind,
    raised,
    save,
    wait_until,
    workers,
)

pytestmark = pytest.mark.one_daemon


@pytest.fixture
def file(client: arrayd.Client, tmp_path: Path) -> Path:
    """Give a file, and a daemon that has a loader process already, which has nothing to do."""
    save(tmp_path / "x.npy", np.arange(9))
    client.info(tmp_path / "x.npy")
    return tmp_path / "x.npy"


def test_info_ends_in_time(client: arrayd.Client, daemon: Daemon, file: Path) -> None:
    """A look at a file that hangs is LoadTimeout; its loader is killed, another one answers."""
    with frozen(daemon) as stopped:
        error, seconds = raised(lambda: client.info(file, timeout=0.2))
        assert isinstance(error, LoadTimeout)
        assert "x.npy" in str(error)
        assert "timeout=0.2" in str(error)
        assert 0.2 <= seconds < 2
        assert client.status().jobs == ()
        wait_until(lambda: not set(stopped) & set(workers(daemon)), "the loader is killed")
    assert client.info(file, timeout=PATIENCE).shape == (9,)


def test_a_look_at_a_file_is_in_the_status(
    client: arrayd.Client, daemon: Daemon, file: Path
) -> None:
    """Who waits for what a file holds is told like who waits for a load."""
    found: list[arrayd.Info] = []
    with frozen(daemon), arrayd.connect(daemon.endpoint) as other:
        asking = threading.Thread(target=lambda: found.append(other.info(file)))
        asking.start()
        wait_until(lambda: client.status().jobs, "the question is known")
        (job,) = client.status().jobs
        assert (job.stage, job.source) == ("info", str(file))
        assert [waiter.pid for waiter in job.waiters] == [os.getpid()]
        assert "info" in str(client.status())
        for pid in workers(daemon):
            os.kill(pid, 18)
        asking.join(PATIENCE)
    assert [info.shape for info in found] == [(9,)]


def test_what_is_there_in_time_is_returned(
    client: arrayd.Client, daemon: Daemon, file: Path, tmp_path: Path
) -> None:
    """With return_errors= a timeout costs what is late, not what is there."""
    there = client.put(np.arange(3), "there")
    sources: list[str | Path] = [
        "name:there",
        file,
        "name:missing",
        tmp_path / "none.npy",
        "name:there",
    ]
    with frozen(daemon):
        began = time.monotonic()
        found = client.get_many(sources, return_errors=True, timeout=0.2)
        assert 0.2 <= time.monotonic() - began < 2
        kinds = [arrayd.SharedArray, LoadTimeout, LoadTimeout, SourceNotFound, arrayd.SharedArray]
        assert [type(one) for one in found] == kinds
        assert found[0].tolist() == found[4].tolist() == [0, 1, 2]
        assert str(file) in str(found[1])
        with pytest.raises(LoadTimeout):
            client.get_many(sources[:2], timeout=0.2)
    assert client.get(file).sum() == 36
    del there, found
    client._session.send_releases()
    client.evict(file)
    leaves_nothing_behind(client)


def test_a_timeout_of_nothing_returns_what_is_there(client: arrayd.Client, daemon: Daemon) -> None:
    """``timeout=0`` is a look at what there is, of more sources than one request has."""
    there = client.put(np.arange(3), "there")
    names = [f"name:{i}" for i in range(100)] + ["name:there"]
    for timeout in (0, 0.05):
        found = client.get_many(names, return_errors=True, timeout=timeout)
        assert [i for i, one in enumerate(found) if isinstance(one, np.ndarray)] == [100]
    del there, found
