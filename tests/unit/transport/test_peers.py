"""Who is at the other end: never a stranger that was given a dead process's number."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from arrayd.common.proc import start_time
from arrayd.errors import DaemonError
from arrayd_server.transport import peers
from tests.support.processes import raised


@dataclass
class Watched:
    """A loop with the peers of a daemon that takes eight sessions, and the deaths it heard of."""

    loop: asyncio.AbstractEventLoop
    died: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.peers = peers.Peers(self.loop, 8, self.died.append)


@pytest.fixture
def watched() -> Iterator[Watched]:
    """Give one."""
    loop = asyncio.new_event_loop()
    one = Watched(loop)
    yield one
    one.peers.close()
    loop.close()


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give both ends of a connection of this process with itself."""
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Give a process that does nothing."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def address(pid: int) -> peers.Address:
    """Return what the kernel says of a process of this user."""
    return peers.Address(os.geteuid(), os.getegid(), pid)


Line = tuple[socket.socket, socket.socket]


def test_the_kernel_says_who_connected(line: Line) -> None:
    """User and process stand on the connection itself."""
    assert peers.of(line[0]) == peers.Address(os.geteuid(), os.getegid(), os.getpid())


def test_a_number_that_was_given_to_another(
    watched: Watched,
    line: Line,
    sleeper: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the connection has no pidfd, a process of another start time is not the one meant."""
    monkeypatch.setattr(peers, "_SO_PEERPIDFD", 9999)
    start = start_time(sleeper.pid)
    error, _ = raised(lambda: watched.peers.watch(b"a", address(sleeper.pid), start - 1, line[0]))
    assert isinstance(error, DaemonError)
    watched.peers.watch(b"a", address(sleeper.pid), start, line[0])


def test_the_dead_have_no_session(
    watched: Watched,
    line: Line,
    sleeper: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that ended before its hello was read is refused."""
    monkeypatch.setattr(peers, "_SO_PEERPIDFD", 9999)
    start = start_time(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    error, _ = raised(lambda: watched.peers.watch(b"a", address(sleeper.pid), start, line[0]))
    assert "ended" in str(error)


def test_a_zombie_is_dead(
    watched: Watched,
    line: Line,
    sleeper: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A death is heard of before the parent reaps it; ``kill(pid, 0)`` calls it alive."""
    monkeypatch.setattr(peers, "_SO_PEERPIDFD", 9999)
    for nonce in (b"a", b"b"):
        watched.peers.watch(nonce, address(sleeper.pid), start_time(sleeper.pid), line[0])
    os.kill(sleeper.pid, signal.SIGKILL)
    watched.loop.call_later(20, watched.loop.stop)
    while len(watched.died) < 2:
        watched.loop.run_until_complete(asyncio.sleep(0))
    assert sorted(watched.died) == [b"a", b"b"]
    os.kill(sleeper.pid, 0)


def test_sessions_are_counted(watched: Watched, line: Line) -> None:
    """One process may have a quarter of all sessions; one that says bye makes room."""
    pid = os.getpid()
    for nonce in (b"a", b"b", b"b", b"a"):
        watched.peers.watch(nonce, address(pid), 0, line[0])
    error, _ = raised(lambda: watched.peers.watch(b"c", address(pid), 0, line[0]))
    assert "2 sessions" in str(error)
    watched.peers.forget(b"a", pid)
    watched.peers.watch(b"c", address(pid), 0, line[0])


def test_a_process_of_another_namespace(watched: Watched, line: Line) -> None:
    """Process 0 is somebody we cannot see; he has sessions, and nobody is taken for dead."""
    watched.peers.watch(b"a", address(0), 0, line[0])
    watched.peers.watch(b"b", address(0), 0, line[0])
    watched.peers.forget(b"a", 0)
    watched.peers.forget(b"b", 0)
    assert watched.died == []


def test_a_quota_takes_the_place_of_half_of_all_sessions(
    watched: Watched, line: Line, sleeper: subprocess.Popen[bytes]
) -> None:
    """Without one another user has four of eight; with one it is the quota that limits them."""
    pids = (os.getpid(), os.getppid(), sleeper.pid)
    other = [peers.Address(os.geteuid() + 1, 1, pid) for pid in pids for _ in range(2)]
    for number, one in enumerate(other[:4]):
        watched.peers.watch(bytes([number]), one, 0, line[0])
    with pytest.raises(DaemonError, match="has 4 sessions, half of the 8"):
        watched.peers.watch(b"fifth", other[4], 0, line[0])
    watched.peers.watch(b"fifth", other[4], 0, line[0], share=False)
