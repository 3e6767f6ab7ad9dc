"""Memory of a stream for one, two and four consumers; how soon the first batch comes."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from tests.benchmarks.bare import BareLoop, one_by_one, reads_of
from tests.benchmarks.disk import BATCH, LargeSet
from tests.benchmarks.files import MIB, cached_bytes, drop_cache, segment_bytes
from tests.benchmarks.processes import Consumer, Daemon, crew, private_bytes, pss_bytes, together
from tests.benchmarks.table import Table

SIZE = 4096
Found = dict[str, Any]


def memory(table: Table, folder: Path, daemon: Daemon, mib: int) -> None:
    """Measure row 7."""
    large = LargeSet.make(folder, mib, SIZE)
    table.head(
        f"7. memory in mid-epoch: set {mib} MiB, budget {large.budget / MIB:.0f} MiB",
        "proportional set size of daemon, reader and consumers; + what no process maps of the "
        "segments; + pages of\n   the file in the page cache (mincore). An interpreter is one that "
        "has imported arrayd and is connected",
    )
    with Consumer(large.spec(daemon)) as first:
        together([first], open=large.options(), batches=1)
    daemon.stop()  # it has compiled its modules, as an installed package does not
    daemon.start()
    drop_cache([large.path])
    with crew([{"kind": "nothing", "endpoint": daemon.endpoint}] * 2) as idle:
        together(idle)
        interpreter = private_bytes([one.pid for one in idle]) // 2
    totals, own = {}, {}
    for consumers in (1, 2, 4):
        with crew([large.spec(daemon)] * consumers) as crowd:
            options = large.options(epochs=3, consumers=consumers)
            together(crowd, open=options, batches=large.batches * 3 // 2)
            pids = [one.pid for one in crowd]
            own[consumers] = private_bytes(pids)
            cached = cached_bytes([large.path])
            pss, shared = pss_bytes([*pids, *daemon.pids])
            unmapped = max(0, segment_bytes(daemon.endpoint) - shared)
            totals[consumers] = pss + unmapped + cached
            together(crowd, gone=True)
        allowed = large.budget + (consumers + 2) * interpreter
        table.line(
            f"{consumers} consumer{'s' * (consumers > 1)} (page cache {cached / MIB:.1f} MiB)",
            f"{totals[consumers] / MIB:.0f} MiB",
            f"budget + {consumers + 2} interpreters {allowed / MIB:.0f} MiB",
            totals[consumers] / allowed,
            most=1,
        )
    flat = (totals[4] - own[4]) / (totals[1] - own[1])
    table.line(
        "without consumers' own: 4 beside 1",
        f"{(totals[4] - own[4]) / MIB:.0f} MiB",
        f"one consumer {(totals[1] - own[1]) / MIB:.0f} MiB",
        flat,
        most=1.05,
    )


def first_batch(table: Table, folder: Path, daemon: Daemon, mib: int) -> None:
    """Measure row 8."""
    large = LargeSet.make(folder, mib // 2, SIZE)
    table.head(
        f"8. first batch: {BATCH} rows of 4 KiB, cold; medians of 3, each a stream of another seed",
        "from stream() to the batch, in a process that has the dataset; load_state_dict included",
    )
    bare = BareLoop(folder)
    middle = large.batches // 2
    waits: dict[str, list[float]] = {"first batch": [], "resume in mid-epoch": []}
    alone, threads = [], []
    with Consumer(large.spec(daemon)) as one, Consumer(large.spec(daemon)) as other:
        for seed in range(3):
            options = {**large.options(), "seed": seed}
            drop_cache([large.path])
            waits["first batch"].append(together([one], open=options, batches=1)[0]["waited"])
            state = together([one], batches=middle)[0]["state"]
            together([one], gone=True)
            drop_cache([large.path])
            resumed = together([other], open=options, state=state, batches=1)[0]
            waits["resume in mid-epoch"].append(resumed["waited"])
            together([other], gone=True)
            reads = reads_of(large.rows, SIZE, large.slots, BATCH, seed)[:BATCH]
            drop_cache([large.path])
            alone.append(one_by_one(large.path, reads, SIZE))
            drop_cache([large.path])
            threads.append(bare.run(large.path, reads, SIZE, BATCH, direct=False)[0])
    yardsticks = {"pread, one by one": alone, bare.name: threads}
    for what, seconds in waits.items():
        for number, (name, values) in enumerate(yardsticks.items()):
            took, right = statistics.median(seconds), statistics.median(values)
            table.line(
                what,
                f"{took * 1e3:.0f} ms",
                f"{name} {right * 1e3:.0f} ms",
                took / right,
                most=10 if number == 0 else None,
            )
