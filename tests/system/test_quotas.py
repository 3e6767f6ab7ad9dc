"""Quotas of users and groups: what real processes of other users are told, through reloads."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.errors import NoRoom
from arrayd.gather.hdf5 import collect
from tests.support.daemons import Daemon
from tests.support.people import ANN, BOB, TEAM, People, npy
from tests.support.processes import wait_until
from tests.support.schemas import check

MIB = 1 << 20

REFUSALS = {
    f'"{BOB}" = {{bytes = "7M"}}': (
        "arrayd.put(np.zeros(4 << 17))",
        rf"needs 4\.0 MiB; user {BOB} has 4\.0 MiB in memory and may have 7\.0 MiB: yours are "
        rf'put by \d+ 4\.0 MiB\. Release arrays, .* raise bytes of "{BOB}" in its option quotas',
    ),
    f'"@{TEAM}" = {{bytes = "10M"}}': (
        "arrayd.put(np.zeros(4 << 17))",
        rf"needs 4\.0 MiB; group {TEAM} together has 8\.0 MiB in memory and may have 10\.0 MiB: "
        r"yours are put by \d+ 4\.0 MiB",
    ),
    '"*" = {blocks = 1}': (
        "arrayd.put([1])",
        rf"user {BOB} has 1 block in memory and may have 1: .* raise blocks of \"\*\"",
    ),
    '"*" = {pinned = "3M"}': (
        "arrayd.get(path, pin=60)",
        rf"big0\.npy needs 4\.0 MiB; user {BOB} has 0 B pinned or kept and may have 3\.0 MiB\. Ask",
    ),
    f'"*" = {{pinned = "3M"}}\n"{ANN}" = {{pinned = 0}}': (
        "arrayd.put(np.zeros(4 << 17), 'kept', keep=True)",
        rf"name:kept needs 4\.0 MiB; user {BOB} has 0 B pinned or kept",
    ),
    '"*" = {sessions = 1}': (
        "other = arrayd.connect(); other.put([1])",
        rf"user {BOB} has 1 session and may have 1: yours are \d+ \S+\. Close clients",
    ),
    '"*" = {loads = 1}': (
        "arrayd.prefetch(*paths)",
        rf"big.\.npy is one more; user {BOB} has 1 load in flight and may have 1: yours are \S+",
    ),
}
"""Quotas, what Bob does then, and what he is told; he and Ann, of one group, hold 4 MiB each."""


class Shared:
    """A daemon, and its file of options."""

    def __init__(self, people: People, file: Path) -> None:
        self._file = file
        file.write_text("[quotas]\n")
        self.daemon: Daemon = people.daemon("--config", str(file))

    def reload(self, quotas: str) -> None:
        """Have the daemon go by other quotas."""
        self._file.write_text(f"[quotas]\n{quotas}\n")
        self.daemon.forget_log()
        os.kill(self.daemon.pid, signal.SIGHUP)
        wait_until(lambda: re.search("reload (done|refused)", self.daemon.log), "it has read them")
        assert "reload done" in self.daemon.log


@pytest.fixture
def shared(people: People, tmp_path: Path) -> Shared:
    """Give a daemon."""
    return Shared(people, tmp_path / "arrayd.toml")


def refused(act: Callable[[], object], words: str) -> None:
    """Assert that something is refused with these words."""
    with pytest.raises(NoRoom) as caught:
        act()
    assert re.search(words, str(caught.value)), str(caught.value)


def test_each_limit_through_reloads(people: People, shared: Shared) -> None:
    """It holds for what is new from the reload on; what Bob has stays, whatever it is."""
    paths = [people.file(f"big{n}.npy", npy(np.zeros(1 << 19)), BOB, 0o644) for n in range(3)]
    ann, bob = people(shared.daemon, ANN, [TEAM]), people(shared.daemon, BOB, [TEAM])
    ann("hers = arrayd.put(np.zeros(1 << 19))")
    bob(f"paths = {paths}; path = paths[0]; his = arrayd.put(np.arange(1 << 19))")
    for quotas, (does, words) in REFUSALS.items():
        shared.reload(quotas)
        refused(lambda does=does: bob(does), words)  # type: ignore[misc]
        assert bob("int(his[7])") == 7
        shared.reload("")
        assert bob("int(arrayd.put([3])[0])") == 3
        held = "sum(b.state != 'idle' for b in arrayd.status().blocks)"
        wait_until(lambda: bob(held) == 1, "the others have gone")  # noqa: B023  it is called here
    large = "sum(b.size > 1 << 20 for b in arrayd.status().blocks)"
    wait_until(lambda: bob(large) == 2, "his, and what the prefetch had begun to load")
    shared.reload(f'"{BOB}" = {{bytes = "1M"}}')  # less than there is
    assert bob("int(his[8])") == 8
    refused(lambda: bob("arrayd.put([1])"), "has 8.0 MiB in memory and may have 1.0 MiB")


def test_welcomed_after_a_refusal(people: People, shared: Shared) -> None:
    """A process that found no session, and gets one later, tells what it drops."""
    shared.reload('"*" = {sessions = 1}')
    first, second = (people(shared.daemon, BOB) for _ in range(2))
    first("kept = arrayd.put([1])")
    second("from arrayd.session import connection; connection._HELLO_EVERY = 0.01")
    refused(lambda: second("arrayd.put([2])"), "has 1 session and may have 1")
    late = "arrayd.api.default_client()._session._flusher._may_be_late"
    wait_until(lambda: not second(late), "its thread is refused as well")
    shared.reload("")
    second("a = arrayd.put([3])")
    assert first("len(arrayd.status().blocks)") == 2
    second("del a")
    wait_until(lambda: first("len(arrayd.status().blocks)") == 1, "it is told")


def test_what_a_status_says(people: People, shared: Shared) -> None:
    """Each sum against its limits; Bob sees his own, and that of his group."""
    shared.reload(f'"{ANN}" = {{bytes = "20M", blocks = 9}}\n"@{TEAM}" = {{soft_bytes = "1M"}}')
    ann, bob = people(shared.daemon, ANN, [TEAM]), people(shared.daemon, BOB, [TEAM])
    ann("hers = arrayd.put(np.zeros(1 << 19), 'hers', share='all', keep=True)")
    bob(f"his = arrayd.get('name:~{ANN}/hers')")
    his = bob(
        "[(q.entry, q.uid, q.gid, q.bytes // 2**20, q.limits) for q in arrayd.status().quotas]"
    )
    lab = [f"@{TEAM}", None, TEAM, 4, {"soft_bytes": MIB}]
    assert his == [["*", BOB, None, 4, his[0][4]], lab]
    with arrayd.connect(shared.daemon.endpoint) as client:
        status = client.status()
    told = check("status", json.dumps(status.to_json()))["quotas"]
    assert [(one["entry"], one["uid"], one["blocks"], one["sessions"]) for one in told] == [
        (str(ANN), ANN, 1, 1),
        ("*", BOB, 1, 1),
        (f"@{TEAM}", None, 1, 2),
    ]
    assert told[0]["pinned"] == told[0]["bytes"] > told[1]["pinned"] == 0
    assert f"quotas  {ANN} 4.0 of 20.0 MiB, 1 of 9 blocks" in str(status)


def test_more_files_than_loads(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A call for many files goes on with those that were refused when others have been loaded."""
    daemon = start_daemon("--workers", "2", "--quotas", f"{os.geteuid()}: loads=2")
    folders = [tmp_path / name for name in ("many", "collected")]
    for folder in folders:
        folder.mkdir()
        for number in range(40):
            (folder / f"{number}.txt").write_text(f"{number} 1\n")
    with arrayd.connect(daemon.endpoint) as client:
        arrays = client.get_many([folders[0] / f"{number}.txt" for number in range(40)])
        assert [int(array.ravel()[0]) for array in arrays] == list(range(40))
        del arrays
        collect(client, sorted(folders[1].iterdir()), tmp_path / "all.h5")
    with h5py.File(tmp_path / "all.h5") as file:
        assert sorted(int(file[name][()].ravel()[0]) for name in file) == list(range(40))
