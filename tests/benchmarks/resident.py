"""Rows that fit in memory: arrayd beside ``np.take`` on plain shared memory, and the peers."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import peers
from tests.benchmarks.files import MIB, make_npy, row_values
from tests.benchmarks.processes import Consumer, Daemon, cpu_seconds, crew, together
from tests.benchmarks.table import Table, say

ROW, BATCH, ROUNDS = 4096, 256, 7
Found = dict[str, Any]


@contextlib.contextmanager
def plain_memory(rows: int) -> Iterator[str]:
    """Hold the same rows in shared memory of the standard library; give its name."""
    memory = shared_memory.SharedMemory(create=True, size=rows * ROW)
    try:
        array = np.ndarray((rows, ROW // 8), np.int64, memory.buf)
        for first in range(0, rows, 4096):
            array[first : first + 4096] = row_values(first, min(4096, rows - first), ROW)
        del array
        yield memory.name
    finally:
        memory.close()
        memory.unlink()


def rate(found: Sequence[Found]) -> float:
    """Return the bytes per second of consumers that worked at once."""
    rows: int = sum(one["rows"] for one in found)
    seconds: float = max(one["seconds"] for one in found)
    return rows * ROW / seconds


def run(table: Table, folder: Path, daemon: Daemon, mib: int) -> None:
    """Measure row 1 of the table, and the resident half of row 4."""
    rows = mib * MIB // 2 // ROW
    table.head(
        f"1. resident: {rows:,} rows of 4 KiB, batches of {BATCH}",
        f"medians of {ROUNDS} epochs in turn; np.take knows its permutation, arrayd computes it",
    )
    path = make_npy(folder / "resident.npy", rows, ROW)
    ours = {
        "kind": "arrayd",
        "endpoint": daemon.endpoint,
        "sources": str(path),
        "dataset": {"budget": 2 * rows * ROW},
    }
    with plain_memory(rows) as segment:
        theirs = {
            "kind": "take",
            "segment": segment,
            "rows": rows,
            "row_bytes": ROW,
            "batch": BATCH,
        }
        alone = _in_turn(table, daemon, ours, theirs, rows, 1)
        pair = _in_turn(table, daemon, ours, theirs, rows, 2)
    _beside_loader(table, daemon, path, alone)
    _beside_socket(table, path, 1, alone)
    _beside_socket(table, path, 2, pair)
    path.unlink()


def _in_turn(
    table: Table, daemon: Daemon, ours: Found, theirs: Found, rows: int, consumers: int
) -> Found:
    """Compare arrayd with np.take, with so many consumers at once."""
    rates: dict[str, list[float]] = {"arrayd": [], "take": []}
    ratios, cpu, bare_cpu = [], 0.0, 0.0
    with crew([ours] * consumers) as our, crew([theirs] * consumers) as their:
        together(our, open={"batch_size": BATCH, "seed": 7, "epochs": None})
        task = {"batches": -(-rows // BATCH)}
        together(our, **task), together(their, **task)  # faults its pages in
        before = cpu_seconds(daemon.pids)
        for _ in range(ROUNDS):
            found, bare = together(our, **task), together(their, **task)
            rates["arrayd"].append(rate(found))
            rates["take"].append(rate(bare))
            ratios.append(rates["arrayd"][-1] / rates["take"][-1])
            cpu += sum(one["cpu"] for one in found)
            bare_cpu += sum(one["cpu"] for one in bare)
        cpu += cpu_seconds(daemon.pids) - before
    arrayd, take = (statistics.median(rates[name]) for name in ("arrayd", "take"))
    name = "one consumer" if consumers == 1 else f"{consumers} consumers at once"
    table.line(
        name,
        f"{arrayd / 1e9:.2f} GB/s",
        f"np.take {take / 1e9:.2f} GB/s",
        statistics.median(ratios),
        least=0.9,
    )
    best = max(rates["arrayd"]) / max(rates["take"])
    table.line(f"{name}, best epoch of each", "", "", best)
    delivered = ROUNDS * consumers * rows * ROW / 1e9
    used, right = cpu / delivered, bare_cpu / delivered
    text = f"np.take {right:.3f} s/GB"
    table.line(f"{name}, CPU time (take / arrayd)", f"{used:.3f} s/GB", text, right / used)
    return {"rate": arrayd, "cpu": used}


def _beside_loader(table: Table, daemon: Daemon, path: Path, alone: Found) -> None:
    """Compare with torch's DataLoader; also in CPU time."""
    if not peers.installed("torch"):
        say("  (torch is not installed: no DataLoader beside it)")
        return
    spec = {"kind": "loader", "path": str(path), "batch": BATCH, "workers": 2, "most": 1 << 40}
    names = {False: "DataLoader, 2 workers", True: "DataLoader, 2 workers, __getitems__"}
    for batched, name in names.items():
        with Consumer({**spec, "batched": batched}) as one:
            found = [together([one])[0] for _ in range(2)]
        best = max(rate([epoch]) for epoch in found)
        spent = min(epoch["cpu"] * 1e9 / (epoch["rows"] * ROW) for epoch in found)
        goal = None if batched else 5.0
        text = f"{name} {best / 1e9:.2f} GB/s"
        table.line(
            "one consumer",
            f"{alone['rate'] / 1e9:.2f} GB/s",
            text,
            alone["rate"] / best,
            least=goal,
        )
        table.line(
            "CPU seconds per GB (row 4), one consumer",
            f"{alone['cpu']:.3f} s/GB",
            f"{name} {spent:.3f} s/GB",
            alone["cpu"] / spent,
            most=None if batched else 0.2,
        )


def _beside_socket(table: Table, path: Path, consumers: int, ours: Found) -> None:
    """Compare with TensorSocket: one producer, so many consumers."""
    if not peers.installed("tensorsocket"):
        say("  (tensorsocket is not installed: nothing beside it)")
        return
    ports, batches = peers.free_ports(4), 32
    spec = {"kind": "tensorsocket", "batch": BATCH, "ports": ports, "most": batches}
    made = {"path": str(path), "batch": BATCH, "ports": ports, "rows": batches * BATCH}
    # With two consumers and no worker, one of them stands still.
    made["workers"] = 0 if consumers == 1 else 2
    producer = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.peers", json.dumps(made)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with crew([spec] * consumers) as crowd:
            theirs = rate(together(crowd))
    except RuntimeError as error:
        say(f"  (TensorSocket gave no epoch to {consumers} consumers: {error})")
        return
    finally:
        assert producer.stdin is not None
        producer.stdin.close()  # it ends, and its workers
        producer.wait()
    name = "one consumer" if consumers == 1 else f"{consumers} consumers at once"
    table.line(
        name,
        f"{ours['rate'] / 1e9:.2f} GB/s",
        f"TensorSocket {theirs / 1e9:.3f} GB/s",
        ours["rate"] / theirs,
        least=50,
    )
