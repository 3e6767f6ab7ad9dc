"""A memory cgroup that is tight: told before the OOM killer comes, and survived if it does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd.common import failpoints
from tests.faults.cgroups import Cgroup, cgroup
from tests.faults.grounds import MIB, alive, halted, points
from tests.support.daemons import Daemon
from tests.support.processes import Stage, leaves_nothing_behind, save, workers

__all__ = ["cgroup", "points"]


@pytest.fixture
def tight(cgroup: Cgroup, points: Path, start_daemon: Callable[..., Daemon]) -> Iterator[Daemon]:
    """Give a daemon in a group of 160 MiB, whose own budget is no limit."""
    daemon = start_daemon("--budget", "4G", "--workers", "2", wrapper=cgroup.wrapper)
    cgroup.limit(160 * MIB)
    yield daemon


def test_a_load_larger_than_the_group(
    tight: Daemon, cgroup: Cgroup, puppets: Stage, tmp_path: Path
) -> None:
    """It is `NoRoom` before a page is taken: nobody is killed, and smaller loads go on."""
    save(tmp_path / "big.npy", np.ones((200, MIB), "u1"))
    save(tmp_path / "small.npy", np.ones((20, MIB), "u1"))
    with arrayd.connect(tight.endpoint) as client:
        with pytest.raises(arrayd.NoRoom) as caught:
            client.get(tmp_path / "big.npy")
        assert "needs 200.0 MiB" in str(caught.value)
        assert "memory limit of the daemon's cgroup" in str(caught.value)
        with pytest.raises(arrayd.NoRoom, match="cgroup"):
            client.put(np.ones((200, MIB), "u1"))
        assert client.get(tmp_path / "small.npy").sum() == 20 * MIB
        assert cgroup.kills == 0
        assert alive(tight)


def test_idle_blocks_go_before_anybody_is_refused(
    tight: Daemon, cgroup: Cgroup, tmp_path: Path
) -> None:
    """The group is nearly full of what nobody holds: it is evicted, and nobody is killed."""
    for number in range(6):
        save(tmp_path / f"{number}.npy", np.full((30, MIB), number, "u1"))
    with arrayd.connect(tight.endpoint) as client:
        for number in range(6):
            assert client.get(tmp_path / f"{number}.npy").max() == number
        assert client.status().counters["evictions"] > 0
    assert cgroup.kills == 0


def test_a_loader_killed_for_memory(
    tight: Daemon, cgroup: Cgroup, points: Path, tmp_path: Path
) -> None:
    """Memory goes after the load was admitted: the kernel kills the loader, not the daemon."""
    save(tmp_path / "x.npy", np.ones((60, MIB), "u1"))
    failpoints.arm(points, "worker.reserving", "stop")
    with arrayd.connect(tight.endpoint) as client:
        client.prefetch(tmp_path / "x.npy")
        with halted(points, "worker.reserving") as loader:
            assert loader in workers(tight)
            cgroup.limit(cgroup.used + 8 * MIB)
        with pytest.raises(arrayd.LoaderCrashed) as caught:
            client.get(tmp_path / "x.npy")
        assert "SIGKILL" in str(caught.value)
        assert "memory ran out" in str(caught.value)
        assert cgroup.kills >= 1
        assert alive(tight)
        leaves_nothing_behind(client)
        cgroup.limit(512 * MIB)
        assert client.get(tmp_path / "x.npy").sum() == 60 * MIB
    assert os.path.exists(f"/proc/{tight.pid}")
