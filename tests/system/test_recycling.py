"""Pages of blocks that went, kept for the next load: a daemon, from the outside."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd.wire import layout
from tests.support.daemons import Daemon
from tests.support.processes import save, wait_until

MIB = 1 << 20


@pytest.fixture
def small(start_daemon: Callable[..., Daemon]) -> Daemon:
    """Give a daemon that has room for one array of the tests, and keeps pages for long."""
    return start_daemon("--budget", "12M", "--workers", "2", "--keep-pages", "1000")


@pytest.fixture
def user(small: Daemon) -> Iterator[arrayd.Client]:
    """Give a session with it."""
    with arrayd.connect(small.endpoint) as client:
        yield client


def inodes(daemon: Daemon) -> set[int]:
    """Return the inodes of its segments."""
    return {os.stat(f"/dev/shm/{name}").st_ino for name in daemon.segments}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "dtype", ["u1", "f8", "g", [("a", "u1"), ("b", "g"), ("c", "S5")]], ids=str
)
def test_a_load_in_pages_of_another(
    small: Daemon, user: arrayd.Client, tmp_path: Path, dtype: str, order: str
) -> None:
    """It has the values of its own file, and not a byte of the other's."""
    made = np.dtype(dtype)
    save(tmp_path / "old.npy", np.full(8 * MIB, 0xAA, "u1"))
    values = np.zeros((1000, 7 * MIB // 1000 // made.itemsize), made)
    values.view("u1")[::3] = 1
    save(tmp_path / "new.npy", values)
    assert user.get(tmp_path / "old.npy").max() == 0xAA
    wait_until(lambda: user.status().idle > 0, "it is idle")
    pages = inodes(small)
    array = user.get(tmp_path / "new.npy", order=order)
    assert inodes(small) == pages
    assert user.status().counters["recycled"] == 1
    assert array.tobytes() == values.tobytes()
    raw = Path(f"/dev/shm/{small.segments[0]}").read_bytes()
    assert not any(raw[values.nbytes : layout.pages(values.nbytes)])
    assert b"\xaa" * 16 not in raw


def test_a_file_that_was_rewritten(small: Daemon, user: arrayd.Client, tmp_path: Path) -> None:
    """Its old block goes as soon as the new one is asked for, and leaves its pages."""
    for value in (1, 2):
        save(tmp_path / "x.npy", np.full(4 * MIB, value, "u1"))
        assert user.get(tmp_path / "x.npy").sum() == value * 4 * MIB
        wait_until(lambda: user.status().idle > 0, "it is idle")
    status = user.status()
    assert status.spare + status.idle == status.charged
    assert status.held == 0


def test_spares_are_shown_and_charged(user: arrayd.Client, tmp_path: Path) -> None:
    """Status tells how many bytes lie there; a block that they leave no room for gets them back."""
    user.put(np.ones(4 * MIB, "u1"))
    wait_until(lambda: user.status().spare > 0, "its pages are kept")
    status = user.status()
    assert status.charged == status.spare >= 4 * MIB
    assert ", spare 4.0)" in str(status)
    assert status.blocks == ()
    save(tmp_path / "large.npy", np.ones(11 * MIB, "u1"))
    array = user.get(tmp_path / "large.npy")
    assert user.status().spare == 0
    assert array.sum() == 11 * MIB


def test_the_time_is_over(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """/dev/shm falls to what blocks use."""
    daemon = start_daemon("--budget", "32M", "--keep-pages", "0.3")
    save(tmp_path / "x.npy", np.ones(MIB, "u1"))
    with arrayd.connect(daemon.endpoint) as client:
        client.put(np.ones(4 * MIB, "u1"))
        array = client.get(tmp_path / "x.npy")
        wait_until(lambda: len(daemon.segments) == 1, "the pages are given back")
        wait_until(
            lambda: client.status().charged == client.status().held, "a thread has freed them"
        )
        assert client.status().held > array.nbytes


def test_no_pages_are_kept_if_none_are_wanted(start_daemon: Callable[..., Daemon]) -> None:
    """With 0 a block that goes is gone."""
    daemon = start_daemon("--budget", "32M", "--keep-pages", "0")
    with arrayd.connect(daemon.endpoint) as client:
        client.put(np.ones(4 * MIB, "u1"))
        wait_until(lambda: client.status().charged == 0, "it is freed")
        assert daemon.segments == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_the_next_run_finds_none(small: Daemon, user: arrayd.Client, number: int) -> None:
    """A daemon that ends, however it does, leaves no pages to the next."""
    user.put(np.ones(4 * MIB, "u1"))
    wait_until(lambda: user.status().spare > 0, "its pages are kept")
    small.end(number)
    small.start()
    assert small.segments == []
    assert user.status().charged == 0
