"""sd_notify over a real datagram socket, and which journal is ours."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from arrayd_server import systemd


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Be the service manager: the socket that NOTIFY_SOCKET names."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0"))
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield receiver


def test_one_call_is_one_datagram(manager: socket.socket) -> None:
    """All assignments of a call arrive together, one a line."""
    assert systemd.under_systemd()
    assert systemd.notify(systemd.READY, systemd.status("2 blocks"))
    assert systemd.notify(systemd.STOPPING)
    assert manager.recv(4096) == b"READY=1\nSTATUS=2 blocks"
    assert manager.recv(4096) == b"STOPPING=1"


def test_a_status_cannot_smuggle_an_assignment(manager: socket.socket) -> None:
    """A file name with a line break stays in the one line that is shown."""
    systemd.notify(systemd.status("loading a\nSTOPPING=1\r\n b"))
    assert manager.recv(4096) == b"STATUS=loading a STOPPING=1 b"


def fill(manager: socket.socket, senders: contextlib.ExitStack) -> None:
    """Send to `manager` until its queue, not just a sender's own buffer, is full."""
    sent = 1
    while sent:
        sender = senders.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        sender.setblocking(False)
        sender.connect(manager.getsockname())
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.send(b"")
                sent += 1


def test_a_full_queue_does_not_stop_the_daemon(manager: socket.socket) -> None:
    """When nobody reads, notify gives up after its second and says so."""
    with contextlib.ExitStack() as senders:
        fill(manager, senders)
        assert systemd.notify(systemd.WATCHDOG) is False


@pytest.mark.parametrize("address", [None, "", "/nobody/listens/here", "@nobody", "vsock:2:1"])
def test_without_a_manager_nothing_happens(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No socket, or none that answers: notify returns False and raises nothing."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert systemd.notify(systemd.READY) is False


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        pytest.param("30000000", str(os.getpid()), 15.0, id="ours"),
        ("30000000", None, 15.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time(
    usec: str | None, pid: str | None, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WATCHDOG_USEC counts only for the process that WATCHDOG_PID names."""
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert systemd.watchdog_interval() == interval


def test_the_journal_is_known_by_its_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JOURNAL_STREAM names device and inode; a redirected or closed descriptor is not it."""
    with (tmp_path / "a").open("w") as a, (tmp_path / "b").open("w") as b:
        stat = os.fstat(a.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
        assert systemd.logs_to_journal(a.fileno()) is True
        assert systemd.logs_to_journal(b.fileno()) is False
    assert systemd.logs_to_journal(-1) is False
