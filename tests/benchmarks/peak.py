"""The most memory that a load takes, looked at again and again while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from tests.benchmarks.files import segment_bytes
from tests.benchmarks.processes import Daemon, memory_of

EVERY = 0.004
"""Seconds between two looks."""


class Peak:
    """Memory of a daemon, its loaders and its segments inside a ``with``.

    Parameters
    ----------
    daemon
        Of which.
    others
        Processes besides its own.
    before
        Bytes of anonymous memory that count as nothing: of loaders that wait, say.

    Attributes
    ----------
    most : int
        Bytes of anonymous memory more than that, and of segments, at the worst moment.
    """

    def __init__(self, daemon: Daemon, others: list[int], before: int) -> None:
        self._daemon, self._before = daemon, before
        self._pids: Callable[[], list[int]] = lambda: [*daemon.pids, *others]
        self._ended = threading.Event()
        self.most = 0

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(1)
        self._watching = self._pool.submit(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._pool.shutdown()
        self._watching.result()  # raises what went wrong there

    def _watch(self) -> None:
        while not self._ended.wait(EVERY):
            more = anonymous_bytes(self._pids()) - self._before
            self.most = max(self.most, more + segment_bytes(self._daemon.endpoint))


def anonymous_bytes(pids: list[int]) -> int:
    """Return the private memory of these processes; what they share is divided among them."""
    return sum(sizes["Pss_Anon"] for sizes in memory_of(pids)) << 10
