"""The memory of streams when a daemon, a consumer or a file in /dev/shm goes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import arrayd
from tests.support.daemons import Daemon
from tests.support.processes import Puppet, Stage, wait_until

N = 3000


@pytest.fixture
def consumer(
    tmp_path: Path, daemon: Daemon, puppets: Stage, monkeypatch: pytest.MonkeyPatch
) -> Puppet:
    """Give a process that has a first batch, and a resident share beside its ring."""
    monkeypatch.setenv("ARRAYD_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "x.npy", np.arange(N * 4, dtype="f8").reshape(N, 4))
    process = puppets(daemon)
    process(
        f"ds = arrayd.dataset('{tmp_path}/x.npy', budget='24K');"
        "s = ds.stream(16, seed=1); b = next(s)"
    )
    return process


RIGHT = "bool((b['x'][:, 0] == b.ids * 4.0).all())"


def test_a_ring_outlives_its_daemon_while_it_is_read(daemon: Daemon, consumer: Puppet) -> None:
    """The next run removes what nobody maps; the rest stays until its reader has let go of it."""
    before = daemon.segments
    assert len(before) == 2
    daemon.kill()
    daemon.start()
    wait_until(lambda: len(daemon.segments) == 1, "the resident share is gone")
    assert daemon.segments[0] in before
    assert consumer(RIGHT)
    consumer.kill()
    wait_until(lambda: daemon.segments == [], "the ring is gone")


def test_a_ring_whose_file_is_removed(daemon: Daemon, consumer: Puppet) -> None:
    """It is linked back, and the stream never notices."""
    for name in daemon.segments:
        os.unlink(f"/dev/shm/{name}")
    assert consumer(f"all([{RIGHT} for b in s])")
    wait_until(lambda: len(daemon.segments) in (0, 2), "they are there again, or of no use")


def test_a_killed_consumer_leaves_nothing(
    daemon: Daemon, client: arrayd.Client, consumer: Puppet
) -> None:
    """Its stream ends at once, and with it the reader and the daemon's own session."""
    (stream,) = client.status().streams
    assert [one.pid for one in stream.consumers] == [consumer.pid]
    assert len(client.status().sessions) == 3
    consumer.kill()
    wait_until(lambda: daemon.segments == [], "ring and share are gone")
    assert client.status().streams == ()
    wait_until(lambda: len(client.status().sessions) == 1, "only this session is left")
