"""Sets larger than memory: speed beside a bare loop, bytes read from the device, CPU time."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arrayd.datasets.plan import Plan, Sizes
from arrayd.datasets.plan_choice import choose
from tests.benchmarks import peers
from tests.benchmarks.bare import BareLoop, reads_of
from tests.benchmarks.files import MIB, PAGE, drop_cache, make_npy
from tests.benchmarks.processes import (
    Consumer,
    Daemon,
    cpu_seconds,
    crew,
    device_reads,
    together,
)
from tests.benchmarks.table import Table, say

BATCH, SEED, ROUNDS = 256, 7, 2
TIMES = 6
"""The set is so many times the budget."""

Found = dict[str, Any]


@dataclass
class LargeSet:
    """A .npy that does not fit the budget.

    Parameters
    ----------
    path
        Of the file.
    rows, size
        Rows, and bytes of a row.
    budget
        Bytes of memory.
    """

    path: Path
    rows: int
    size: int
    budget: int

    @classmethod
    def make(cls, folder: Path, mib: int, size: int) -> LargeSet:
        """Write one of `mib` MiB, of rows of `size` bytes."""
        rows = mib * MIB // size
        return cls(make_npy(folder / f"{size}.npy", rows, size), rows, size, mib * MIB // TIMES)

    @property
    def plan(self) -> Plan:
        """How it is streamed."""
        sizes = Sizes(
            rows=self.rows,
            total=self.rows,
            row_bytes=self.size,
            read_bytes=[self.size],
            step=BATCH,
            budget=self.budget,
        )
        return choose(sizes, "row-random")

    @property
    def slots(self) -> int:
        """Rows of the ring."""
        return self.plan.slots

    @property
    def share(self) -> float:
        """Part of the rows that stay in memory."""
        return self.plan.share / self.rows

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return -(-self.rows // BATCH)

    def spec(self, daemon: Daemon) -> Found:
        """Return what a consumer of it is."""
        return {
            "kind": "arrayd",
            "endpoint": daemon.endpoint,
            "sources": str(self.path),
            "dataset": {"budget": self.budget},
        }

    def options(self, **more: Any) -> Found:
        """Return how it is streamed."""
        return {"batch_size": BATCH, "seed": SEED, "plan": "row-random", **more}


def run(table: Table, folder: Path, daemon: Daemon, mib: int) -> None:
    """Measure the rows 2, 3 and the row-random half of 4."""
    bare = BareLoop(folder)
    for size in (4096, 12288):
        large = LargeSet.make(folder, mib, size)
        used = _speed(table, bare, daemon, large)
        spent = _bytes(table, daemon, large)
        _cpu(table, large, spent, used)
        large.path.unlink()


def _speed(table: Table, bare: BareLoop, daemon: Daemon, large: LargeSet) -> float:
    """Compare an epoch with the bare loop over the same rows; return its CPU seconds per GB."""
    table.head(
        f"2. row-random: {large.rows:,} rows of {large.size >> 10} KiB, {TIMES} × the budget",
        "first epoch, cold: the file was synced and dropped by posix_fadvise(DONTNEED) before each "
        "run;\n   what the host of a virtual machine keeps is beyond reach. The goal is beside "
        "O_DIRECT: buffered\n   reading keeps all pages, so a page with parts of two rows is read "
        "once, outside of any budget",
    )
    reads = reads_of(large.rows, large.size, large.slots, BATCH, SEED)
    seen: dict[str, list[float]] = {"arrayd": [], "buffered": [], "O_DIRECT": []}
    used: list[float] = []
    with Consumer(large.spec(daemon)) as one:
        for _ in range(ROUNDS):
            drop_cache([large.path])
            found = together([one], open=large.options(), batches=None)[0]
            rows, seconds = found["rows"] - found["head"], found["seconds"] - found["first"]
            seen["arrayd"].append(rows * large.size / seconds)
            for name in ("buffered", "O_DIRECT"):
                drop_cache([large.path])
                direct = name == "O_DIRECT"
                spent, cpu = bare.run(large.path, reads, large.size, large.slots, direct=direct)
                seen[name].append(large.rows * large.size / spent)
                if direct:
                    used.append(cpu / (large.rows * large.size / 1e9))
    rates = {name: statistics.median(values) for name, values in seen.items()}
    for name, goal in (("O_DIRECT", 0.8), ("buffered", None)):
        table.line(
            "delivered to one consumer",
            f"{rates['arrayd'] / 1e6:.0f} MB/s",
            f"{bare.name}, {name} {rates[name] / 1e6:.0f} MB/s",
            rates["arrayd"] / rates[name],
            least=goal,
        )
    return statistics.median(used)


def _bytes(table: Table, daemon: Daemon, large: LargeSet) -> dict[int, float]:
    """Count bytes of two epochs, for one consumer and two; return their CPU seconds per GB."""
    table.head(
        "3. bytes read from the device, first and second epoch together",
        f"/proc/PID/io of daemon and reader; resident share {large.share:.0%}; a row of "
        f"{large.size:,} bytes after a header of 128 touches pages of {large.size + PAGE - 1:,}",
    )
    read: dict[int, int] = {}
    spent = {}
    for consumers in (1, 2):
        drop_cache([large.path])
        used, before = cpu_seconds(daemon.pids), device_reads(daemon.pids)
        with crew([large.spec(daemon)] * consumers) as crowd:
            options = large.options(epochs=2, consumers=consumers)
            found = together(crowd, open=options, batches=2 * large.batches)
            # The streams are open still: so the reader runs, and can be asked.
            read[consumers] = device_reads(daemon.pids) - before
            used = cpu_seconds(daemon.pids) - used + sum(one["cpu"] for one in found)
            together(crowd, gone=True)
        spent[consumers] = used / (sum(one["rows"] for one in found) * large.size / 1e9)
    right = (2 - large.share) * large.rows * (large.size + PAGE - 1)
    table.line(
        "one consumer",
        f"{read[1] / 1e6:.0f} MB",
        f"rows not resident, in pages {right / 1e6:.0f} MB",
        read[1] / right,
        most=1.02,
    )
    table.line(
        "two consumers of one stream",
        f"{read[2] / 1e6:.0f} MB",
        f"one consumer {read[1] / 1e6:.0f} MB",
        read[2] / read[1],
        most=1.02,
    )
    return spent


def _cpu(table: Table, large: LargeSet, spent: dict[int, float], bare: float) -> None:
    """Compare CPU time with torch's DataLoader over np.memmap."""
    table.head("4. CPU seconds per GB delivered, row-random: daemon, reader and consumers")
    if not peers.installed("torch"):
        say("  (torch is not installed: no DataLoader beside it)")
        return
    drop_cache([large.path])
    path = str(large.path)
    spec = {"kind": "loader", "path": path, "batch": BATCH, "workers": 2, "most": 80}
    with Consumer(spec) as one:
        found = together([one])[0]
    theirs = found["cpu"] * 1e9 / (found["rows"] * large.size)
    for consumers, used in spent.items():
        table.line(
            "one consumer" if consumers == 1 else f"{consumers} consumers",
            f"{used:.3f} s/GB",
            f"DataLoader, 2 workers, cold {theirs:.3f} s/GB",
            used / theirs,
            most=0.2,
        )
    text = f"DataLoader, 2 workers, cold {theirs:.3f} s/GB"
    table.line("the bare loop, O_DIRECT", f"{bare:.3f} s/GB", text, bare / theirs)
