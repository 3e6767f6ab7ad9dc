"""One daemon for all tests of a module that is marked ``one_daemon``; it must not show.

A daemon takes half a second of a CPU to start, and each of its loaders half as much. Where tests
only ask one for arrays, each can be given the same, as empty as a new one: no session, block, job,
stream or segment is left of the test before. What a test leaves fails that test, as it would with
a daemon of its own. A test that stops the daemon starts it again; one that looks at what the
daemon has counted asks `counters`. Arguments of the marker are more
options of the daemon, ``wrapper=`` what becomes it. A module is not marked if its tests leave what
only time or the daemon's end removes, such as a block that is lent.

`conftest.py` imports its fixtures.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import arrayd
from arrayd import api
from tests.support import leaks
from tests.support.daemons import PATIENCE, Daemon, running

FLAGS = ("--budget", "64M", "--workers", "2")

_counted: dict[str, int] = {}
"""What the daemon of the module had counted before the test."""


def counters(client: arrayd.Client) -> dict[str, int]:
    """Return what the daemon has counted in this test."""
    counted = client.status().counters
    return {name: number - _counted.get(name, 0) for name, number in counted.items()}


@pytest.fixture(scope="module")
def module_daemon(
    request: pytest.FixtureRequest, session_leaves_nothing: None
) -> Iterator[Daemon | None]:
    """Give the daemon of a module that is marked ``one_daemon``; None for others."""
    marker = request.node.get_closest_marker("one_daemon")
    if marker is None:
        yield None
        return
    before = leaks.Snapshot.take()
    with tempfile.TemporaryDirectory(prefix="ad", dir="/tmp") as name, running(Path(name)) as start:
        one = start(*FLAGS, *marker.args, **marker.kwargs)
        leaks.kept = {one.pid}
        yield one
        leaks.kept = set()
        _counted.clear()
    before.check()


@pytest.fixture(autouse=True)
def module_daemon_is_empty(leaves_nothing: None, module_daemon: Daemon | None) -> Iterator[None]:
    """Fail a test that leaves something in the daemon of its module; free what is kept as cache."""
    yield
    if module_daemon is not None:
        _empty(module_daemon)


@pytest.fixture
def daemon(module_daemon: Daemon | None, start_daemon: Callable[..., Daemon]) -> Daemon:
    """Give a running daemon with 64 MiB and two workers: that of the module, or its own."""
    return start_daemon(*FLAGS) if module_daemon is None else module_daemon


def _empty(daemon: Daemon) -> None:
    """Free what is kept as cache, and fail unless nothing else is left."""
    assert daemon.process is not None, "a test that stops its module's daemon starts it again"
    leaks.kept = {daemon.pid}
    api._clients.pop(daemon.endpoint, None)
    with arrayd.connect(daemon.endpoint, start=False) as client:
        end = time.monotonic() + PATIENCE
        while left := _left(client):
            gc.collect()
            assert time.monotonic() < end, f"left behind in the daemon: {left}"
            time.sleep(0.002)
        _counted.update(client.status().counters)
    assert daemon.segments == [], daemon.log
    assert "Traceback" not in daemon.log, daemon.log
    daemon.forget_log()


def _left(client: arrayd.Client) -> list[object]:
    """Evict what nobody uses; return what is there of others."""
    status = client.status()
    for block in status.blocks:
        if block.state == "idle" or block.pinned:
            client.evict(block=block.number)
    others = [one for one in status.sessions if one.pid != os.getpid()]
    own = len(status.sessions) - len(others) - 1
    return [
        *others,
        *["a session of the test"] * own,
        *status.blocks,
        *status.jobs,
        *status.streams,
    ]
