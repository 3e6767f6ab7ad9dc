"""What goes wrong is told within a second: whose fault, the file, the numbers; nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.errors import ArraydError
from tests.support.daemons import WITHOUT_POWERS, Daemon
from tests.support.processes import (
    SLOW_ROWS,
    Stage,
    frozen,
    frozen_load,
    leaves_nothing_behind,
    only_block,
    raised,
    save,
    wait_until,
    workers,
)

SOON = 2.0
"""Seconds in which an error that header and size show has to be there, on a busy machine."""


def npy(path: Path) -> None:
    """Write a good array of 8,000 bytes."""
    save(path, np.arange(1000.0))


def truncated(path: Path) -> None:
    """Write the first half of a good array."""
    npy(path)
    os.truncate(path, 4000)


def hdf5(path: Path) -> None:
    """Write a file of three datasets."""
    with h5py.File(path, "w") as file:
        file["train/x"], file["train/y"], file["test"] = np.ones(3), np.ones(4), np.ones(5)


def hdf5_truncated(path: Path) -> None:
    """Write the first half of an HDF5 file."""
    hdf5(path)
    os.truncate(path, path.stat().st_size // 2)


def hdf5_of_strings(path: Path) -> None:
    """Write a dataset of variable-length strings."""
    with h5py.File(path, "w") as file:
        file["s"] = ["a", "bcd"]


def npz(path: Path) -> None:
    """Write two members."""
    np.savez(path, weights=np.ones(3), bias=np.ones(4))


def objects(path: Path) -> None:
    """Write a pickle in a .npy."""
    save(path, np.array([{}, None], object))


def text(path: Path) -> None:
    """Write five lines; the fourth is bad."""
    path.write_text("1 2\n3 4\n5 6\n7 eight\n9 10\n")


def empty(path: Path) -> None:
    """Write nothing."""
    path.write_bytes(b"")


def huge(path: Path) -> None:
    """Write a sparse array of 800 MB."""
    np.lib.format.open_memmap(path, "w+", "f8", (100_000_000,))


def junk(path: Path) -> None:
    """Write bytes that are no format's."""
    path.write_bytes(bytes(range(256)))


def pipe(path: Path) -> None:
    """Make a FIFO."""
    os.mkfifo(path)


@dataclass(frozen=True)
class Row:
    """A file, what is asked of it, and what is to be said about it."""

    name: str
    make: Callable[[Path], object]
    error: type[ArraydError]
    words: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


ROWS = [
    Row("gone.npy", lambda path: None, arrayd.SourceNotFound, ("no such file",)),
    Row("dir.npy", Path.mkdir, arrayd.BadFile, ("directory",)),
    Row("pipe.npy", pipe, arrayd.BadFile, ("no regular file",)),
    Row("empty.npy", empty, arrayd.BadFile, ("empty", "0 bytes")),
    Row("cut.npy", truncated, arrayd.BadFile, ("truncated", "8128 bytes", "4000")),
    Row("object.npy", objects, arrayd.SpecMismatch, ("objects", "fixed-size")),
    Row("claim.npy", npy, arrayd.SpecMismatch, ("float64, not int32", "cast="), {"dtype": "i4"}),
    Row("huge.npy", huge, arrayd.NoRoom, ("762.9 MiB", "64.0 MiB", "rows=")),
    Row("option.npy", npy, arrayd.SpecMismatch, ("skiprows",), {"skiprows": 1}),
    Row("empty.h5", empty, arrayd.BadFile, ("empty", "0 bytes")),
    Row("cut.h5", hdf5_truncated, arrayd.BadFile, ("truncated",)),
    Row("several.h5", hdf5, arrayd.SpecMismatch, ("3 datasets", "train/x", "train/y", "test")),
    Row("typo.h5", hdf5, arrayd.SourceNotFound, ("'train/z'", "'train/x'"), {"dataset": "train/z"}),
    Row("group.h5", hdf5, arrayd.SpecMismatch, ("train",), {"dataset": "train"}),
    Row("strings.h5", hdf5_of_strings, arrayd.CastError, ("does not fit", "S1"), {"cast": "S1"}),
    Row("empty.npz", empty, arrayd.BadFile, ("empty", "0 bytes")),
    Row("several.npz", npz, arrayd.SpecMismatch, ("2 members", "weights", "bias")),
    Row("typo.npz", npz, arrayd.SourceNotFound, ("'weight'", "'weights'"), {"dataset": "weight"}),
    Row("line.txt", text, arrayd.BadFile, ("line 4", "eight")),
    Row("columns.txt", text, arrayd.SpecMismatch, (), {"dtype": "i4,i4,i4"}),
    Row("bare.bin", junk, arrayd.SpecMismatch, ("dtype=",)),
    Row("odd.bin", npy, arrayd.BadFile, ("24000", "8128"), {"dtype": "f8", "shape": (3000,)}),
    Row("what.xyz", junk, arrayd.SpecMismatch, (".xyz", "format=")),
]


