"""Daemon and loaders stopped, continued and ended in the middle of their work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd.common import failpoints
from arrayd.session import connection
from tests.faults.grounds import alive, halted, is_stopped, points, stopped
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import (
    Stage,
    block_of,
    leaves_nothing_behind,
    only_block,
    pids,
    raised,
    save,
    wait_until,
    workers,
)

__all__ = ["points"]

SUM = 8.0 * (1 << 20)

LOAD = "a = arrayd.get(path); float(a.sum())"
PUT = "a = arrayd.put(np.full(1 << 20, 8.0), name='N'); float(a.sum())"

MOMENTS = pytest.mark.parametrize(
    ("point", "code"),
    [
        ("daemon.probed", LOAD),
        ("daemon.filled", LOAD),
        ("daemon.reserving", PUT),
        ("daemon.sealing", PUT),
    ],
)


@pytest.fixture
def watched(points: Path, start_daemon: Callable[..., Daemon]) -> Daemon:
    """Give a daemon that can be stopped at failpoints."""
    return start_daemon("--budget", "64M", "--workers", "2")


@pytest.fixture
def user(watched: Daemon) -> Iterator[arrayd.Client]:
    """Give a session with it, in this process."""
    with arrayd.connect(watched.endpoint) as client:
        yield client


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a file of 8 MiB."""
    save(tmp_path / "x.npy", np.full(1 << 20, 8.0))
    return tmp_path / "x.npy"


@MOMENTS
def test_the_daemon_is_stopped(
    watched: Daemon,
    user: arrayd.Client,
    puppets: Stage,
    points: Path,
    path: Path,
    point: str,
    code: str,
) -> None:
    """Who waits with a timeout is told in time; who dies is forgotten; who waits on, has it."""
    one, two = puppets(watched), puppets(watched)
    held = save(path.parent / "held.npy", np.arange(10.0))
    assert two(f"h = arrayd.get({str(path.parent / 'held.npy')!r}); float(h.sum())") == held.sum()
    one(f"path = {str(path)!r}")
    failpoints.arm(points, point, "stop")
    one.send(code)
    with halted(points, point) as stopped:
        assert stopped == watched.pid
        error, seconds = raised(lambda: user.get(path, timeout=0.2))
        assert isinstance(error, arrayd.LoadTimeout)
        assert seconds < 3
        three = puppets(watched)  # imports arrayd, and has no answer yet
        three.send("arrayd.status().pid")
        two.kill()
    assert three.reply() == watched.pid
    assert one.reply() == SUM
    wait_until(
        lambda: [pids(b) for b in user.status().blocks if b.holders] == [[one.pid]],
        "the dead is forgotten",
    )
    one.end()


@MOMENTS
def test_the_daemon_is_told_to_end(
    watched: Daemon, puppets: Stage, points: Path, path: Path, point: str, code: str
) -> None:
    """SIGTERM in the middle: it ends well, and the next daemon answers who still waits."""
    one = puppets(watched)
    one(f"path = {str(path)!r}")
    failpoints.arm(points, point, "term")
    one.send(code)
    assert watched.process is not None
    assert watched.process.wait(PATIENCE) == 0
    watched.process = None
    watched.start()
    assert one.reply() == SUM
    one.end()


