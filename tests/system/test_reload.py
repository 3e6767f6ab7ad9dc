"""SIGHUP: options change while the daemon runs and clients read; what is wrong changes nothing."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd.errors import DaemonError, LoadTimeout, NoRoom
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import (
    SLOW,
    only_block,
    save,
    wait_until,
    workers,
)

MIB = 1 << 20


class Configured:
    """A daemon and its file of options.

    Parameters
    ----------
    start
        Starts daemons.
    file
        Where the options are.
    """

    def __init__(self, start: Callable[..., Daemon], file: Path, options: str) -> None:
        self.file = file
        file.write_text(options)
        self.daemon = start("--config", str(file))

    def reload(self, options: str) -> str:
        """Write other options, have them read; return what the daemon says."""
        self.file.write_text(options)
        self.daemon.forget_log()
        os.kill(self.daemon.pid, signal.SIGHUP)
        wait_until(
            lambda: re.search("reload (done|refused)", self.daemon.log),
            "the daemon has read its options",
        )
        return self.daemon.log


@pytest.fixture
def configured(start_daemon: Callable[..., Daemon], tmp_path: Path) -> Callable[[str], Configured]:
    """Give ``configured(options)``: a daemon with a file of options."""
    return lambda options: Configured(start_daemon, tmp_path / "arrayd.toml", options)


@pytest.fixture
def daemon(configured: Callable[[str], Configured]) -> Iterator[None]:
    """Give none: `client` is not for these tests."""
    raise AssertionError


def test_a_smaller_budget_keeps_what_is_read(
    configured: Callable[[str], Configured], tmp_path: Path
) -> None:
    """What nobody uses goes, what is held stays readable, nothing new comes; until it is larger."""
    one = configured('budget = "8M"\nworkers = 1\nkeep_pages = 0\n')
    for name in "abc":
        save(tmp_path / f"{name}.npy", np.full(3 * MIB, ord(name), dtype="u1"))
    with arrayd.connect(one.daemon.endpoint) as client:
        held = client.get(tmp_path / "a.npy")
        client.get(tmp_path / "b.npy")
        said = one.reload('budget = "2M"\nworkers = 1\nkeep_pages = 0\n')
        assert f"budget = {2 * MIB} (it was {8 * MIB})" in said
        wait_until(lambda: len(client.status().blocks) == 1, "the idle block has gone")
        assert client.status().budget == 2 * MIB
        with pytest.raises(NoRoom):
            client.get(tmp_path / "c.npy")
        assert (held == ord("a")).all()
        one.reload('budget = "16M"\nworkers = 1\n')
        assert (client.get(tmp_path / "c.npy") == ord("c")).all()
        assert client.get(tmp_path / "a.npy").block == held.block
        del held


def test_a_bad_file_changes_nothing(configured: Callable[[str], Configured]) -> None:
    """The log says what is wrong, and where; the values of before stay, good ones beside it too."""
    one = configured('budget = "8M"\n')
    said = one.reload('budget = "16M"\nworkers = "two"\n')
    assert f"reload refused, all options stay as they were: config {one.file}, line 2: " in said
    with arrayd.connect(one.daemon.endpoint) as client:
        assert client.status().budget == 8 * MIB
    one.file.unlink()
    one.daemon.forget_log()
    os.kill(one.daemon.pid, signal.SIGHUP)
    wait_until(lambda: "No such file" in one.daemon.log, "the daemon misses its file")
    with arrayd.connect(one.daemon.endpoint) as client:
        assert client.status().budget == 8 * MIB


def test_a_log_that_cannot_be_written_changes_nothing(
    configured: Callable[[str], Configured], tmp_path: Path
) -> None:
    """The old log goes on, and says why."""
    one = configured('budget = "8M"\n')
    said = one.reload(f'budget = "16M"\nlog_file = "{tmp_path}/missing/log"\n')
    assert "reload refused" in said
    assert "missing/log: cannot be written: No such file" in said
    with arrayd.connect(one.daemon.endpoint) as client:
        assert client.status().budget == 8 * MIB


def test_what_needs_a_restart_is_named(configured: Callable[[str], Configured]) -> None:
    """Options that cannot change while the daemon runs wait; others in the same file do not."""
    one = configured('budget = "8M"\n')
    said = one.reload('budget = "16M"\nprivate = true\nendpoint = "ipc:///elsewhere"\n')
    assert "needs a restart, and stays as it was: private\n" in said  # the endpoint is a flag
    with arrayd.connect(one.daemon.endpoint) as client:
        assert client.status().budget == 16 * MIB
        assert not client.status().private
    assert "reload done: 0 options have changed" in one.reload('budget = "16M"\n')


def test_the_limits_of_loads(
    configured: Callable[[str], Configured], tmp_path: Path, slow_file: Path
) -> None:
    """Idle loaders of before go; those that come have the new memory, and the new time."""
    one = configured('budget = "64M"\nworkers = 1\nloader_memory = "300M"\n')
    save(tmp_path / "a.npy", np.arange(9))

    def memories() -> set[str]:
        limits = (Path(f"/proc/{pid}/limits").read_text() for pid in workers(one.daemon))
        lines = [line for text in limits for line in text.splitlines() if "data size" in line]
        return {line.split()[3] for line in lines}

    with arrayd.connect(one.daemon.endpoint) as client:
        client.get(tmp_path / "a.npy")
        assert memories() == {str(300 * MIB)}
        one.reload('budget = "64M"\nworkers = 2\nloader_memory = "400M"\nload_timeout = 0.05\n')
        with pytest.raises(LoadTimeout, match=r"0\.05 s"):
            client.get(slow_file, **SLOW)
        one.reload('budget = "64M"\nworkers = 2\nloader_memory = "400M"\n')
        assert client.get(slow_file, rows=slice(0, 10), **SLOW).shape == (10, 3)
        assert memories() == {str(400 * MIB)}


def test_the_number_of_clients(configured: Callable[[str], Configured]) -> None:
    """Those that are there stay when fewer may be; one more is refused."""
    one = configured('budget = "8M"\n')
    with arrayd.connect(one.daemon.endpoint) as first, arrayd.connect(one.daemon.endpoint) as other:
        first.status(), other.status()
        one.reload('budget = "8M"\nmax_clients = 8\n')
        third = arrayd.connect(one.daemon.endpoint)
        with third, pytest.raises(DaemonError, match="max-clients"):
            third.status()
        assert len(first.status().sessions) == len(other.status().sessions) == 2
        one.reload('budget = "8M"\nmax_clients = 64\n')
        with arrayd.connect(one.daemon.endpoint) as third:
            assert len(third.status().sessions) == 3


def test_the_log_and_the_end(configured: Callable[[str], Configured], tmp_path: Path) -> None:
    """Level and file of the log change; a daemon that nobody needs ends when that is asked for."""
    one = configured('budget = "8M"\n')
    log = tmp_path / "log"
    options = f'budget = "8M"\nlog_level = "debug"\nlog_file = "{log}"\n'
    one.file.write_text(options)
    os.kill(one.daemon.pid, signal.SIGHUP)
    wait_until(lambda: log.exists() and "log_level = DEBUG" in log.read_text(), "another log")
    assert "reloaded" not in one.daemon.log
    one.file.write_text(options + "idle_exit = 0.001\n")
    os.kill(one.daemon.pid, signal.SIGHUP)
    assert one.daemon.process is not None
    assert one.daemon.process.wait(PATIENCE) == 0
    assert "nobody has needed this daemon" in log.read_text()
    one.daemon.process = None


def test_spare_pages_are_given_back(
    configured: Callable[[str], Configured], tmp_path: Path
) -> None:
    """Those of before have no time left when none are to be kept."""
    one = configured('budget = "64M"\nworkers = 1\nkeep_pages = 600\n')
    path = tmp_path / "a.npy"
    save(path, np.zeros(4 * MIB, dtype="u1"))
    with arrayd.connect(one.daemon.endpoint) as client:
        client.get(path)
        wait_until(lambda: only_block(client).state == "idle", "it is released")
        save(path, np.ones(4 * MIB, dtype="u1"))  # the old edition goes, and leaves its pages
        client.get(path)
        wait_until(lambda: len(one.daemon.segments) == 2, "there is a spare")
        one.reload('budget = "64M"\nworkers = 1\nkeep_pages = 0\n')
        wait_until(lambda: len(one.daemon.segments) == 1, "the spare has gone")


def test_the_hang_up_of_a_terminal_is_an_end(short_directory: Path) -> None:
    """A daemon in a terminal that is closed stops, and frees what it can."""
    master, slave = os.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    endpoint = f"ipc://{short_directory}/sock"
    process = subprocess.Popen(
        [sys.executable, "-m", "arrayd_server", "--endpoint", endpoint, "--budget", "8M"],
        stdin=slave,
        stderr=subprocess.DEVNULL,
        preexec_fn=take_terminal,  # noqa: PLW1509
    )
    os.close(slave)
    try:
        wait_until((short_directory / "sock").exists, "it listens")
        with arrayd.connect(endpoint) as client:
            name = client.put(np.arange(9)).block.name  # type: ignore[union-attr]
            os.close(master)
            assert process.wait(PATIENCE) == 0
            assert not Path(f"/dev/shm/{name}").exists()
    finally:
        process.kill()
        process.wait()
