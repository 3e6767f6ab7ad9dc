"""A file that changes while it is loaded: an error that says so, or its values; never a mixture.

Each change is made when the loader is stopped in the middle of the rows: between two chunks by
a failpoint, or wherever SIGSTOP found it.
"""

from __future__ import annotations

import io
import os
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.common import failpoints
from tests.support.daemons import Daemon
from tests.support.processes import (
    SLOW_ROWS,
    Puppet,
    Stage,
    frozen_load,
    leaves_nothing_behind,
    save,
    wait_until,
)

OLD, NEW = 1.0, 2.0
VALUES = 300_000


@dataclass
class Bench:
    """A daemon whose loader can be stopped at its first chunk, and a client process."""

    daemon: Daemon
    one: Puppet
    points: Path

    def ask(self, path: Path, options: str = "") -> str:
        """Return the code that loads a file and tells how many values are old, and how many not."""
        return (
            f"a = arrayd.get({str(path)!r}{options}); n = int((a == {OLD}).sum()); "
            "m = a.size; del a\n[n, m - n]"
        )

    def stopped(self, code: str) -> int:
        """Have the client run code, and stop the loader at its first chunk; return its pid."""
        failpoints.arm(self.points, "worker.chunk", "stop")
        self.one.send(code)
        wait_until(lambda: list(self.points.glob("worker.chunk.*")), "a chunk is written")
        (hit,) = self.points.glob("worker.chunk.*")
        hit.unlink()
        pid = int(hit.suffix[1:])
        wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T", "it stops")
        return pid

    def failures(self) -> int:
        """Return how many loads have failed so far."""
        count: int = self.one("arrayd.status().counters['failures']")
        return count

    def forget(self, path: Path) -> None:
        """Evict what was loaded, so that the next one loads."""
        self.one(f"arrayd.evict({str(path)!r})")


@pytest.fixture
def bench(
    start_daemon: Callable[..., Daemon],
    puppets: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    """Give a daemon with failpoints, and a client of it."""
    points = tmp_path / "points"
    points.mkdir()
    monkeypatch.setenv(failpoints.VARIABLE, str(points))
    daemon = start_daemon("--budget", "64M", "--workers", "1")
    yield Bench(daemon, puppets(daemon), points)


def npy(path: Path, value: float, count: int = VALUES) -> None:
    """Write an array of one value."""
    save(path, np.full(count, value))


def npz(path: Path, value: float, count: int = VALUES) -> None:
    """Write a compressed member."""
    np.savez_compressed(path, x=np.full(count, value))


def hdf5(path: Path, value: float, count: int = VALUES) -> None:
    """Write a dataset in place, in chunks."""
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.full(count, value), chunks=(1000,))


def text(path: Path, value: float, count: int = VALUES) -> None:
    """Write lines."""
    path.write_text(f"{value:.0f}\n" * count)


Write = Callable[..., None]


def rewritten(path: Path, write: Write) -> None:
    """Write other values of the same size into the same file."""
    size = path.stat().st_size
    write(path.with_name(f"other{path.suffix}"), NEW)
    data = path.with_name(f"other{path.suffix}").read_bytes()
    with path.open("r+b") as file:
        file.write(data[:size].ljust(size, b"\n"))
    assert path.stat().st_size == size


def replaced(path: Path, write: Write) -> None:
    """Put another file in its place, as careful programs do."""
    other = path.with_name(f"other{path.suffix}")
    write(other, NEW)
    os.replace(other, path)


def appended(path: Path, write: Write) -> None:
    """Let a writer go on at its end."""
    with path.open("ab") as file:
        file.write(b"1\n" * 10)


