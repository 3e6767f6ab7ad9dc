"""Streams through a ring: what does not fit in memory comes in the same order, once, for all."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.samples.order import EpochOrder
from arrayd.samples.receipt import merge, verify
from arrayd.samples.selection import Rows
from tests.support.daemons import Daemon
from tests.support.processes import Stage, leaves_nothing_behind, wait_until
from tests.support.streams import checked, right_order

pytestmark = pytest.mark.one_daemon

N = 3000
SEED = 11


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with files of rows that tell their number; the cache is there as well."""
    monkeypatch.setenv("ARRAYD_CACHE", str(tmp_path / "cache"))
    x = np.arange(N * 4, dtype="f8").reshape(N, 4)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(N, dtype="i4"))
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["x"], file["y"] = x, np.arange(N)
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, part in enumerate(np.array_split(x, 7)):
        np.save(shards / f"{number}.npy", part)
    return tmp_path


@pytest.fixture
def dataset(home: Path, client: arrayd.Client) -> arrayd.Dataset:
    """Give a dataset of two fields, of which a small part fits its budget."""
    sources = {"x": home / "x.npy", "y": home / "y.npy"}
    return arrayd.dataset(sources, budget="100K", client=client)


def right(n: int = N, epoch: int = 0, seed: int = SEED) -> list[int]:
    """Return the rows of an epoch in their order."""
    return right_order(n, seed, epoch)


def consumers(client: arrayd.Client) -> int:
    """Return how many consumers the daemon knows."""
    return sum(len(stream.consumers) for stream in client.status().streams)


def test_it_is_chosen_for_what_does_not_fit(dataset: arrayd.Dataset) -> None:
    """Each row comes once per epoch, in the order that it has in memory, over several rings."""
    plan = dataset.plan(16)
    assert plan.kind == "row-random"
    assert plan.slots < N / 8
    stream = dataset.stream(16, seed=SEED, epochs=3)
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for batch in stream:
        seen[batch.epoch] += checked(batch)
    assert [seen[epoch] == right(epoch=epoch) for epoch in range(3)] == [True] * 3
    for epoch in range(3):
        verify(stream.receipt(epoch), Rows(N), dataset.fingerprint)


@pytest.mark.parametrize("kind", ["plain", "shards"])
def test_other_files(home: Path, client: arrayd.Client, kind: str) -> None:
    """Contiguous HDF5 and the rows of several files are read in place as well."""
    sources: Any = f"{home}/shards/*.npy"
    if kind == "plain":
        sources = {"x": f"{home}/plain.h5:/x", "y": f"{home}/plain.h5:/y"}
    dataset = arrayd.dataset(sources, client=client, budget="100K", cast={"x": "f4"})
    seen = [row for batch in dataset.stream(16, seed=SEED) for row in checked(batch)]
    assert seen == right()


@pytest.mark.parametrize("kind", ["gzip", "text", "list"])
def test_files_that_must_be_decoded(home: Path, client: arrayd.Client, kind: str) -> None:
    """Each is decoded once, into a pack that later epochs and later runs read."""
    n = 300 if kind == "list" else N
    x = np.arange(N * 4, dtype="f8").reshape(N, 4)
    options: dict[str, Any] = {}
    if kind == "gzip":
        with h5py.File(home / "z.h5", "w") as file:
            file.create_dataset("x", data=x, chunks=(64, 4), compression="gzip")
        sources: Any = {"x": f"{home}/z.h5:/x", "y": home / "y.npy"}
    elif kind == "text":
        np.savetxt(home / "x.txt", x, fmt="%d")
        sources, options = {"x": home / "x.txt"}, {"dtype": "f8"}
    else:
        for number in range(n):
            np.save(home / f"{number}.npy", x[number])
        (home / "samples.lst").write_text("".join(f"{number}.npy\n" for number in range(n)))
        sources = home / "samples.lst"
    dataset = arrayd.dataset(sources, client=client, budget=n * 30, **options)
    order = right(n)
    stream = dataset.stream(16, seed=SEED, epochs=2, plan="row-random")
    seen = [row for batch in stream for row in checked(batch)]
    assert seen == order + right(n, epoch=1)
    packs = list((home / "cache").glob("*.pack*"))
    assert packs
    again = dataset.stream(16, seed=SEED, plan="row-random")
    assert [row for batch in again for row in checked(batch)] == order
    assert list((home / "cache").glob("*.pack*")) == packs


def test_odd_batches_and_selections(dataset: arrayd.Dataset) -> None:
    """Batches that wrap around the ring, and selections of any kind, are what they should be."""
    part = dataset[5:2500].filter(np.arange(2495) % 3 != 0)
    order = EpochOrder(part.rows, SEED, 0).window(0, len(part)).tolist()
    for size in (1, 7, 23):
        some = part if size > 1 else part[:50]
        seen = [row for batch in some.stream(size, seed=SEED) for row in checked(batch)]
        chosen = set(some.ids.tolist())
        assert seen == [row for row in order if row in chosen]


def test_fields_and_columns(dataset: arrayd.Dataset) -> None:
    """Only the fields that are asked for are read."""
    batch = next(dataset.stream(16, seed=SEED, fields="y"))
    assert list(batch) == ["y"]
    assert batch["y"].tolist() == batch.ids.tolist() == right()[:16]


def test_lost_bits_are_warned_of(home: Path, client: arrayd.Client) -> None:
    """A cast that rounds causes one warning, at the caller's line; one that overflows, an error."""
    sources = {"x": home / "x.npy", "y": home / "y.npy"}
    rounded = arrayd.dataset(sources, budget="90K", cast={"x": "f2"}, client=client)
    with pytest.warns(
        arrayd.PrecisionWarning, match="cannot hold all values as they are: "
    ) as caught:
        rows = [batch.ids for batch in rounded.stream(16, seed=SEED, plan="row-random")]
    assert len(np.concatenate(rows)) == N
    assert [one.filename for one in caught] == [__file__]
    beyond = arrayd.dataset(sources, budget="90K", cast={"y": "i1"}, client=client)
    with pytest.raises(arrayd.CastError, match="y"):
        next(beyond.stream(16, seed=SEED, plan="row-random"))


