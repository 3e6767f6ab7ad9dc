"""Removing what killed daemons have left, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd_server.segments import clean
from tests.support.daemons import Daemon

ARRAYD = (sys.executable, "-c", "import sys, arrayd.cli; sys.exit(arrayd.cli.main())")


def load(daemon: Daemon, directory: Path) -> None:
    """Have a daemon keep a block that nobody holds."""
    np.save(directory / "a.npy", np.zeros(5))
    with arrayd.connect(daemon.endpoint) as client:
        client.get(directory / "a.npy")


def clean_after(endpoint: str) -> str:
    """Clean up after one daemon only: this machine may have others; what was said."""
    command = [*ARRAYD, "clean", "--endpoint", endpoint]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def killed(daemon: Daemon, tmp_path: Path) -> Iterator[Daemon]:
    """Give a daemon that has a block, killed."""
    load(daemon, tmp_path)
    daemon.kill()
    yield daemon


def test_clean(killed: Daemon) -> None:
    """What a killed daemon left is removed: both links, the directory and the socket."""
    (segment,) = killed.segments
    assert clean_after(killed.endpoint) == (
        f"removed {killed.directory}/sock\nremoved {segment}\n"
        "12.0 KiB freed, 2 names removed, 0 left\n"
    )
    assert killed.leftovers() == []


def test_clean_leaves_what_is_mapped(killed: Daemon) -> None:
    """A block that somebody maps stays, and the report says who; without them it goes."""
    (segment,) = killed.segments
    mapped = np.memmap(f"/dev/shm/{segment}", "u1", "r")
    report = clean_after(killed.endpoint)
    assert f"left {segment}: mapped by {os.getpid()} " in report
    assert killed.segments == [segment]
    del mapped
    assert f"removed {segment}" in clean_after(killed.endpoint)
    assert killed.leftovers() == []


def test_clean_leaves_a_living_daemon(daemon: Daemon, tmp_path: Path) -> None:
    """A daemon that lives keeps all it has, its socket too."""
    load(daemon, tmp_path)
    kept = daemon.segments
    report = clean_after(daemon.endpoint)
    assert f"the daemon that owns it lives (pid {daemon.pid})" in report
    assert report.endswith("0 B freed, 0 names removed, 1 left\n")
    assert daemon.segments == kept != []
    with arrayd.connect(daemon.endpoint) as client:
        assert client.status().pid == daemon.pid


def test_clean_without_an_endpoint(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of this user's dead scopes are cleaned, and nothing else; in a /dev/shm of the test's."""
    monkeypatch.setattr("arrayd.wire.layout.SHM", str(short_directory))
    monkeypatch.setattr("arrayd_server.kernel.leases.ignore_sigio", lambda: None)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_directory / "runtime"))
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    mine = ("arrayd-0123456789-01234567-1", "arrayd-abcdefabcd-01234567-2")
    others = ("arrayd-notes", "arrayd-0123456789-01234567-x", "psm_1234")
    for name in (*mine, *others):
        (short_directory / name).write_bytes(b"x" * 4096)
    try:
        report = clean.clean()
    finally:
        signal.signal(signal.SIGIO, before)
    assert report.removed == set(mine)
    assert (report.freed, report.left) == (8192, {})
    assert sorted(os.listdir(short_directory)) == sorted(others)
