"""Datasets and streams used as they are not meant to: one typed error each, at once, no hang."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayd
from arrayd.errors import SpecMismatch, StateMismatch

pytestmark = pytest.mark.one_daemon

N = 2000
BUDGETS = pytest.mark.parametrize("budget", [None, "20K"], ids=["resident", "ring"])


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a file of rows that tell their number; the cache is beside it."""
    monkeypatch.setenv("ARRAYD_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "x.npy", np.arange(N * 4, dtype="f8").reshape(N, 4))
    return tmp_path / "x.npy"


@BUDGETS
def test_arguments_are_checked_in_every_plan(
    file: Path, client: arrayd.Client, budget: str | None
) -> None:
    """A script that works on a small set must not fail on its arguments once the set has grown."""
    dataset = arrayd.dataset(file, budget=budget, client=client)
    wrong: list[tuple[str, Any]] = [
        ("consumers", 0),
        ("consumers", "two"),
        ("grace", -1),
        ("grace", float("nan")),
        ("writable", "yes"),
        ("fields", 3),
        ("fields", [[]]),
    ]
    for key, value in wrong:
        with pytest.raises(SpecMismatch, match=f"{key}="):
            dataset.stream(16, **{key: value})
    # More positions than 64 bits count are no end.
    with dataset.stream(16, epochs=10**30) as stream:
        assert len(next(stream).ids) == 16


def test_arguments_of_a_dataset(file: Path, client: arrayd.Client) -> None:
    """What is no size, no folder or no name is named."""
    wrong: dict[str, Any] = {"budget": float("inf"), "scratch": 5}
    for key, value in wrong.items():
        with pytest.raises(SpecMismatch, match=f"{key}={value}"):
            arrayd.dataset(file, client=client, **{key: value})
    column: Any = ["label"]
    with pytest.raises(SpecMismatch, match="no column"):
        arrayd.dataset(file, client=client).column(column)


@BUDGETS
def test_an_empty_selection(file: Path, client: arrayd.Client, budget: str | None) -> None:
    """It says that it is empty, and its plans can be printed."""
    empty = arrayd.dataset(file, budget=budget, client=client)[0:0]
    with pytest.raises(SpecMismatch, match="selection is empty"):
        list(empty.stream(16))
    assert "0 rows" in str(empty.plan(16, plan="row-random"))


def test_more_than_the_daemon_has(file: Path, client: arrayd.Client) -> None:
    """A plan takes what there is, and says how much: no load that cannot succeed is planned."""
    most = client.status().budget
    plan = arrayd.dataset(file, budget=100 * most, client=client).plan(16)
    assert plan.sizes.budget == most


def test_what_is_no_state(file: Path, client: arrayd.Client) -> None:
    """It is refused as such, and the stream is as it was."""
    stream = arrayd.dataset(file, client=client).stream(16)
    states: list[Any] = [None, [], 5, "a path"]
    for state in states:
        with pytest.raises(StateMismatch, match="no state"):
            stream.load_state_dict(state)
    assert next(stream).pos == 0
    with pytest.raises(SpecMismatch, match="epoch="):
        stream.receipt("first")  # type: ignore[arg-type]


def test_a_stream_does_not_travel(file: Path, client: arrayd.Client) -> None:
    """A pool gets the remedy, not the name of a lock."""
    stream = arrayd.dataset(file, client=client).stream(16)
    ways: list[Any] = [pickle.dumps, copy.copy, copy.deepcopy]
    for send in ways:
        with pytest.raises(SpecMismatch, match="state_dict"):
            send(stream)


@BUDGETS
def test_the_cache_folder_is_cleaned(
    file: Path, client: arrayd.Client, tmp_path: Path, budget: str | None
) -> None:
    """A dataset that is open saves its manifest again when it is needed."""
    dataset = arrayd.dataset(file, budget=budget, client=client)
    next(dataset.stream(16, seed=1))
    shutil.rmtree(tmp_path / "cache")
    rows = [row for batch in dataset.stream(64, seed=2) for row in batch.ids.tolist()]
    assert sorted(rows) == list(range(N))
    # A full disk, or a power failure, has cut it off: whoever asks for the dataset gets it again.
    (manifest,) = (tmp_path / "cache").glob("*.manifest")
    os.truncate(manifest, 20)
    dataset = arrayd.dataset(file, budget=budget, client=client)
    rows = [row for batch in dataset.stream(64, seed=2) for row in batch.ids.tolist()]
    assert sorted(rows) == list(range(N))


@BUDGETS
def test_one_thread_at_a_time(
    file: Path, client: arrayd.Client, monkeypatch: pytest.MonkeyPatch, budget: str | None
) -> None:
    """A second thread is refused while the first waits, and costs the first no row.

    Without that, both waited for what only the other's cursor lets come, for ever.
    """
    stream = arrayd.dataset(file, budget=budget, client=client).stream(16, seed=1)
    rows = next(stream).ids.tolist()
    delivery: Any = stream._delivery
    inside, go = threading.Event(), threading.Event()
    fetch = delivery.fetch

    def slow(*args: Any) -> Any:
        inside.set()
        assert go.wait(20)
        return fetch(*args)

    monkeypatch.setattr(delivery, "fetch", slow)
    first = threading.Thread(target=lambda: rows.extend(next(stream).ids.tolist()))
    first.start()
    try:
        assert inside.wait(20)
        with pytest.raises(SpecMismatch, match="one thread"):
            next(stream)
    finally:
        go.set()
        first.join()
    rows += [row for batch in stream for row in batch.ids.tolist()]
    assert sorted(rows) == list(range(N))
