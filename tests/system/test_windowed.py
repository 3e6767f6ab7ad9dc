"""Streams without scratch space: the rows of each window are decoded anew, in the exact order."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.samples.receipt import verify
from arrayd.samples.selection import Rows
from tests.support.daemons import Daemon
from tests.support.processes import Stage, leaves_nothing_behind
from tests.support.streams import checked, right_order

SEED = 11
KINDS = {"gzip": 2000, "text": 2000, "list": 200}
"""Rows of each kind of files."""

BUDGET = 39
"""Bytes for each row, which has 40."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder; the cache is there as well."""
    monkeypatch.setenv("ARRAYD_CACHE", str(tmp_path / "cache"))
    return tmp_path


def made(home: Path, client: arrayd.Client, kind: str) -> arrayd.Dataset:
    """Return a dataset of rows that tell their number, of which a part fits the budget."""
    n = KINDS[kind]
    x = np.arange(n * 4, dtype="f8").reshape(n, 4)
    options: dict[str, Any] = {}
    np.save(home / "y.npy", np.arange(n))
    sources: Any = {"x": home / "x.txt", "y": home / "y.npy"}
    if kind == "gzip":
        with h5py.File(home / "z.h5", "w") as file:
            file.create_dataset("x", data=x, chunks=(64, 4), compression="gzip")
        sources["x"] = f"{home}/z.h5:/x"
    elif kind == "text":
        np.savetxt(home / "x.txt", x, fmt="%d")
        options = {"dtype": "f8"}
        sources = sources["x"]
    else:
        for number in range(n):
            np.save(home / f"{number}.npy", x[number])
        (home / "samples.lst").write_text("".join(f"{number}.npy\n" for number in range(n)))
        sources["x"] = home / "samples.lst"
    return arrayd.dataset(sources, client=client, budget=n * BUDGET, **options)


def right(n: int, epoch: int = 0) -> list[int]:
    """Return the rows of an epoch in their order."""
    return right_order(n, SEED, epoch)


def consumed(client: arrayd.Client, stream: Any, rows: int) -> tuple[list[int], int]:
    """Return the rows of a stream, and how many bytes its reader has read or decoded for them."""
    seen: list[int] = []
    while len(seen) < rows:
        seen += checked(next(stream))
    (one,) = client.status().streams
    assert next(stream, None) is None
    return seen, one.bytes_read


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_is_that_of_all_plans(home: Path, client: arrayd.Client, kind: str) -> None:
    """Each row once per epoch, with the receipt of other plans; what is decoded is as planned."""
    dataset, n = made(home, client, kind), KINDS[kind]
    plan, before = dataset.plan(16, plan="windowed", fields="x"), {*(home / "cache").iterdir()}
    assert plan.kind == "windowed"
    assert f" {plan.decodes:.1f} times per" in str(plan)
    decoded = {}
    for epochs in (1, 3):
        stream = dataset.stream(16, seed=SEED, epochs=epochs, plan="windowed", fields="x")
        seen, decoded[epochs] = consumed(client, stream, epochs * n)
        assert seen == [row for epoch in range(epochs) for row in right(n, epoch)]
    assert plan.reads[0] == pytest.approx((decoded[3] - decoded[1]) / 2, rel=0.1)
    assert {*(home / "cache").iterdir()} == before
    stream = dataset.stream(16, seed=SEED, plan="windowed")
    packed = dataset.stream(16, seed=SEED, plan="lazy pack")
    assert consumed(client, stream, n)[0] == consumed(client, packed, n)[0] == right(n)
    one, other = stream.receipt(0), packed.receipt(0)
    assert (one.plan, other.plan, one.sha256) == ("windowed", "lazy pack", other.sha256)
    verify(one, Rows(n), dataset.fingerprint)
    leaves_nothing_behind(client)


def test_without_room_it_is_said(
    home: Path, client: arrayd.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner looks first: then rows are decoded for each window, with a warning, or not."""
    dataset, n = made(home, client, "gzip"), KINDS["gzip"]
    assert dataset.plan(16).kind == "lazy pack"
    full = SimpleNamespace(f_bavail=1, f_frsize=4096)
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: full)
        text = str(dataset.plan(16))
        assert text.startswith("windowed: ")
        assert f"{home}/cache has 4.0 KiB free" in text
        words = r"no room.* times per epoch.*scratch="
        with pytest.warns(arrayd.PlanWarning, match=words) as caught:
            stream = dataset.stream(16, seed=SEED)
        assert [one.filename for one in caught] == [__file__]
        assert consumed(client, stream, n)[0] == right(n)
        with pytest.raises(arrayd.NoRoom, match="plan='windowed'"):
            dataset.stream(16, plan="lazy pack")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dataset.stream(16, seed=SEED, plan="windowed").close()
    consumed(client, dataset.stream(16, seed=SEED), n)
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    assert dataset.plan(16).kind == "lazy pack"  # it is written: no more room is needed


def test_consumers_share_what_is_decoded(
    home: Path, daemon: Daemon, client: arrayd.Client, puppets: Stage
) -> None:
    """Two at their own pace cost the decoding of one, and a restart of the daemon no rows."""
    dataset, n = made(home, client, "gzip"), KINDS["gzip"]
    _, alone = consumed(client, dataset.stream(16, seed=SEED, plan="windowed"), n)
    other = puppets(daemon)
    other(
        f"ds = arrayd.dataset({{'x': '{home}/z.h5:/x', 'y': '{home}/y.npy'}}, budget={n * BUDGET});"
        f"s = ds.stream(50, seed={SEED}, consumers=2, plan='windowed')"
    )
    other.send("[int(row) for batch in s for row in batch.ids]")
    mine = dataset.stream(16, seed=SEED, consumers=2, plan="windowed")
    seen, both = consumed(client, mine, n)
    assert seen == other.reply() == right(n)
    assert both < 1.5 * alone
    stream = dataset.stream(16, seed=SEED, plan="windowed")
    seen = [row for _ in range(30) for row in checked(next(stream))]
    daemon.kill()
    daemon.start()
    seen += [row for batch in stream for row in checked(batch)]
    assert seen == right(n)
