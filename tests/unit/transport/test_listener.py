"""The socket's place: whose it is, and what a daemon that is silent costs its clients."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd.errors import DaemonLost
from arrayd.session import connection
from arrayd_server.transport.listener import Listener
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import raised, save


@pytest.fixture
def listener() -> Iterator[Callable[[str], Listener]]:
    """Give ``listener(path)``: one that accepts nobody."""
    loop, listeners = asyncio.new_event_loop(), list[Listener]()

    def listen(path: str) -> Listener:
        listeners.append(Listener(path, loop, lambda sock: sock.close()))
        return listeners[-1]

    yield listen
    for one in listeners:
        one.close()
    loop.close()


def test_a_dead_daemons_socket_is_replaced(
    listener: Callable[[str], Listener], short_directory: Path
) -> None:
    """What nobody serves any more is in nobody's way."""
    path = str(short_directory / "sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    listener(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    assert os.stat(path).st_mode & 0o077 == 0


def test_a_live_socket_is_left_alone(
    listener: Callable[[str], Listener], short_directory: Path
) -> None:
    """Somebody else's socket is not stolen, whether or not he has time for us."""
    path = str(short_directory / "sock")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen(0)
        for _ in range(3):  # from the second on his queue is full
            error, _ = raised(lambda: listener(path))
            assert path in str(error)
        other.accept()[0].close()


def test_what_is_no_socket_is_left_alone(
    listener: Callable[[str], Listener], short_directory: Path
) -> None:
    """A file, a directory or a dangling link of that name is not removed."""
    (short_directory / "file").write_text("dear")
    (short_directory / "directory").mkdir()
    (short_directory / "link").symlink_to("/nowhere")
    for name in ("file", "directory", "link"):
        with pytest.raises(arrayd.DaemonError, match="no socket"):
            listener(str(short_directory / name))
    assert (short_directory / "file").read_text() == "dear"


def test_the_socket_by_another_path(
    start_daemon: Callable[..., Daemon], short_directory: Path
) -> None:
    """A second daemon that reaches the same socket through a link does not steal it."""
    first = start_daemon()
    (short_directory / "again").symlink_to(first.directory)
    second = Daemon(short_directory / "again")
    with pytest.raises(pytest.fail.Exception, match="Another"):
        second.start()
    second.discard()
    with arrayd.connect(first.endpoint) as client:
        assert client.status().pid == first.pid


def test_a_stopped_daemon(
    daemon: Daemon, client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks a stopped daemon is told so in time; arrays at hand stay, and it goes on."""
    monkeypatch.setattr(connection, "AWAY_TIMEOUT", 0.5)
    monkeypatch.setattr(connection, "_STOPPED_TIMEOUT", 0.2)
    monkeypatch.setattr(connection, "_SILENCE_TIMEOUT", 0.1)
    values = save(tmp_path / "a.npy", np.arange(1000))
    a = client.get(tmp_path / "a.npy")
    save(tmp_path / "b.npy", values)
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        error, took = raised(lambda: client.get(tmp_path / "b.npy"))
        assert isinstance(error, DaemonLost)
        assert f"kill -CONT {daemon.pid}" in str(error)
        assert took < 5
        assert (a == values).all()
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    assert (client.get(tmp_path / "b.npy") == values).all()


def test_a_stopped_daemon_that_two_threads_ask(
    daemon: Daemon, client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a call that was given up the flusher asks as well; it keeps nobody waiting for ever."""
    monkeypatch.setattr(connection, "AWAY_TIMEOUT", 0.3)
    monkeypatch.setattr(connection, "_STOPPED_TIMEOUT", 1.2)  # the flusher asks for a second each
    save(tmp_path / "a.npy", np.arange(1000))
    assert client.health()["pid"] == daemon.pid
    os.kill(daemon.pid, signal.SIGSTOP)
    at_last = threading.Timer(PATIENCE, lambda: os.kill(daemon.pid, signal.SIGCONT))
    at_last.start()
    try:
        error, _ = raised(lambda: client.get(tmp_path / "a.npy", timeout=0.1))
        assert isinstance(error, arrayd.LoadTimeout)
        error, _ = raised(lambda: client.get(tmp_path / "a.npy"))
        assert isinstance(error, DaemonLost)
    finally:
        at_last.cancel()
        at_last.join()
        os.kill(daemon.pid, signal.SIGCONT)


def test_a_stopped_daemon_that_nobody_has_met(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first word of a stopped daemon is waited for no longer, and the reason is named."""
    monkeypatch.setattr(connection, "AWAY_TIMEOUT", 0.3)
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        with arrayd.connect(daemon.endpoint) as one:
            error, _ = raised(one.status)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    assert isinstance(error, arrayd.NoDaemon)
    assert "kill -CONT" in str(error)


def test_a_daemon_that_was_stopped_for_a_while(
    daemon: Daemon, client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that is under way when the daemon is stopped is answered when it goes on."""
    monkeypatch.setattr(connection, "_STOPPED_TIMEOUT", 0.05)
    monkeypatch.setattr(connection, "_SILENCE_TIMEOUT", 0.02)
    values = save(tmp_path / "a.npy", np.arange(1000))
    os.kill(daemon.pid, signal.SIGSTOP)
    timer = signal.setitimer(signal.ITIMER_REAL, 0.5)
    before = signal.signal(signal.SIGALRM, lambda *_: os.kill(daemon.pid, signal.SIGCONT))
    try:
        began = time.monotonic()
        assert (client.get(tmp_path / "a.npy") == values).all()
        assert time.monotonic() - began > 0.4
    finally:
        signal.signal(signal.SIGALRM, before)
    assert timer == (0.0, 0.0)
