"""Two daemons on one scope: one serves, the other says who; whoever holds the lock has all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import arrayd
from arrayd_server.segments.scope import Scope
from tests.faults.grounds import NEEDS_ROOT, is_stopped
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import Stage, save, wait_until

SERVE = (sys.executable, "-m", "arrayd_server", "--budget", "16M")


class Serving:
    """Daemons started by hand, which must all have ended well."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self._ended: set[int] = set()  # told once: as its loop closes, asyncio minds a second time

    def __call__(
        self, endpoint: str, wrapper: tuple[str, ...] = (), env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start one, and wait for nothing."""
        process = subprocess.Popen(
            [*wrapper, *SERVE, "--endpoint", endpoint],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def refused(self, endpoint: str, **options: object) -> str:
        """Start one that must end with 1; return what it says."""
        process = self(endpoint, **options)  # type: ignore[arg-type]  # handed through
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1, said
        assert "Traceback" not in said
        return said

    def end(self, process: subprocess.Popen[str]) -> None:
        """Tell one to end, and wait for nothing."""
        if process.poll() is None and process.pid not in self._ended:
            self._ended.add(process.pid)
            process.terminate()

    def close(self) -> None:
        """End those that run."""
        for process in self.processes:
            self.end(process)
            _, said = process.communicate(timeout=PATIENCE)
            assert process.returncode in (0, 1, -signal.SIGKILL), said
            assert "Traceback" not in said, said


@pytest.fixture
def serving(short_directory: Path) -> Iterator[Serving]:
    """Give ``serving(endpoint)``."""
    one = Serving()
    try:
        yield one
    finally:
        one.close()


def pid_at(endpoint: str) -> int:
    """Return the daemon that answers at an endpoint."""
    with arrayd.connect(endpoint) as client:
        return client.status().pid


def test_ten_at_the_same_moment(serving: Serving, short_directory: Path) -> None:
    """Of ten daemons started at once one serves, and nine name it and end with 1."""
    endpoint = f"ipc://{short_directory}/sock"
    processes = [serving(endpoint) for _ in range(10)]

    def running() -> list[subprocess.Popen[str]]:
        return [process for process in processes if process.poll() is None]

    wait_until(lambda: len(running()) == 1, "one is left")
    (winner,) = running()
    assert pid_at(endpoint) == winner.pid
    for loser in set(processes) - {winner}:
        assert loser.wait(PATIENCE) == 1
        assert loser.stderr is not None
        said = loser.stderr.read()
        assert "serves this endpoint" in said
        assert "Traceback" not in said
    serving.end(winner)
    assert winner.wait(PATIENCE) == 0
    assert not os.path.exists(Scope(endpoint).directory)


def test_starts_and_ends_at_the_same_moment(serving: Serving, short_directory: Path) -> None:
    """Each removes the directory as it ends: the next one's lock is never one that is gone."""
    endpoint = f"ipc://{short_directory}/sock"
    served = 0
    for _ in range(3):
        two = [serving(endpoint), serving(endpoint)]
        wait_until(lambda two=two: any(p.poll() is not None for p in two), "one is refused")  # type: ignore[misc]  # a default binds it
        for process in two:
            if process.poll() is None:
                served += pid_at(endpoint) == process.pid
                serving.end(process)
    assert served == 3


def test_other_runtime_directories(serving: Serving, short_directory: Path) -> None:
    """The lock is in /dev/shm with what it guards: $XDG_RUNTIME_DIR makes no difference."""
    endpoint = f"ipc://{short_directory}/sock"
    first = serving(endpoint, env={"XDG_RUNTIME_DIR": f"{short_directory}/one"})
    wait_until(lambda: os.path.exists(endpoint.removeprefix("ipc://")), "the first serves")
    said = serving.refused(endpoint, env={"XDG_RUNTIME_DIR": f"{short_directory}/two"})
    assert f"pid {first.pid}" in said
    assert pid_at(endpoint) == first.pid


@NEEDS_ROOT
def test_another_run(serving: Serving, short_directory: Path) -> None:
    """In a mount namespace with another directory for the socket, and the same /dev/shm."""
    endpoint = f"ipc://{short_directory}/sock"
    first = serving(endpoint)
    wait_until(lambda: os.path.exists(endpoint.removeprefix("ipc://")), "the first serves")
    hidden = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"')
    said = serving.refused(endpoint, wrapper=(*hidden, str(short_directory)))
    assert f"pid {first.pid}" in said
    assert pid_at(endpoint) == first.pid


def test_another_spelling(
    serving: Serving, daemon: Daemon, client: arrayd.Client, tmp_path: Path
) -> None:
    """The same socket through a linked directory is the same scope, for blocks and lock."""
    linked = daemon.directory.with_name("linked")
    linked.symlink_to(daemon.directory)
    endpoint = f"ipc://{linked}/sock"
    assert Scope(endpoint).id == Scope(daemon.endpoint).id == client.status().scope
    assert f"pid {daemon.pid}" in serving.refused(endpoint)
    assert pid_at(endpoint) == pid_at(daemon.endpoint) == daemon.pid


def test_the_first_is_stopped(
    serving: Serving, daemon: Daemon, client: arrayd.Client, tmp_path: Path
) -> None:
    """A stopped daemon has its lock still: the second is refused, and clients wait for it."""
    save(tmp_path / "x.npy", [1.0, 2.0])
    mine = client.get(tmp_path / "x.npy")
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: is_stopped(daemon.pid), "it is stopped")
        assert f"pid {daemon.pid}" in serving.refused(daemon.endpoint)
        assert mine.tolist() == [1, 2]
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    assert client.status().pid == daemon.pid
    del mine