def truncated(path: Path, write: Write) -> None:
    """Cut it in half, as one does who writes it anew."""
    os.truncate(path, path.stat().st_size // 2)


def deleted(path: Path, write: Write) -> None:
    """Remove it."""
    path.unlink()


CHANGES = [rewritten, replaced, appended, truncated, deleted]
FORMATS = [(npy, ".npy"), (npz, ".npz"), (hdf5, ".h5"), (text, ".txt")]


def truth(path: Path) -> list[int] | None:
    """Return how many values of the file are old and how many not, by numpy; None: unreadable."""
    readers: dict[str, Callable[[], Any]] = {
        ".npy": lambda: np.load(path),
        ".npz": lambda: np.load(io.BytesIO(path.read_bytes()))["x"],
        ".h5": lambda: h5py.File(path, "r", locking=False)["x"][()],
        ".txt": lambda: np.loadtxt(path),
    }
    try:
        values = readers[path.suffix]()
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    old = int((values == OLD).sum())
    return [old, values.size - old]


def outcome(one: Puppet) -> list[int] | None:
    """Return what a client got; None for an error that says that it is the file."""
    try:
        found: list[int] = one.reply()
    except arrayd.SourceError as error:
        assert isinstance(error, (arrayd.SourceChanged, arrayd.SourceNotFound, arrayd.BadFile))
        return None
    return found


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_change_in_the_middle_of_a_load(bench: Bench, tmp_path: Path, change: Any) -> None:
    """In every format the load fails; its asker gets what the file holds then, or an error."""
    for write, suffix in FORMATS:
        path = tmp_path / f"x{suffix}"
        write(path, OLD)
        before = bench.failures()
        pid = bench.stopped(bench.ask(path))
        change(path, write)
        expected = truth(path)
        os.kill(pid, signal.SIGCONT)
        found = outcome(bench.one)
        assert found in (None, expected), suffix
        assert bench.failures() > before, f"{suffix}: the load of the old file was taken for good"
        write(path, NEW)
        assert bench.one(bench.ask(path)) == [0, VALUES], suffix
        bench.forget(path)
        path.unlink()
    assert "Traceback" not in bench.daemon.log


def test_old_holders_keep_what_they_have(bench: Bench, tmp_path: Path) -> None:
    """A file that changes after its load is a new block; who has the old one reads it on."""
    path = tmp_path / "x.npy"
    npy(path, OLD)
    assert bench.one(f"old = arrayd.get({str(path)!r}); float(old[-1])") == OLD
    for value in (NEW, 3.0, 4.0):
        npy(path, value)
        assert bench.one(f"new = arrayd.get({str(path)!r}); float(new[-1])") == value
        assert bench.one("float(old[0] + old[-1])") == 2 * OLD
    bench.one("del old, new")
    bench.forget(path)


def test_rewrites_as_fast_as_one_can(bench: Bench, tmp_path: Path) -> None:
    """Same size, same tick: what is asked for after a write is what was written."""
    path = tmp_path / "x.npy"
    with arrayd.connect(bench.daemon.endpoint) as client:
        for value in range(60):
            npy(path, float(value), 100)
            assert client.get(path).tolist() == [value] * 100
        client.evict(path)


def test_a_file_that_is_still_written(bench: Bench, tmp_path: Path) -> None:
    """Every beginning of a .npy is BadFile, with the bytes that lack; the whole is loaded."""
    path, whole = tmp_path / "x.npy", tmp_path / "whole.npy"
    npy(whole, OLD, 1000)
    data = whole.read_bytes()
    with arrayd.connect(bench.daemon.endpoint) as client:
        for size in (0, 5, 10, 64, 127, 128, 129, 4000, len(data) - 1):
            path.write_bytes(data[:size])
            with pytest.raises(arrayd.BadFile, match=r"x\.npy"):
                client.get(path)
        path.write_bytes(data)
        assert client.get(path).sum() == 1000 * OLD
        client.evict(path)
        leaves_nothing_behind(client)


def test_a_writer_that_never_rests(bench: Bench, tmp_path: Path) -> None:
    """While another process replaces a file, each answer is one state of it, or an error."""
    path = tmp_path / "x.npy"
    npy(path, 0.0, 1000)
    writer = f"""
import time
end = time.monotonic() + 2
while time.monotonic() < end:
    for value in range(4):
        time.sleep(0.02)
        np.save({str(tmp_path / "next.npy")!r}, np.full(1000, float(value)))
        os.replace({str(tmp_path / "next.npy")!r}, {str(path)!r})
"""
    bench.one.send(writer)
    outcomes = {"array": 0, "error": 0}
    with arrayd.connect(bench.daemon.endpoint) as client:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            try:
                assert len(np.unique(client.get(path))) == 1
                outcomes["array"] += 1
            except (arrayd.SourceChanged, arrayd.SourceNotFound):
                outcomes["error"] += 1
        bench.one.reply()
        assert client.get(path).tolist() == [3.0] * 1000
        assert sum(outcomes.values()) >= 3, outcomes
        client.evict(path)


@pytest.mark.parametrize("change", [rewritten, truncated], ids=lambda f: f.__name__)
def test_wherever_it_was_stopped(
    client: arrayd.Client,
    daemon: Daemon,
    puppets: Stage,
    slow_file: Path,
    tmp_path: Path,
    change: Any,
) -> None:
    """Text that only numpy can divide, changed at any moment of its load: as above."""
    path = tmp_path / "slow.txt"
    path.write_bytes(slow_file.read_bytes())
    one = puppets(daemon)
    code = f"a = arrayd.get({str(path)!r}, quotechar=chr(34)); [len(a), float(a[:, 1].sum())]"
    one.send(code)
    with frozen_load(daemon, client):
        change(path, lambda other, value: other.write_text("2 2 2\n" * SLOW_ROWS))
        values = np.loadtxt(path, usecols=1)
    assert outcome(one) in (None, [len(values), values.sum()])
    assert client.status().counters["failures"] >= 1
    assert one(code) == [len(values), values.sum()]
    one(f"a = None; arrayd.evict({str(path)!r})")
    leaves_nothing_behind(client)