def test_what_is_written_is_private(dataset: arrayd.Dataset) -> None:
    """A writable batch belongs to its process, and its memory shows the next rows untouched."""
    seen = []
    with pytest.raises(ValueError, match="read-only"):
        next(dataset.stream(16, seed=SEED))["x"][:] = 0
    for batch in dataset.stream(16, seed=SEED, epochs=2, writable=True):
        seen += checked(batch)
        batch["x"][:] = -1
        batch["y"][:] = -1
    assert seen == right() + right(epoch=1)


def test_two_processes_read_once(
    home: Path, daemon: Daemon, client: arrayd.Client, dataset: arrayd.Dataset, puppets: Stage
) -> None:
    """Two consumers of one stream, at their own pace, cause the reads of one."""
    code = (
        f"ds = arrayd.dataset({{'x': '{home}/x.npy', 'y': '{home}/y.npy'}}, budget='100K');"
        f"s = ds.stream(16, seed={SEED}, epochs=1, consumers=2)"
    )
    other = puppets(daemon)
    other(code)
    mine = dataset.stream(16, seed=SEED, consumers=2)
    other.send("[int(row) for batch in s for row in batch.ids]")
    seen = [row for batch in mine for row in checked(batch)]
    assert seen == other.reply() == right()


def test_ranks_share_a_stream(dataset: arrayd.Dataset) -> None:
    """Data-parallel ranks read one ring, get their part each, and agree on the receipt."""
    streams = [dataset.stream(8, seed=SEED, rank=r, world=3) for r in range(3)]
    seen: list[list[int]] = [[], [], []]
    for step in zip(*streams, strict=False):
        for rank, batch in enumerate(step):
            seen[rank] += checked(batch)
    for rank, stream in enumerate(streams):
        seen[rank] += [row for batch in stream for row in checked(batch)] if len(stream) else []
    assert sorted(row for rows in seen for row in rows) == list(range(N))
    assert merge([stream.receipt(0) for stream in streams]).complete


def test_it_resumes_in_the_middle(dataset: arrayd.Dataset) -> None:
    """A state goes on at the next row, with another batch size."""
    first = dataset.stream(16, seed=SEED)
    seen = [row for _ in range(20) for row in checked(next(first))]
    state = first.state_dict()
    first.close()
    second = dataset.stream(50, seed=SEED)
    second.load_state_dict(state)
    seen += [row for batch in second for row in checked(batch)]
    assert seen == right()
    assert second.receipt(0).complete


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1], ids=["killed", "handed over"])
def test_the_daemon_starts_again(daemon: Daemon, dataset: arrayd.Dataset, number: int) -> None:
    """A stream goes on where it was: no row is lost or repeated, and no error is seen."""
    stream = dataset.stream(16, seed=SEED)
    seen = [row for _ in range(30) for row in checked(next(stream))]
    if number == signal.SIGKILL:
        daemon.kill()
    else:
        daemon.stop(number)
    daemon.start()
    seen += [row for batch in stream for row in checked(batch)]
    assert seen == right()


def test_a_stream_that_is_dropped_ends(client: arrayd.Client, dataset: arrayd.Dataset) -> None:
    """Closed, dropped or used up, a stream leaves no consumer, no ring and no reader."""
    stream = dataset.stream(16, seed=SEED)
    next(stream)
    assert consumers(client) == 1
    del stream
    gc.collect()
    wait_until(lambda: consumers(client) == 0, "the dropped consumer is gone")
    with dataset.stream(16, seed=SEED) as stream:
        next(stream)
    for batch in dataset[:100].stream(16, seed=SEED, plan="row-random"):
        del batch  # it is a view of the ring
    leaves_nothing_behind(client)


@contextlib.contextmanager
def still(pid: int) -> Iterator[None]:
    """Let a process stand still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_a_consumer_that_stands_still(
    home: Path, daemon: Daemon, dataset: arrayd.Dataset, puppets: Stage, end: str
) -> None:
    """It holds up the others for its grace time at most, and misses nothing when it goes on."""
    other = puppets(daemon)
    other(
        f"ds = arrayd.dataset({{'x': '{home}/x.npy', 'y': '{home}/y.npy'}}, budget='100K');"
        f"s = ds.stream(16, seed={SEED}, consumers=2, grace=0.3)"
    )
    other.send("[int(row) for _ in range(3) for row in next(s).ids]")
    mine = dataset.stream(16, seed=SEED, consumers=2, grace=0.3)
    seen = checked(next(mine))
    assert other.reply() == right()[:48]
    if end == "killed":
        other.kill()
        seen += [row for batch in mine for row in checked(batch)]
    else:
        with still(other.pid):
            seen += [row for batch in mine for row in checked(batch)]
        rest = other(
            "[int(row) for batch in s for row in batch.ids if (batch['y'] == batch.ids).all()]"
        )
        assert right()[:48] + rest == right()
    assert seen == right()


def test_a_file_that_changes(home: Path, dataset: arrayd.Dataset) -> None:
    """Neither a file that was written to nor one that was cut off is delivered, nor crashes."""
    stream = dataset.stream(16, seed=SEED, epochs=None)
    next(stream)
    os.truncate(home / "x.npy", 4000)
    with pytest.raises(arrayd.SourceError, match=r"x\.npy"):
        for batch in stream:
            checked(batch)
