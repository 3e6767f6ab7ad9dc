"""Whatever a file says: the right array, or a typed error, in bounded time and memory."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.errors import ArraydError
from arrayd.source import Source
from tests.faults.hostile_crafted import CRAFTED, Crafted
from tests.faults.hostile_files import Trial, mutants, originals
from tests.faults.hostile_loader import MEMORY
from tests.support.daemons import Daemon
from tests.support.processes import leaves_nothing_behind, save

CASES = 500

# Through a whole daemon: one of each kind, and what is over soon.
WORST = (
    *("huge.npy", "overflow.npy", "negative.npy", "many-axes.npy", "no-bytes.npy", "nested.npy"),
    *("surrogate.npy", "sparse.npy", "one-value.npy", "bomb.npz", "tail.npz", "lzma.npz"),
    "names.npz",
    *("twice.npz", "overlap.npz", "far.npz", "endless.txt", "rows.txt.gz", "long.csv"),
    *("small-chunk-bomb.h5", "tiny-chunks.h5", "empty-overflow.h5", "soft.h5", "external.h5"),
    *("hard.h5", "self.h5", "ring.h5", "stored-zero.h5", "device.h5", "out-of-order.h5"),
)


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    """Give a loader process and an oracle."""
    one = Trial(tmp_path)
    yield one
    one.close()


def kept_its_promises(trial: Trial) -> None:
    """Fail unless all went well, also by the loader's log and memory."""
    trial.loader.close()
    assert trial.violations == [], str(trial)
    assert "Traceback" not in trial.log, trial.log
    assert trial.loader.peak < MEMORY


def test_the_valid_files(trial: Trial, tmp_path: Path) -> None:
    """Unmutated, every file and every way to ask for it gives what numpy or h5py reads."""
    for original in originals(tmp_path):
        for options in original.options:
            source = Source.of(original.path, **options)
            assert trial.attempt(original.path.name, source) == "right array", str(trial)


def test_mutants(trial: Trial, tmp_path: Path) -> None:
    """Bits, sizes, ends and pieces of valid files changed at random: an array, or its error."""
    files = mutants(random.Random(11), tmp_path, originals(tmp_path))
    for _ in range(CASES):
        trial.attempt(*next(files))
    kept_its_promises(trial)
    assert trial.outcomes.total() == CASES
    assert sum(n for what, n in trial.outcomes.items() if "right array" in what) > CASES // 8
    assert sum(n for what, n in trial.outcomes.items() if "BadFile" in what) > CASES // 4
    assert sum(n for what, n in trial.outcomes.items() if "Crashed" in what) < CASES // 50


def test_a_wrong_array_is_noticed(trial: Trial, tmp_path: Path) -> None:
    """The trial can fail: it names what differs from the oracle, and a bug's message."""
    source = Source.of(tmp_path / "x.npy")
    save(tmp_path / "x.npy", np.arange(9))
    right = trial.loader.load

    def wrong(source: Source) -> Any:
        found, array = right(source)
        return found, array + 1

    trial.loader.load = wrong  # type: ignore[method-assign]  # the fault that is planted
    assert trial.attempt("x", source) == "VIOLATION"

    def bug(source: Source) -> Any:
        raise arrayd.LoadError("KeyError. This is a bug in arrayd.")

    trial.loader.load = bug  # type: ignore[method-assign]  # another
    assert trial.attempt("x", source) == "VIOLATION"
    assert len(trial.violations) == 2


def test_crafted_files(trial: Trial, tmp_path: Path) -> None:
    """Lies about size, bombs, cycles, devices: each gives what it may, in bounded memory."""
    failures = []
    for one in CRAFTED:
        path = tmp_path / one.name
        options = one.make(path) or {}
        outcome = trial.attempt(one.name, Source.of(path, **options))
        if outcome not in one.outcomes:
            failures.append(f"{one.name}: {outcome}, not {one.outcomes}")
        path.unlink()
    assert failures == [], str(trial)
    kept_its_promises(trial)


# ---- through a whole daemon ------------------------------------------------------------------


@pytest.fixture
def hostile_daemon(start_daemon: Callable[..., Daemon]) -> Daemon:
    """Give a daemon that trusts little."""
    flags = ("--budget", "64M", "--workers", "2", "--loader-memory", "256M", "--load-timeout", "20")
    return start_daemon(*flags)


def outcome_of(client: arrayd.Client, one: Crafted, path: Path) -> str:
    """Make a file and ask for it; return what came of it, and of its description."""
    options = one.make(path) or {}
    outcome = "right array"
    try:
        client.get(path, **options).tobytes() if "no-bytes" not in one.name else client.get(path)
    except ArraydError as error:
        outcome = type(error).__name__
        assert "bug in arrayd" not in str(error)
        assert len(str(error)) < 5000
    try:
        client.info(path, **options)
    except ArraydError as error:
        assert "bug in arrayd" not in str(error)
    path.unlink()
    client.evict(path) if outcome == "right array" else None
    return outcome


def test_the_worst_through_a_daemon(hostile_daemon: Daemon, tmp_path: Path) -> None:
    """Each gives its client what it may; the daemon lives, serves others, and keeps nothing."""
    honest = tmp_path / "honest.npy"
    values = save(honest, np.arange(1000.0))
    pid = hostile_daemon.pid
    worst = [one for one in CRAFTED if one.name in WORST]
    assert len(worst) == len(WORST)
    with arrayd.connect(hostile_daemon.endpoint) as client:
        failures = []
        for one in worst:
            outcome = outcome_of(client, one, tmp_path / one.name)
            if outcome not in one.outcomes:
                failures.append(f"{one.name}: {outcome}, not {one.outcomes}")
            assert client.get(honest).sum() == values.sum()
        assert failures == []
        client.evict(honest)
        leaves_nothing_behind(client)
        assert client.status().pid == pid
    assert "Traceback" not in hostile_daemon.log
    assert "bug" not in hostile_daemon.log


def test_a_file_that_would_make_its_reader_wait(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """A dataset stored in a pipe that nobody writes to, or linked to one: BadFile, at once."""
    daemon = start_daemon("--budget", "64M", "--workers", "1", "--load-timeout", "60")
    os.mkfifo(tmp_path / "pipe")
    layout = h5py.VirtualLayout((8,), "f8")
    layout[...] = h5py.VirtualSource("pipe", "x", (8,))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        where = [(str(tmp_path / "pipe"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("stored", (8,), "f8", external=where)
        file.create_virtual_dataset("virtual", layout)
        file["linked"] = h5py.ExternalLink("pipe", "/x")
        file["honest"] = np.arange(1000.0)
    with arrayd.connect(daemon.endpoint) as client:
        for name in ("stored", "virtual", "linked"):
            with pytest.raises(arrayd.BadFile, match="pipe is no regular file"):
                client.get(tmp_path / "x.h5", dataset=name)
        assert client.get(tmp_path / "x.h5", dataset="honest").sum() == 499500
        client.evict(tmp_path / "x.h5")
        leaves_nothing_behind(client)
