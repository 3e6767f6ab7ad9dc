"""What training sets must reach: ``python -m tests.benchmarks.training [--mib N] [ROW…]``.

Absolute rates mean nothing on a shared machine: each line gives a figure, a yardstick measured in
the same run, their ratio, the goal, and whether it was reached. It takes about 3 × N MiB of disk
and 2 × N MiB of memory, and removes its files at the end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import disk, exactness, footprint, packed, quality, resident
from tests.benchmarks.files import TMPFS, file_system
from tests.benchmarks.processes import Daemon
from tests.benchmarks.table import Table, machine, say

Row = Callable[[Table, Path, Daemon, int], None]


def shuffle(table: Table, *_: object) -> None:
    """Measure row 10: no daemon is needed."""
    table.head(
        "10. shuffle quality: 131,072 rows sorted by 16 labels, chunks of 64 rows, batches of 256",
        "co-batch ratio and chi2/df are 1.0 for a uniform shuffle; TV: total variation of labels",
    )
    for name, make in quality.orders().items():
        ratio, variation, chi2 = quality.measured(make)
        figure = f"chi2/df {chi2:.2f}, TV {variation:.3f}"
        table.line(name, figure, f"co-batch ratio {ratio:.2f}", ratio)
        if name == "arrayd, exact":
            table.line("  distance of its co-batch ratio from 1", "", "", abs(ratio - 1), most=0.05)
            table.line("  distance of its chi2/df from 1", "", "", abs(chi2 - 1), most=0.05)


ROWS: dict[str, Row] = {
    "resident": resident.run,
    "disk": disk.run,
    "gzip": packed.gzip,
    "files": packed.files,
    "memory": footprint.memory,
    "first": footprint.first_batch,
    "exact": exactness.run,
    "shuffle": shuffle,
}
"""The rows of the table, by name."""


def main() -> None:
    """Run the rows asked for, each with a daemon of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.training")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; none: all")
    parser.add_argument("--mib", type=int, default=512, help="size of the largest set (512)")
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/tmp"), help="for files; on a disk"
    )
    given = parser.parse_args()
    if unknown := set(given.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    if given.mib < 256:
        parser.error("--mib: at least 256, for the budget is a sixth of it")
    if file_system(given.folder.resolve())[1] == TMPFS:
        parser.error(f"{given.folder} lies in memory (tmpfs): name a --folder on a disk")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="arrayd-bench-", dir=given.folder))
    os.environ["ARRAYD_CACHE"] = str(folder / "cache")
    # As an installed package has it: no process compiles modules that another one has compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "pycache")
    say(machine(folder))
    table, began = Table(), time.monotonic()
    try:
        for name in given.rows or ROWS:
            start = time.monotonic()
            _one(ROWS[name], table, folder, given.mib)
            say(f"  [{name}: {time.monotonic() - start:.0f} s]")
    finally:
        shutil.rmtree(folder)
    table.end()
    say(f"{time.monotonic() - began:.0f} seconds")


def _one(row: Row, table: Table, folder: Path, mib: int) -> None:
    place = Path(tempfile.mkdtemp(dir=folder))
    daemon = Daemon(place, "--budget", f"{2 * mib}M")
    try:
        row(table, place, daemon, mib)
    finally:
        daemon.stop()
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