def test_the_first_dies_meanwhile(
    serving: Serving, daemon: Daemon, client: arrayd.Client, tmp_path: Path
) -> None:
    """The kernel gives the lock up with the process: whoever starts then adopts its blocks."""
    save(tmp_path / "x.npy", [1.0, 2.0])
    mine = client.get(tmp_path / "x.npy")
    assert f"pid {daemon.pid}" in serving.refused(daemon.endpoint)
    daemon.kill()
    second = serving(daemon.endpoint)
    assert client.status().pid == second.pid
    assert client.get(tmp_path / "x.npy").block == mine.block
    assert client.status().counters["loads"] == 0
    del mine
    serving.end(second)
    assert second.wait(PATIENCE) == 0
    daemon.start()


def test_the_lock_is_removed(
    start_daemon: Callable[..., Daemon], puppets: Stage, serving: Serving, tmp_path: Path
) -> None:
    """After ``rm -r`` of a stopped daemon's directory a second one takes over: the first leaves."""
    save(tmp_path / "x.npy", [1.0, 2.0])
    first = start_daemon("--budget", "16M")
    assert first.process is not None
    one = puppets(first)
    name = one(f"a = arrayd.get({str(tmp_path / 'x.npy')!r}); a.block.name")
    kept = one("arrayd.put(np.arange(3), name='N', keep=True).block.name")
    os.kill(first.pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(first.pid), "it is stopped")
    shutil.rmtree(Scope(first.endpoint).directory)
    os.unlink(first.endpoint.removeprefix("ipc://"))  # it listens still: a second one would not
    second = serving(first.endpoint)
    wait_until(lambda: os.path.exists(first.endpoint.removeprefix("ipc://")), "it serves")
    os.kill(first.pid, signal.SIGCONT)
    assert first.process.wait(PATIENCE) == 0
    assert "another daemon has taken over this endpoint" in first.log
    first.process = None
    assert one("arrayd.status().pid") == second.pid
    assert one(f"arrayd.get({str(tmp_path / 'x.npy')!r}).block.name") == name
    assert one("arrayd.get('name:N').block.name") == kept
    assert one("a.tolist()") == [1, 2]
    one.end()
    serving.end(second)
    assert second.wait(PATIENCE) == 0
