"""A daemon whose socket comes from elsewhere, and whose loop is watched: what systemd does."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import arrayd
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import save

PASSING = """
import os, socket, sys
names, kinds, place, listener, *command = sys.argv[1:]
passed = []
for number, kind in enumerate(kinds.split(",")):
    if kind == "file":
        passed.append(open("/dev/null"))
        continue
    sort = socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
    passed.append(socket.socket(socket.AF_UNIX, sort))
    passed[-1].bind(path := place if number == 0 else f"{place}{number}")
    os.chmod(path, 0o666)
    if kind == "listening":
        passed[-1].listen()
for number, one in enumerate(passed):
    os.dup2(one.fileno(), 100 + number)
for number in range(len(passed)):
    os.dup2(100 + number, 3 + number)
os.environ["LISTEN_PID"] = listener or str(os.getpid())
os.environ.update(LISTEN_FDS=str(len(passed)), LISTEN_FDNAMES=names)
os.closerange(3 + len(passed), 200)
os.execv(command[0], command)
"""
"""``NAMES KINDS PATH PID COMMAND``: pass sockets to a command as systemd would."""


def passing(names: str, kinds: str, place: Path | str, listener: str = "") -> tuple[str, ...]:
    """Return the wrapper that passes sockets of these names and kinds, the first at `place`."""
    return (sys.executable, "-c", PASSING, names, kinds, str(place), listener)


def socket_of(daemon: Daemon) -> Path:
    """Return where a daemon listens."""
    return Path(daemon.endpoint.removeprefix("ipc://"))


def test_it_takes_the_socket_that_is_there(
    start_daemon: Callable[..., Daemon], short_directory: Path
) -> None:
    """Mode and inode stay; clients are served; the socket is there when the daemon has ended."""
    place = short_directory / "0" / "sock"
    daemon = start_daemon(
        "--budget", "16M", "--workers", "1", wrapper=passing("arrayd", "listening", place)
    )
    before = place.stat()
    values = save(short_directory / "a.npy", np.arange(100))
    with arrayd.connect(daemon.endpoint) as client:
        np.testing.assert_array_equal(client.get(short_directory / "a.npy"), values)
    daemon.stop()
    assert os.path.samestat(place.stat(), before)
    assert stat.S_IMODE(place.stat().st_mode) == 0o666


def test_its_children_hear_nothing_of_the_socket(
    start_daemon: Callable[..., Daemon], short_directory: Path
) -> None:
    """A loader has neither the descriptor nor the variables."""
    place = short_directory / "0" / "sock"
    daemon = start_daemon(
        "--budget", "16M", "--workers", "1", wrapper=passing("arrayd", "listening", place)
    )
    save(short_directory / "a.npy", np.arange(100))
    with arrayd.connect(daemon.endpoint) as client:
        client.get(short_directory / "a.npy")
    listening = os.stat(f"/proc/{daemon.pid}/fd/3").st_ino
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    assert children
    for child in map(Path, (f"/proc/{pid}" for pid in children)):
        assert b"LISTEN_" not in (child / "environ").read_bytes()
        assert listening not in [fd.stat().st_ino for fd in (child / "fd").iterdir()]


@pytest.mark.parametrize(
    ("names", "listener"),
    [
        pytest.param("other", "", id="another's name"),
        pytest.param("arrayd", "1", id="not for us"),
    ],
)
def test_what_is_not_meant_for_it_is_left_alone(
    names: str, listener: str, start_daemon: Callable[..., Daemon], short_directory: Path
) -> None:
    """A socket with another name, or passed to another process, is none for clients."""
    elsewhere = short_directory / "other"
    daemon = start_daemon(
        "--budget", "16M", wrapper=passing(names, "listening", elsewhere, listener)
    )
    assert stat.S_IMODE(socket_of(daemon).stat().st_mode) == 0o600
    with arrayd.connect(daemon.endpoint) as client:
        assert client.status().pid == daemon.pid
    daemon.stop()
    assert not socket_of(daemon).exists()


@pytest.mark.parametrize(
    ("names", "kinds", "place", "words"),
    [
        ("arrayd", "listening", "other", "listens at {}, and the daemon's endpoint is"),
        ("arrayd", "connected", "sock", "one line ListenStream="),
        ("arrayd", "datagram", "sock", "one line ListenStream="),
        ("arrayd", "file", "sock", "one line ListenStream="),
        ("arrayd:arrayd", "listening,listening", "sock", "one line ListenStream="),
    ],
)
def test_a_socket_that_cannot_serve_is_refused(
    names: str, kinds: str, place: str, words: str, short_directory: Path
) -> None:
    """One line says what the socket unit should be like; the daemon does not start."""
    path = short_directory / place
    endpoint = f"ipc://{short_directory}/sock"
    done = subprocess.run(
        [
            *passing(names, kinds, path),
            sys.executable,
            "-m",
            "arrayd_server",
            "--endpoint",
            endpoint,
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1, done.stderr
    assert words.format(path) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def watched(short_directory: Path) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    """Give a daemon whose watchdog wants to hear from it five times a second, and its manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{short_directory}/notify")
        manager.settimeout(PATIENCE)
        told = {"NOTIFY_SOCKET": f"{short_directory}/notify", "WATCHDOG_USEC": "400000"}
        endpoint = f"ipc://{short_directory}/sock"
        process = subprocess.Popen(
            [sys.executable, "-m", "arrayd_server", "--endpoint", endpoint, "--budget", "16M"],
            env={**os.environ, **told},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert manager.recv(4096).startswith(b"READY=1")
            yield process, manager
        finally:
            process.kill()
            process.communicate()
            subprocess.run([sys.executable, "-m", "arrayd_server.segments.clean", endpoint])


def test_the_loop_feeds_the_watchdog(
    watched: tuple[subprocess.Popen[str], socket.socket],
) -> None:
    """Again and again, until it is told to end, which it says; a reload is told as well."""
    process, manager = watched
    heard = [manager.recv(4096) for _ in range(4)]
    assert heard.count(b"WATCHDOG=1") >= 3
    process.send_signal(signal.SIGHUP)
    while (said := manager.recv(4096)) == b"WATCHDOG=1":
        pass
    assert said.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert manager.recv(4096).startswith(b"READY=1\nSTATUS=")
    process.send_signal(signal.SIGTERM)
    while (last := manager.recv(4096)) == b"WATCHDOG=1":
        pass
    assert last == b"STOPPING=1"
    assert process.wait(PATIENCE) == 0


def test_a_loop_that_hangs_says_where(
    watched: tuple[subprocess.Popen[str], socket.socket],
) -> None:
    """Nothing feeds the watchdog but the loop; its SIGABRT writes the stack to the log."""
    process, manager = watched
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    manager.settimeout(1)
    with pytest.raises(TimeoutError):
        while True:
            manager.recv(4096)
    process.send_signal(signal.SIGABRT)
    process.send_signal(signal.SIGCONT)  # as systemd does
    assert process.wait(PATIENCE) == -signal.SIGABRT
    assert process.stderr is not None
    assert "Fatal Python error: Aborted" in process.stderr.read()
