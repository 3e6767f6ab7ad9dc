"""What arrayd must reach beside the machine and others: ``python -m tests.benchmarks.sharing``.

One Markdown table. Each line is measured in one run with what it is held against, in turn, and
says median, least and most of five rounds or more, the ratio within the rounds, and whether a goal
is reached: on a shared machine only ratios mean anything. ``attach`` is about arrays that lie in
memory already, ``load`` about files; ``pictures FOLDER`` draws some of it as SVG instead. Peers are
looked for in this Python and in the virtual environments of ``--peers FOLDER`` (or
``ARRAYD_PEERS``), each with what it takes: ``pyarrow==11.0.0 numpy==1.26.4 SharedArray`` on Python
3.10 or 3.11 has Plasma, ``pyarrow polars`` read text.

It takes some minutes, a few times the largest array in memory and on the disk, and removes what it
made.
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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks import sharing_attach, sharing_load, sharing_pictures
from tests.benchmarks.elsewhere import Pythons
from tests.benchmarks.markdown import Markdown
from tests.benchmarks.table import machine, say

SIZE = 0.25
"""Of the sizes that the issue names, if nothing is said."""


@dataclass(frozen=True)
class Sizes:
    """What is measured, scaled by one factor.

    Parameters
    ----------
    factor
        Of the full sizes.
    """

    factor: float

    @property
    def array(self) -> int:
        """Bytes of a large array: 2 GiB."""
        return self._whole(2 << 30)

    @property
    def summed(self) -> int:
        """Bytes of the block that several processes sum: 1 GiB."""
        return self._whole(1 << 30)

    @property
    def files(self) -> int:
        """Number of small files: 10,000."""
        return max(20, round(10_000 * self.factor))

    @property
    def packed(self) -> int:
        """Bytes of a dataset of compressed chunks: 512 MiB."""
        return self._whole(512 << 20)

    @property
    def rows(self) -> int:
        """Lines of text: 4 million."""
        return max(1000, round(4e6 * self.factor))

    @property
    def freed(self) -> int:
        """Bytes of a block that is freed: 8 GiB."""
        return self._whole(8 << 30)

    def _whole(self, size: int) -> int:
        mib = 1 << 20
        return max(1, round(size * self.factor / mib)) * mib


@dataclass(frozen=True)
class Bench:
    """Where and how it is measured.

    Parameters
    ----------
    table
        Lines go there.
    folder
        For files; on a disk.
    memory
        The same in /dev/shm.
    pythons
        With peers.
    sizes
        Of arrays.
    """

    table: Markdown
    folder: Path
    memory: Path
    pythons: Pythons
    sizes: Sizes


PARTS: dict[str, Callable[[Bench], None]] = {"attach": sharing_attach.run, "load": sharing_load.run}
"""The parts of the table, by name."""


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sharing")
    choice = f"of {', '.join(PARTS)}; none: all. Or: pictures FOLDER"
    parser.add_argument("parts", nargs="*", metavar="PART", help=choice)
    parser.add_argument("--size", type=float, default=SIZE, help=f"of the full sizes ({SIZE})")
    peers = os.environ.get("ARRAYD_PEERS")
    parser.add_argument("--peers", type=Path, default=peers and Path(peers), help="environments")
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/tmp"), help="for files; on a disk"
    )
    given = parser.parse_args()
    pictures = Path(given.parts[1]) if given.parts[:1] == ["pictures"] and given.parts[1:] else None
    if pictures is not None and len(given.parts) > 2:
        parser.error("pictures takes one folder, and no part beside it")
    if pictures is None and (unknown := set(given.parts) - set(PARTS)):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if not 0.01 <= given.size <= 4:
        parser.error("--size: from 0.01 to 4")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="arrayd-bench-", dir=given.folder))
    memory = Path(tempfile.mkdtemp(prefix="arrayd-bench-", dir="/dev/shm"))
    # As an installed package has it: no process compiles modules that another one has compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "pycache")
    bench = Bench(Markdown(), folder, memory, Pythons(given.peers), Sizes(given.size))
    try:
        if pictures is not None:
            sharing_pictures.draw(bench, pictures)
        else:
            _run(bench, given.parts or list(PARTS))
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(memory)


def _run(bench: Bench, parts: list[str]) -> None:
    began = time.monotonic()
    say(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {machine(bench.folder)}")
    sizes = bench.sizes
    say(
        f"Sizes × {sizes.factor:g} of what is meant: arrays of {sizes.array >> 20:,} MiB instead "
        f"of 2,048, {sizes.files:,} small files instead of 10,000, {sizes.rows:,} lines of text "
        f"instead of 4,000,000, {sizes.packed >> 20:,} MiB of compressed chunks instead of 512, "
        f"{sizes.freed >> 20:,} MiB to free instead of 8,192\n"
    )
    bench.table.begin()
    for name in parts:
        PARTS[name](bench)
    bench.table.end()
    say(f"* {time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    main()