def failure(client: arrayd.Client, path: Path, row: Row) -> str:
    """Return what is wrong with the error for a row; empty: nothing."""
    row.make(path)
    began = time.monotonic()
    try:
        client.get(path, **row.options)
    except ArraydError as error:
        took = time.monotonic() - began
        missing = [words for words in (row.name, *row.words) if words not in str(error)]
        if type(error) is not row.error or missing or took > SOON:
            return f"{type(error).__name__} after {took:.2f} s, without {missing}: {error}"
        return ""
    return "no error"


def test_every_bad_file_is_told(client: arrayd.Client, tmp_path: Path) -> None:
    """Each row: the class, the file's name, the words, in time; then no block, job or segment."""
    npy(tmp_path / "warm.npy")
    client.get(tmp_path / "warm.npy")
    client.evict(tmp_path / "warm.npy")
    failures = [text for row in ROWS if (text := failure(client, tmp_path / row.name, row))]
    assert not failures, "\n".join(failures)
    leaves_nothing_behind(client)
    assert client.status().counters["loads"] == 1


def test_a_file_one_may_not_read(
    start_daemon: Callable[..., Daemon], puppets: Stage, tmp_path: Path
) -> None:
    """No permission is AccessDenied: for the file, and for the directory it lies in."""
    wrapper = WITHOUT_POWERS if os.geteuid() == 0 else ()
    daemon = start_daemon("--budget", "64M", "--workers", "2", wrapper=wrapper)
    one = puppets(daemon, wrapper=wrapper)
    shut = tmp_path / "shut"
    shut.mkdir()
    npy(tmp_path / "x.npy")
    npy(shut / "y.npy")
    (tmp_path / "x.npy").chmod(0)
    shut.chmod(0)
    try:
        for path in (tmp_path / "x.npy", shut / "y.npy"):
            error, seconds = raised(partial(one, f"arrayd.get({str(path)!r})"))
            assert isinstance(error, arrayd.AccessDenied)
            assert str(path) in str(error)
            assert seconds < SOON
    finally:
        shut.chmod(0o700)


SMALL_SHM = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=8m x /dev/shm && exec "$@"', "sh")


@pytest.mark.skipif(
    subprocess.run([*SMALL_SHM, "true"], capture_output=True).returncode != 0,
    reason="a /dev/shm of one's own needs root and mount namespaces",
)
def test_dev_shm_is_full(
    start_daemon: Callable[..., Daemon], puppets: Stage, tmp_path: Path
) -> None:
    """Where /dev/shm ends before the budget does, it is NoRoom with the numbers, never SIGBUS."""
    daemon = start_daemon("--budget", "64M", "--workers", "2", wrapper=SMALL_SHM)
    one = puppets(daemon, wrapper=("nsenter", "-t", str(daemon.pid), "-m"))
    save(tmp_path / "large.npy", np.ones(2 << 20))
    save(tmp_path / "fits.npy", np.ones(3 << 17))
    large, fits = (f"arrayd.get({str(tmp_path / name)!r})" for name in ("large.npy", "fits.npy"))
    for code in (large, "arrayd.put(np.ones(2 << 20), name='large')"):
        error, seconds = raised(partial(one, code))
        assert isinstance(error, arrayd.NoRoom)
        for words in ("large", "needs 16.0 MiB", "/dev/shm", "7.8 MiB"):
            assert words in str(error)
        assert seconds < SOON + 1
    assert one(f"float({fits}.sum())") == 3 << 17
    one(f"arrayd.evict({str(tmp_path / 'fits.npy')!r})")
    one("open('/dev/shm/other', 'wb').write(bytes(6 << 20))")
    error, _ = raised(lambda: one(fits))
    assert isinstance(error, arrayd.NoRoom)
    one("os.unlink('/dev/shm/other')")
    assert one(f"a = {fits}; float(a.sum())") == 3 << 17
    one("del a")
    one(f"arrayd.evict({str(tmp_path / 'fits.npy')!r})")
    assert one("[len(arrayd.status().blocks), len(arrayd.status().jobs)]") == [0, 0]


# ---- loads that go wrong ---------------------------------------------------------------------


