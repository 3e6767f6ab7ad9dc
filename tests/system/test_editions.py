"""A file that is rewritten: what nobody can ask for any more does not stay in memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import arrayd
from tests.support.daemons import Daemon
from tests.support.processes import only_block, save, wait_until

pytestmark = pytest.mark.one_daemon


def test_a_checkpoint_that_is_written_over_and_over(
    client: arrayd.Client, daemon: Daemon, tmp_path: Path
) -> None:
    """Right values each time, and one warm block in the end; a holder keeps its own."""
    path = tmp_path / "checkpoint.npy"
    held = None
    for i in range(6):
        save(path, np.full(1000, float(i)))
        now = client.get(path)
        assert now[0] == i
        held = now if i == 2 else held
        del now
    client._session.send_releases()
    assert held is not None
    wait_until(lambda: len(client.status().blocks) == 2, "the last one and the held one stay")
    assert (held == 2).all()
    del held
    client._session.send_releases()
    wait_until(lambda: len(client.status().blocks) == 1, "the held one goes with its holder")
    assert only_block(client).state == "idle"
    assert client.get(path)[0] == 5


def test_after_a_restart(client: arrayd.Client, daemon: Daemon, tmp_path: Path) -> None:
    """The next run of the daemon knows of which state of which file its blocks are."""
    path = tmp_path / "x.npy"
    save(path, np.zeros(9))
    client.release(client.get(path))
    daemon.stop(10)
    daemon.start()
    os.replace(save_as(tmp_path / "y.npy"), path)
    client.release(client.get(path))
    wait_until(lambda: len(client.status().blocks) == 1, "the old one goes")
    assert client.get(path)[0] == 1


def save_as(path: Path) -> Path:
    """Write other values; return the path."""
    save(path, np.ones(9))
    return path
