"""Clocks that jump: nothing is decided by the time of day, and nothing outlives a boot's clock."""

from __future__ import annotations

import ast
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd_server.segments import block_metadata
from tests.faults.forgery import HONEST
from tests.faults.grounds import NEEDS_ROOT
from tests.support.daemons import Daemon
from tests.support.processes import Stage, block_of, only_block, pids, save, wait_until

ROOT = Path(__file__).resolve().parents[2]

WALL = {
    *("time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.strftime"),
    *("time.ctime", "time.CLOCK_REALTIME", "datetime.datetime", "datetime.date", "os.utime"),
}
"""What tells, or depends on, the time of day."""

ALLOWED = {
    "client/arrayd/datasets/cache.py": {
        "os.utime": "notes when a kept file was used: removed too early, it is made again"
    },
    "client/arrayd/datasets/kept.py": {
        "os.utime": "the same",
        "time.time": "finds what was not used for a month: removed too early, it is made again",
    },
    "server/arrayd_server/streams/pack.py": {"os.utime": "the same, of decoded rows"},
    "server/arrayd_server/loaders/file_identity.py": {
        "time.time_ns": "waits until a file's time stamp is a tick old, and 20 ms at most"
    },
    "server/arrayd_server/metrics/observation.py": {
        "time.time": "is shown beside figures: when the daemon began, when a sample was taken"
    },
}
"""Where the time of day may be asked for, and why it decides nothing."""


def uses(path: Path) -> Iterator[str]:
    """Yield what a module uses of `WALL`, by whatever name it was imported."""
    tree = ast.parse(path.read_text())
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(alias.asname or alias.name): alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found = {(a.asname or a.name): f"{node.module}.{a.name}" for a in node.names}
            names |= found
            yield from WALL.intersection(found.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            dotted = f"{names.get(node.value.id, '')}.{node.attr}"
            if dotted in WALL:
                yield dotted


def test_nothing_asks_for_the_time_of_day() -> None:
    """No module of the product does, but those on the list, which is no longer than needed."""
    found = {
        str(path.relative_to(ROOT)): set(uses(path))
        for folder in ("client", "server")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {path: names for path, names in found.items() if names} == {
        path: set(reasons) for path, reasons in ALLOWED.items()
    }


def test_the_search_can_fail(tmp_path: Path) -> None:
    """Every way of asking is seen: plain, from, aliased, in a function."""
    module = tmp_path / "m.py"
    module.write_text(
        "import time as t\nfrom datetime import datetime as d\nimport time\n"
        "def f():\n    from time import time_ns\n    return t.time(), time.localtime(), time_ns()\n"
    )
    assert sorted(uses(module)) == [
        *("datetime.datetime", "time.localtime", "time.time", "time.time_ns"),
    ]


def test_no_time_is_written_down() -> None:
    """What a segment says of itself has no time in it: the next run may have another clock."""
    assert set(block_metadata.metadata(HONEST)) == {
        *("spec", "origin", "aliases", "name", "published", "keep", "lost"),
    }


def _can_offset() -> bool:
    command = ["unshare", "--time", "--monotonic", "1000", "true"]
    return subprocess.run(command, capture_output=True).returncode == 0


@NEEDS_ROOT
@pytest.mark.skipif(not _can_offset(), reason="no time namespace with an offset is to be had")
@pytest.mark.parametrize("direction", ["ahead", "behind"])
def test_a_restart_under_another_clock(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, tmp_path: Path, direction: str
) -> None:
    """A daemon whose monotonic clock is months ahead, or behind, adopts, pins and waits as ever."""
    # Not behind its start: a clock below zero is not to be had, and this machine may be young.
    seconds = 10_000_000 if direction == "ahead" else -int(time.monotonic() // 2)
    save(tmp_path / "x.npy", np.arange(1000.0))
    mine = client.get(tmp_path / "x.npy")
    client.put(np.arange(3), name="pinned", keep=True)
    reference = client._session.lend(block_of(mine).name)
    offset = ("--monotonic", str(seconds), "--boottime", str(seconds))
    daemon.stop(signal.SIGUSR1)
    daemon.wrapper = ("unshare", "--time", *offset)
    daemon.start()
    one = puppets(daemon)
    assert one(f"a = arrayd.get({str(tmp_path / 'x.npy')!r}); a.block.name") == block_of(mine).name
    assert one("arrayd.get('name:pinned').tolist()") == [0, 1, 2]
    assert client.status().counters["loads"] == 0
    assert len(reference) > 0
    assert all(0 <= block.age < 60 for block in client.status().blocks)
    with pytest.raises(arrayd.LoadTimeout):
        client.get("name:never", timeout=0.1)
    client.evict("name:pinned")
    del mine
    wait_until(lambda: pids(only_block(client)) == [one.pid], "its own hold is left")
    one.kill()
    wait_until(lambda: only_block(client).state == "idle", "the death is noticed")
