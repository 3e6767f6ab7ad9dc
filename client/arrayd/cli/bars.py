"""What long commands share: a bar of bytes on a terminal, and an orderly end."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm


def bar() -> Any:
    """Return a bar of bytes; none is shown where standard error is no terminal."""
    # disable=None: tqdm looks itself
    return tqdm(unit="B", unit_scale=True, unit_divisor=1024, leave=False, disable=None)


def advance(progress: Any, done: int, total: int) -> None:
    """Show that `done` of `total` bytes are done."""
    progress.total = total
    progress.update(done - progress.n)


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """Let SIGTERM end this process by an exception, so that what is unfinished is cared for."""
    earlier = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