def test_a_stop_whose_answer_is_lost(
    watched: Daemon, user: arrayd.Client, points: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the daemon has ended is answer enough: no other one is waited for, or stopped."""
    monkeypatch.setattr(connection, "AWAY_TIMEOUT", 10 * PATIENCE)
    pid = user.status().pid
    failpoints.arm(points, "daemon.request", "kill")
    assert user.stop() == pid
    assert watched.process is not None
    assert watched.process.wait(PATIENCE) == -signal.SIGKILL
    watched.process = None
    watched.start()
    leaves_nothing_behind(user)


def test_a_stop_that_is_not_heard(
    watched: Daemon, user: arrayd.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that hangs has not been stopped, and the caller is told so."""
    pid = user.status().pid
    monkeypatch.setattr(connection, "AWAY_TIMEOUT", 0.2)
    monkeypatch.setattr(connection, "_STOPPED_TIMEOUT", 0.2)
    monkeypatch.setattr(connection, "_SILENCE_TIMEOUT", 0.2)
    with stopped(pid), pytest.raises(arrayd.DaemonLost, match="kill -CONT"):
        user.stop()
    assert watched.process is not None
    assert watched.process.wait(PATIENCE) == 0  # it hears of it now
    watched.process = None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("point", ["daemon.reserving", "worker.reserving"])
def test_an_end_leaves_nothing(
    watched: Daemon, puppets: Stage, points: Path, path: Path, point: str, number: int
) -> None:
    """Nobody waits any more for what a daemon is making when it is told to end."""
    one = puppets(watched)
    one(f"path = {str(path)!r}")
    failpoints.arm(points, point, "stop")
    one.send(PUT if point == "daemon.reserving" else LOAD)
    with halted(points, point):
        one.kill()
        os.kill(watched.pid, number)
    assert watched.process is not None
    assert watched.process.wait(PATIENCE) == 0
    watched.process = None
    assert watched.segments == []
    assert "Traceback" not in watched.log


def test_a_stopped_loader(
    watched: Daemon, user: arrayd.Client, puppets: Stage, points: Path, path: Path
) -> None:
    """Others load on; its own load is given up by its waiter, and loaded again elsewhere."""
    other = path.parent / "other.npy"
    save(other, np.full(1 << 20, 4.0))
    one = puppets(watched)
    one(f"path = {str(path)!r}")
    user.info(path)  # so there are loaders: on a busy machine that alone may take a second
    failpoints.arm(points, "worker.reserving", "stop")
    one.send(f"arrayd.get({str(path)!r}, timeout=1.0)")
    with halted(points, "worker.reserving") as loader:
        assert loader in workers(watched)
        old = only_block(user)
        with pytest.raises(arrayd.LoadTimeout):
            one.reply()
        assert user.get(other).sum() == SUM / 2
        mine = user.get(path)
        assert mine.sum() == SUM
        new = block_of(mine).name
        assert new != old.segment
        states = {b.segment: b.state for b in user.status().blocks}
        assert states.get(old.segment) in ("leaving", None)  # None: it was killed by now
        if is_stopped(loader):
            scribble(loader, old.segment)
    wait_until(lambda: old.segment not in watched.segments, "the old block goes")
    wait_until(
        lambda: old.segment not in {b.segment for b in user.status().blocks}, "it is not charged"
    )
    assert (mine == 8.0).all()
    assert user.get(other).sum() == SUM / 2
    assert one("float(arrayd.get(path).sum())") == SUM
    assert user.status().counters["loads"] == 2
    assert alive(watched)
    del mine


def scribble(loader: int, segment: str) -> None:
    """Write all over the segment that a loader has open, as if it had woken up mad."""
    directory = f"/proc/{loader}/fd"
    links = {fd: os.readlink(f"{directory}/{fd}") for fd in os.listdir(directory)}
    (opened,) = (fd for fd, target in links.items() if segment in target)
    assert links[opened].endswith("(deleted)")
    fd = os.open(f"{directory}/{opened}", os.O_RDWR)
    try:
        os.pwrite(fd, b"\xff" * os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def test_a_stopped_loader_of_a_dead_daemon(
    watched: Daemon, user: arrayd.Client, points: Path, path: Path
) -> None:
    """It dies with its daemon, though it is stopped, and the next daemon takes nothing of it."""
    failpoints.arm(points, "worker.chunk", "stop")
    user.prefetch(path)
    with halted(points, "worker.chunk") as loader:
        watched.kill()
        wait_until(lambda: not os.path.exists(f"/proc/{loader}/fd/0"), "the loader is dead")
        watched.start()
        leaves_nothing_behind(user)
    assert user.get(path).sum() == SUM


def test_a_block_goes_while_another_is_waited_for(
    points: Path, watched: Daemon, user: arrayd.Client
) -> None:
    """At its end the daemon waits for the last user of one block; meanwhile it loses another."""
    first, second = user.put(np.arange(1000.0)), user.put(np.ones(1000))
    user.close()  # the arrays stay mapped: the daemon is to find out when they are not
    assert watched.process is not None
    failpoints.arm(points, "daemon.freeing", "stop")
    watched.process.send_signal(signal.SIGTERM)
    with halted(points, "daemon.freeing"):
        del second
    watched.stop()
    assert float(first.sum()) == 499500.0
    del first
    watched.start()
    with arrayd.connect(watched.endpoint) as other:
        leaves_nothing_behind(other)
