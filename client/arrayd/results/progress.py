"""Progress of loads: reports to the caller's function, or a bar on the terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from arrayd.source import Source

MIN_INTERVAL = 0.1
"""Seconds between two calls for one source."""

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"

Reporter = Callable[[int, int, int], None]
"""Takes the item's index in the request, rows done, rows in total."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load is: `done` of `total` rows of `source`."""

    source: Source
    done: int
    total: int


ShowProgress = bool | Callable[[Progress], None] | None
"""What a caller may give as ``progress=``: True for a bar, or a function."""


@contextlib.contextmanager
def reporter(
    progress: Literal[True] | Callable[[Progress], None], sources: Sequence[Source]
) -> Iterator[Reporter]:
    """Give a function that passes reports on to what the caller gave as ``progress=``."""
    if progress is True:
        with _bar(sources) as report:
            yield report
    else:
        yield _throttled(progress, sources)


def _throttled(call: Callable[[Progress], None], sources: Sequence[Source]) -> Reporter:
    last = [0.0] * len(sources)

    def report(index: int, done: int, total: int) -> None:
        now = time.monotonic()
        if now - last[index] >= MIN_INTERVAL:
            last[index] = now
            call(Progress(sources[index], done, total))

    return report


@contextlib.contextmanager
def _bar(sources: Sequence[Source]) -> Iterator[Reporter]:
    """Show one bar for all sources: the share of rows that are loaded."""
    from tqdm import tqdm  # here: importing arrayd must stay cheap

    shares = [0.0] * len(sources)
    label = str(sources[0]) if len(sources) == 1 else f"{len(sources)} sources"
    with tqdm(total=100, desc=label[-40:], bar_format=_BAR, leave=False) as bar:

        def report(index: int, done: int, total: int) -> None:
            shares[index] = done / total if total else 1.0
            bar.n = int(100 * sum(shares) / len(shares))  # 100 only if all are there
            bar.refresh()

        yield report
