"""``arrayd top`` on a terminal of its own, with a daemon that comes and goes."""

from __future__ import annotations

import contextlib
import os
import pty
import queue
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd import cli
from arrayd.cli import top_feed
from arrayd.cli.top_feed import StatusFeed
from arrayd.results.status_table import Status
from tests.support.daemons import PATIENCE, Daemon

LEAVES = b"\x1b[?1049l"
"""What gives a terminal back the screen that it had before."""

Told = tuple[Status | None, str]


@pytest.fixture
def fed(
    start_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Daemon, StatusFeed, queue.Queue[Told]]]:
    """Give a daemon, a feed that asks it ten times a second, and what that tells."""
    monkeypatch.setattr(top_feed, "EVERY", 0.1)
    daemon, told = start_daemon("--budget", "64M"), queue.Queue[Told]()
    feed = StatusFeed(
        daemon.endpoint,
        lambda status, words: told.put((status, words)),
        lambda words: told.put((None, words)),
    )
    feed.start()
    yield daemon, feed, told
    feed.stop()
    feed._thread.join(PATIENCE)
    assert not feed._thread.is_alive()


def wait_for(told: queue.Queue[Told], wanted: Callable[[Status | None, str], bool]) -> Told:
    """Return the first thing told that is wanted."""
    until = time.monotonic() + PATIENCE
    while True:
        found = told.get(timeout=max(0.0, until - time.monotonic()))
        if wanted(*found):
            return found


def test_a_daemon_that_comes_and_goes(
    fed: tuple[Daemon, StatusFeed, queue.Queue[Told]], tmp_path: Path
) -> None:
    """It is evicted from; its end is told, and its successor is asked as it was."""
    daemon, feed, told = fed
    path = tmp_path / "a.npy"
    np.save(path, np.arange(9))
    with arrayd.connect(daemon.endpoint) as client:
        array = client.get(path)
        number = client.status().blocks[0].number
        feed.evict(number)
        wait_for(told, lambda _, words: words.startswith("In use: "))
        del array
    wait_for(told, lambda status, _: bool(status and status.blocks[0].state == "idle"))
    feed.evict(number)
    wait_for(told, lambda _, words: words.startswith(f"evicted block {number}, "))
    wait_for(told, lambda status, _: bool(status and not status.blocks))
    pid = daemon.pid
    daemon.stop()
    wait_for(told, lambda _, words: words == "daemon not running, waiting")
    feed.evict(number)
    wait_for(told, lambda _, words: words == "no daemon runs")
    daemon.start()
    found, _ = wait_for(told, lambda status, _: status is not None)
    assert found is not None
    assert found.pid == daemon.pid != pid


def test_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """It says what there is for a pipe, in a line, and is exit code 2."""
    assert cli.main(["top"]) == 2
    assert "`arrayd status --json`" in capsys.readouterr().err


def test_textual_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line says which extra has it."""
    monkeypatch.delitem(sys.modules, "arrayd.cli.top_screen", raising=False)
    monkeypatch.setitem(sys.modules, "textual.app", None)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    assert cli.main(["top"]) == 1
    complaint = capsys.readouterr().err
    assert "pip install 'arrayd[top]'" in complaint
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("end", "code"),
    [(b"q", 0), (b"\x03", 130), (signal.SIGTERM, 143)],
)
def test_the_terminal_is_as_before(short_directory: Path, end: bytes | int, code: int) -> None:
    """By q, Ctrl-C and SIGTERM; and it opens though no daemon runs."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, ours)
        stack.callback(os.close, theirs)
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys, arrayd.cli; sys.exit(arrayd.cli.main(['top']))"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={
                **os.environ,
                "ARRAYD_ENDPOINT": f"ipc://{short_directory}/none",
                "TERM": "xterm-256color",
            },
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        _read_until(ours, b"daemon not running, waiting")
        assert termios.tcgetattr(theirs) != before
        if isinstance(end, bytes):
            os.write(ours, end)
        else:
            process.send_signal(end)
        _read_until(ours, LEAVES)
        assert process.wait(PATIENCE) == code
        assert termios.tcgetattr(theirs) == before


def _read_until(fd: int, wanted: bytes) -> None:
    """Read what a program writes until it has written that."""
    said, until = b"", time.monotonic() + PATIENCE
    while wanted not in said:
        ready, _, _ = select.select([fd], [], [], max(0.0, until - time.monotonic()))
        assert ready, said
        said += os.read(fd, 65536)
