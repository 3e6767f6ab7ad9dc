"""What becomes of a stream when its files change, its reader dies, or its scratch is no folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.datasets.stream import Stream
from tests.support.daemons import Daemon
from tests.support.processes import children_named, wait_until

ROWS = np.arange(600 * 4, dtype="f8").reshape(600, 4)

SMALL = 3000
"""Bytes of a budget for which a ring has 32 of these rows, and the share as many."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with files of `ROWS`; the cache is there as well."""
    monkeypatch.setenv("ARRAYD_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "x.npy", ROWS)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=ROWS, chunks=(50, 4), compression="gzip")
    return tmp_path


def readers(daemon: Daemon) -> list[int]:
    """Return the daemon's reader processes."""
    return children_named(daemon, "arrayd-reader")


def take(stream: Stream, rows: int) -> None:
    """Go through so many rows, and look at them."""
    for _ in range(0, rows, 8):
        batch = next(stream)
        np.testing.assert_array_equal(batch["x"], ROWS[batch.ids])


@pytest.mark.parametrize("kind", ["rows", "samples"])
def test_files_are_truncated_while_they_are_streamed(
    kind: str, home: Path, daemon: Daemon, client: arrayd.Client
) -> None:
    """The trainer gets a typed error that names the file, nobody a signal, and no wrong rows."""
    paths = [home / "x.npy"]
    if kind == "samples":
        paths = [home / f"sample{row}.npy" for row in range(600)]
        for row, path in enumerate(paths):
            np.save(path, ROWS[row])
        (home / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    source = paths[0] if kind == "rows" else home / "list.txt"
    stream = arrayd.dataset(source, budget=SMALL, client=client).stream(8, seed=1, epochs=3)
    take(stream, 16)
    (reader,) = readers(daemon)
    for path in paths:
        os.truncate(path, 130)
    with pytest.raises(arrayd.SourceChanged, match=r"\.npy.*make the dataset again"):
        take(stream, 600)
    wait_until(lambda: reader not in readers(daemon), "the reader has gone")


def test_a_reader_is_killed(home: Path, daemon: Daemon, client: arrayd.Client) -> None:
    """The trainer gets a typed error; from its state it goes on with the row where it stopped."""
    dataset = arrayd.dataset(home / "x.npy", budget=SMALL, client=client)
    whole = [row for batch in dataset.stream(8, seed=1) for row in batch.ids.tolist()]
    stream = dataset.stream(8, seed=1)
    seen: list[int] = []
    for _ in range(5):
        seen += next(stream).ids.tolist()
    wait_until(lambda: len(readers(daemon)) == 1, "the reader of the whole has gone")
    os.kill(readers(daemon)[0], signal.SIGKILL)
    with pytest.raises(arrayd.LoaderCrashed, match="SIGKILL"):
        for batch in stream:
            seen += batch.ids.tolist()
    again = dataset.stream(8, seed=1)
    again.load_state_dict(stream.state_dict())
    for batch in again:
        seen += batch.ids.tolist()
    assert seen == whole


def test_all_rows_come_once_from_a_pack(home: Path, daemon: Daemon, client: arrayd.Client) -> None:
    """Compressed rows are in the exact order from the first epoch on; later no file is opened."""
    dataset = arrayd.dataset(f"{home}/x.h5:/x", budget=SMALL, client=client)
    plain = arrayd.dataset(home / "x.npy", client=client)
    expected = [row for batch in plain.stream(8, seed=5) for row in batch.ids.tolist()]
    seen: list[int] = []
    for batch in dataset.stream(8, seed=5):
        np.testing.assert_array_equal(batch["x"], ROWS[batch.ids])
        seen += batch.ids.tolist()
    assert seen == expected
    os.rename(home / "x.h5", home / "away.h5")
    take(dataset.stream(8, seed=6), 600)


def test_scratch_is_no_folder(home: Path, daemon: Daemon, client: arrayd.Client) -> None:
    """Where no pack can be made, the error says where it was tried, and what to do."""
    dataset = arrayd.dataset(
        f"{home}/x.h5:/x", budget=SMALL, scratch=str(home / "nowhere"), client=client
    )
    with pytest.raises(arrayd.AccessDenied, match=r"nowhere: no pack .*scratch="):
        take(dataset.stream(8), 600)
