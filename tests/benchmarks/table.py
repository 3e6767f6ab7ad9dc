"""What a benchmark prints: the machine, and lines with a figure, its yardstick and a goal."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.benchmarks.files import file_system

WIDTHS = (46, 30, 44, 10)


def say(text: str = "") -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclass
class Table:
    """Lines as they are found, and how many goals were reached."""

    reached: int = 0
    missed: list[str] = field(default_factory=list)

    def head(self, title: str, note: str = "") -> None:
        """Begin a row of the issue's table."""
        say(f"\n{title}")
        if note:
            say(f"  ({note})")

    def line(
        self,
        what: str,
        figure: str,
        yardstick: str,
        ratio: float,
        *,
        least: float | None = None,
        most: float | None = None,
    ) -> None:
        """Print a figure beside its yardstick.

        Parameters
        ----------
        what
            Is measured.
        figure, yardstick
            With their units; the yardstick with its name.
        ratio
            Of the two.
        least, most
            Goal of the ratio; neither: it is told for comparison only.
        """
        goal, verdict = "", ""
        if least is not None or most is not None:
            goal = f"≥ {least:g}" if least is not None else f"≤ {most:g}"
            good = ratio >= least if least is not None else ratio <= (most or 0.0)
            verdict = "reached" if good else "NOT REACHED"
            self.reached += good
            if not good:
                self.missed.append(f"{what}: × {ratio:.3g}, goal {goal}")
        cells = (what, figure, yardstick, f"× {ratio:.3g}")
        text = "  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True))
        say(f"  {text}  {goal:8} {verdict}".rstrip())

    def end(self) -> None:
        """Print how many goals were reached."""
        say(f"\n{self.reached} of {self.reached + len(self.missed)} goals reached")
        for missed in self.missed:
            say(f"  not reached: {missed}")


def machine(folder: Path) -> str:
    """Return what it is measured on."""
    info = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    memory = int(info["MemTotal"].split()[0]) >> 10
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    cores = len(os.sched_getaffinity(0))
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"{cores} cores ({models[0] if models else platform.machine()}), {memory:,} MiB of memory, "
        f"Linux {platform.release()}\n"
        f"files on {disk(folder)}; load {load}\n"
        f"Python {platform.python_version()}, NumPy {np.__version__}"
    )


def disk(folder: Path) -> str:
    """Return device, kind and queue of the file system that holds a folder."""
    device, kind = file_system(folder)
    number = os.stat(folder).st_dev
    queue = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    # A partition has no queue of its own.
    queues = [one / "queue" for one in (queue, queue.parent) if (one / "queue").is_dir()]
    if not queues:
        return f"{device} ({kind})"
    turning = (queues[0] / "rotational").read_text().strip() == "1"
    return f"{device} ({kind}; {'says it is rotational' if turning else 'no rotation'})"