def test_a_file_that_changes_while_it_is_read(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, slow_file: Path, tmp_path: Path
) -> None:
    """What is appended in the middle of a load makes it SourceChanged; asked again, it is there."""
    path = tmp_path / "growing.txt"
    path.write_bytes(slow_file.read_bytes())
    one = puppets(daemon)
    code = f"len(arrayd.get({str(path)!r}, quotechar=chr(34)))"
    one.send(code)
    with frozen_load(daemon, client), path.open("a") as file:
        file.write("1 2 3\n")
    error, _ = raised(one.reply)
    assert isinstance(error, arrayd.SourceChanged)
    assert str(path) in str(error)
    leaves_nothing_behind(client)
    assert one(code) == SLOW_ROWS + 1


def test_a_file_that_changes_before_it_is_read(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """The daemon finds the file in another state than its asker saw: the asker looks again."""
    path = tmp_path / "x.npy"
    npy(path)
    one = puppets(daemon)
    code = f"float(arrayd.get({str(path)!r}).sum())"
    assert one(code) == 499_500
    one(f"arrayd.evict({str(path)!r})")
    with frozen(daemon):
        one.send(code)
        wait_until(lambda: client.status().blocks, "it has asked")
        save(path, np.arange(1000.0) + 1)
    assert one.reply() == 500_500
    assert client.status().counters["failures"] == 1


def test_a_loader_that_is_killed(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, slow_file: Path
) -> None:
    """A loader's death fails its load, saying how it died, and no other; the next one works."""
    one = puppets(daemon)
    code = f"float(arrayd.get({str(slow_file)!r}, quotechar=chr(34)).sum())"
    one.send(code)
    with frozen_load(daemon, client) as loaders:
        for pid in loaders:
            os.kill(pid, signal.SIGKILL)
        error, _ = raised(one.reply)
    assert isinstance(error, arrayd.LoaderCrashed)
    assert str(slow_file) in str(error)
    assert "SIGKILL" in str(error)
    leaves_nothing_behind(client)
    assert one(code) == 6 * SLOW_ROWS
    assert client.status().counters["failures"] == 1


def test_a_loader_that_hangs(
    start_daemon: Callable[..., Daemon], puppets: Stage, tmp_path: Path
) -> None:
    """A load past --load-timeout is LoadTimeout, and its loader is ended."""
    daemon = start_daemon("--budget", "64M", "--workers", "2", "--load-timeout", "2")
    path = tmp_path / "x.npy"
    npy(path)
    one = puppets(daemon)
    code = f"float(arrayd.get({str(path)!r}).sum())"
    assert one(code) == 499_500
    one(f"arrayd.evict({str(path)!r})")
    with arrayd.connect(daemon.endpoint) as client:
        # Stopped before it begins: on a busy machine 2 s may be over before it is in the middle.
        with frozen(daemon) as loaders:
            one.send(code)
            error, _ = raised(one.reply)
            assert isinstance(error, arrayd.LoadTimeout)
            for words in (str(path), "longer than 2 s", "--load-timeout"):
                assert words in str(error)
            # It ignores its cancellation as well: it is killed, and only then all is free.
            wait_until(lambda: not set(loaders) & set(workers(daemon)), "the loader is killed")
        leaves_nothing_behind(client)
        assert one(code) == 499_500


def test_a_lost_cast_in_the_middle(client: arrayd.Client, tmp_path: Path) -> None:
    """A value that does not fit, deep in a file of several parts, ends all of them."""
    values = np.zeros(6 << 20, "f8")
    values[5 << 20] = 1e6
    save(tmp_path / "x.npy", values)
    error, _ = raised(lambda: client.get(tmp_path / "x.npy", cast="i2"))
    assert isinstance(error, arrayd.CastError)
    assert f"[{5 << 20}]" in str(error)
    leaves_nothing_behind(client)
    got = client.get(tmp_path / "x.npy", cast="i4")
    assert got.sum() == 10**6
    assert only_block(client).state == "held"
    del got


def test_an_error_is_told_to_all_who_wait(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, slow_file: Path, tmp_path: Path
) -> None:
    """Everyone who joined a load that fails hears the same error, with the line."""
    path = tmp_path / "bad.txt"
    path.write_text(slow_file.read_text() + "1 2 x\n")
    save(tmp_path / "warm.npy", np.ones(1))
    client.get(tmp_path / "warm.npy")
    several = [puppets(daemon), puppets(daemon)]
    with frozen(daemon):
        for one in several:
            one.send(f"arrayd.get({str(path)!r})")
        wait_until(lambda: sum(len(j.waiters) for j in client.status().jobs) == 2, "both wait")
    told = [str(raised(one.reply)[0]) for one in several]
    assert told[0] == told[1]
    assert f"line {SLOW_ROWS + 1}" in told[0]
    assert str(path) in told[0]
    wait_until(lambda: not client.status().jobs, "no job is left")
