"""Files that cannot be read row by row: compressed HDF5, and one file per sample."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import arrayd
from arrayd.samples.order import EpochOrder
from arrayd.samples.selection import Rows
from tests.benchmarks.bare import windows_of
from tests.benchmarks.files import MIB, drop_cache
from tests.benchmarks.processes import Consumer, Daemon, together
from tests.benchmarks.table import Table
from tests.benchmarks.watch import IN_ACCESS, IN_OPEN, Watch

BATCH, SEED, TIMES = 128, 7, 6
ROW, CHUNK = 12288, 64
"""Bytes of a row, and rows of a chunk, of the HDF5 file."""

FILES, SAMPLE = 100_000, 512
"""Files of one sample each, and bytes of a sample."""

Found = dict[str, Any]


def gzip(table: Table, folder: Path, daemon: Daemon, mib: int) -> None:
    """Measure row 5."""
    rows = mib * MIB // 2 // ROW
    path = _make_hdf5(folder / "train.h5", rows)
    table.head(
        f"5. gzip: {rows:,} rows of 12 KiB in chunks of {CHUNK}, {TIMES} × the budget, cold",
        "decodes: bytes that the reader says it read, less the rows that came from the pack",
    )
    bare = _h5py_rows(path, rows)
    budget = rows * ROW // TIMES
    spec: Found = {
        "kind": "arrayd",
        "endpoint": daemon.endpoint,
        "sources": {"x": f"{path}:/x"},
        "dataset": {"budget": budget, "scratch": str(folder)},
    }
    options = {"batch_size": BATCH, "seed": SEED, "plan": "row-random", "epochs": 2}
    batches = -(-rows // BATCH)
    drop_cache([path])
    with Consumer(spec) as one, arrayd.connect(daemon.endpoint) as client:
        first = together([one], open=options, batches=batches)[0]
        (stream,) = client.status().streams
        dataset = arrayd.dataset(spec["sources"], client=client, **spec["dataset"])
        slots = dataset.plan(BATCH, plan="row-random").slots
        with Watch([path], IN_ACCESS) as watch:
            second = together([one], batches=batches)[0]
    # What was read of the second epoch already came from the pack, as did rows of known chunks.
    again = _rows_of_known_chunks(rows, slots) + max(0, stream.head - rows)
    decodes = (stream.bytes_read - again * ROW) / (rows * ROW)
    table.line("decodes per chunk, first epoch", f"{decodes:.3f}", "once 1", decodes, most=1.02)
    reads = watch.events
    table.line("reads of the file, second epoch", f"{reads}", "none 0", reads, most=0)
    for name, found, goal in (("first", first, None), ("second", second, 100)):
        rate = found["rows"] / found["seconds"]
        table.line(
            f"{name} epoch",
            f"{rate:,.0f} rows/s",
            f"h5py, random rows {bare:,.0f} rows/s",
            rate / bare,
            least=goal,
        )


def _make_hdf5(path: Path, rows: int) -> Path:
    """Write rows that begin with their number and compress to a part of their size."""
    with h5py.File(path, "w") as file:
        chunks = (CHUNK, ROW // 8)
        made = file.create_dataset(
            "x", (rows, ROW // 8), np.int64, chunks=chunks, compression="gzip", compression_opts=1
        )
        for at in range(0, rows, 512):
            count = min(512, rows - at)
            some = np.random.default_rng(at).integers(0, 256, (count, ROW // 8))
            some[:, 0] = np.arange(at, at + count)
            made[at : at + count] = some
    return path


def _h5py_rows(path: Path, rows: int, seconds: float = 3.0) -> float:
    """Return the random rows per second of h5py."""
    drop_cache([path])
    ids = np.random.default_rng(0).permutation(rows).tolist()
    done, began = 0, time.perf_counter()
    with h5py.File(path) as file:
        data = file["x"]
        while (spent := time.perf_counter() - began) < seconds and done < rows:
            data[ids[done]]
            done += 1
    return done / spent


def _rows_of_known_chunks(rows: int, slots: int) -> int:
    """Return the rows of the first epoch whose chunk an earlier window decoded."""
    order = EpochOrder(Rows(rows), SEED, 0)
    known = np.zeros(-(-rows // CHUNK), bool)
    again = 0
    for start, stop in windows_of(rows, slots, BATCH):
        chunks = order.window(start, stop).view(np.int64) // CHUNK
        again += int(known[chunks].sum())
        known[chunks] = True
    return again


def files(table: Table, folder: Path, daemon: Daemon, mib: int) -> None:
    """Measure row 6."""
    count = min(FILES, FILES * mib // 512)
    table.head(
        f"6. {count:,} files of one sample of {SAMPLE} bytes, {TIMES} × the budget",
        "opened: as inotify tells of the folder",
    )
    place, names = _make_samples(folder, count)
    began = time.perf_counter()
    with arrayd.connect(daemon.endpoint) as client:
        dataset = arrayd.dataset(str(names), client=client, budget=count * SAMPLE // TIMES)
        assert len(dataset) == count
    scan = time.perf_counter() - began
    table.line(f"scan of {count:,} files", f"{scan:.2f} s", "goal 10 s", scan / 10, most=1)
    bare = _np_load_files(place, count)
    spec: Found = {
        "kind": "arrayd",
        "endpoint": daemon.endpoint,
        "sources": str(names),
        "dataset": {"budget": count * SAMPLE // TIMES, "scratch": str(folder)},
    }
    options = {"batch_size": BATCH, "seed": SEED, "plan": "row-random", "epochs": 2}
    batches = -(-count // BATCH)
    with Consumer(spec) as one:
        first = together([one], open=options, batches=batches)[0]
        with Watch([place], IN_OPEN) as watch:
            second = together([one], batches=batches)[0]
    opened = watch.events
    table.line("files opened in the second epoch", f"{opened}", "none 0", opened, most=0)
    for name, found in (("first", first), ("second", second)):
        rate = found["rows"] / found["seconds"]
        text = f"np.load of each file {bare:,.0f} rows/s"
        table.line(f"{name} epoch", f"{rate:,.0f} rows/s", text, rate / bare)


def _make_samples(folder: Path, count: int) -> tuple[Path, Path]:
    """Write files of one sample each, whose first word is its number, and the list of them."""
    place, names = folder / "samples", folder / "samples.txt"
    place.mkdir()
    np.save(folder / "one.npy", np.zeros(SAMPLE // 8, np.int64))
    header = (folder / "one.npy").read_bytes()[:-SAMPLE]
    values = np.zeros(SAMPLE // 8, np.int64)
    with names.open("w") as listed:
        for number in range(count):
            values[:] = number
            (place / f"{number}.npy").write_bytes(header + values.tobytes())
            listed.write(f"{place}/{number}.npy\n")
    return place, names


def _np_load_files(place: Path, count: int, most: int = 5000) -> float:
    """Return the files per second of np.load, in random order, from the page cache."""
    ids = np.random.default_rng(0).permutation(count)[:most].tolist()
    began = time.perf_counter()
    for number in ids:
        np.load(place / f"{number}.npy")
    return len(ids) / (time.perf_counter() - began)
