"""A daemon in a PID namespace of its own: it cannot see its clients, and serves them still."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd.session import connection
from tests.faults.grounds import NEEDS_ROOT
from tests.support.daemons import Daemon
from tests.support.processes import Stage, save, wait_until

pytestmark = NEEDS_ROOT

INSIDE = """
import ctypes, os, signal, sys
assert ctypes.CDLL(None).unshare(0x20020000) == 0  # CLONE_NEWPID | CLONE_NEWNS
child = os.fork()
if child == 0:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    os.system("mount --make-rprivate / && mount -t proc proc /proc")
    from arrayd_server import program
    from arrayd_server.service import sessions
    sessions.MISSED = 0.2
    sys.argv = sys.argv[3:]
    sys.exit(program.main())
signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Becomes the daemon, as process 1 of a PID namespace of its own."""


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon]) -> Iterator[Daemon]:
    """Give one whose clients are all process 0 to it."""
    yield start_daemon("--budget", "64M", "--workers", "1", wrapper=(sys.executable, "-c", INSIDE))


def test_the_dead_are_missed(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, tmp_path: Path
) -> None:
    """A session without a process ends when its connection is gone; its pages end its hold."""
    values = save(tmp_path / "a.npy", np.arange(1000))
    one, other = puppets(daemon), puppets(daemon)
    for puppet in (one, other):
        puppet(f"a = arrayd.get({str(tmp_path / 'a.npy')!r})")
    assert [session.pid for session in client.status().sessions] == [0, 0, 0]
    one.kill()
    wait_until(lambda: len(client.status().sessions) == 2, "the dead one is missed")
    assert other("int(a.sum())") == values.sum()
    assert [block.state for block in client.status().blocks] == ["held"]
    other.kill()
    wait_until(lambda: client.status().blocks[0].state == "idle", "the last hold has ended")


def test_its_own_death_is_noticed(
    daemon: Daemon, client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number that the daemon has for itself is somebody else's outside; silence tells."""
    monkeypatch.setattr(connection, "_STOPPED_TIMEOUT", 0.2)
    monkeypatch.setattr(connection, "_SILENCE_TIMEOUT", 0.1)
    values = save(tmp_path / "a.npy", np.arange(1000))
    a = client.get(tmp_path / "a.npy")
    daemon.kill()
    daemon.start()
    save(tmp_path / "b.npy", values)
    assert (client.get(tmp_path / "b.npy") == a).all()
