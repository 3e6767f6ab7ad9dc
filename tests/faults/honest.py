"""The honest client beside hostile peers: what it has, and what it finds when it looks.

It runs in a process of its own. A hostile peer knows the names of its segments, for `status`
and /dev/shm tell them, and even the name of its session, but not the token of its reference.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

import arrayd
from arrayd.results.status import BlockStatus, DaemonStatus, SessionStatus
from arrayd.session.fetch import redeemed
from tests.support.processes import block_of

HELD, ROWS = "held.npy", 2000
IDLE = "idle.npy"
NAME, DRAFT = "mine", "draft"

_RELEND = 30.0  # seconds: a reference in flight lives 60


class Honest:
    """Holds one of each: a file, a published name, an unsealed block, a reference in flight.

    Parameters
    ----------
    endpoint
        Of the daemon.
    folder
        Where `write_files` has put the files.
    """

    def __init__(self, endpoint: str, folder: str) -> None:
        self.folder = Path(folder)
        self.client = arrayd.connect(endpoint)
        self.held = self.client.get(self.folder / HELD)
        self.mine = self.client.put(np.arange(ROWS), NAME)
        self._creating: AbstractContextManager[Any] = self.client.create(ROWS, "i8", DRAFT)
        self.draft = self._creating.__enter__()
        self.client.prefetch(self.folder / IDLE)
        self.landed: Any = None
        self._lend()
        self.files = {name: os.stat(f"/dev/shm/{name}").st_ino for name in self.segments}

    @property
    def segments(self) -> list[str]:
        """The names of its segments."""
        return [*(block_of(a).name for a in (self.held, self.mine, self.draft)), self.lent]

    @property
    def nonce(self) -> str:
        """The session's name for itself, hexadecimal: the secret that a thief would need."""
        return self.client._session.connect()._nonce.hex()

    def look(self) -> list[str]:
        """Return what is not as it should be."""
        self.draft[:] = np.arange(ROWS)
        return [*self._wrong_values(), *self._wrong_status(), *self._wrong_names()]

    def serve(self) -> list[str]:
        """Return what is wrong with new requests."""
        got = self.client.get(self.folder / IDLE)
        put = self.client.put(np.arange(7))
        right = (got == np.arange(ROWS) + 2).all() and put.sum() == 21
        return [] if right else ["a new request gave wrong values"]

    def strangers(self) -> list[str]:
        """Return what the daemon has of others; what is idle or on its way is nobody's."""
        status = self.client.status()
        return [
            *(f"a session of {s.pid} {s.program!r}" for s in status.sessions if not _ours(s)),
            *(f"a job: {job.stage} {job.source}" for job in status.jobs),
            *(
                f"{b.segment} is {b.state}"
                for b in status.blocks
                if b.state not in ("idle", "lent") and b.segment not in self.files
            ),
        ]

    def sweep(self) -> None:
        """Free what others have left as cache, or published for good."""
        for block in self.client.status().blocks:
            if block.segment not in self.files and block.path != str(self.folder / IDLE):
                try:
                    self.client.evict(block=block.segment)
                except arrayd.BlockError:
                    continue  # `strangers` tells who uses it

    def finish(self) -> list[str]:
        """End the draft and take the reference in; return what is wrong with them."""
        self._creating.__exit__(None, None, None)
        self.land()
        again = self.client.get(f"name:{DRAFT}")
        wrong = [] if (again == np.arange(ROWS)).all() else ["the draft was sealed wrong"]
        wrong += [] if (self.landed == 3).all() else ["the reference led to wrong values"]
        del self.held, self.mine, self.draft, self.landed, again
        self.client.close()
        return wrong

    def land(self) -> None:
        """Take the reference in."""
        if self.landed is None:
            self.landed = redeemed(self.client._session, self.lent, self.token, "r")

    def latency(self, seconds: float) -> dict[str, list[float]]:
        """Return median and 95th percentile (us) of get with release, and of status."""
        works: dict[str, Callable[[], object]] = {"get": self._get, "status": self.client.status}
        times: dict[str, list[float]] = {name: [] for name in works}
        end = time.monotonic() + seconds
        while time.monotonic() < end or not times["status"]:
            for name, work in works.items():
                began = time.perf_counter()
                work()
                times[name].append((time.perf_counter() - began) * 1e6)
        return {name: _middle(values) for name, values in times.items()}

    def _get(self) -> None:
        array = self.client.get(self.folder / IDLE)
        assert array[0] == 2
        del array
        self.client._session.send_releases()

    def _lend(self) -> None:
        array = self.client.put(np.full(ROWS, 3))
        self.lent = block_of(array).name
        self.token = self.client._session.lend(self.lent)
        self.lent_at = time.monotonic()

    def _wrong_values(self) -> Iterator[str]:
        for what, array, value in (
            ("file", self.held, np.arange(ROWS) + 1),
            ("published block", self.mine, np.arange(ROWS)),
            ("draft", self.draft, np.arange(ROWS)),
        ):
            if not (array == value).all():
                yield f"the {what} reads as {array[:5]}…"

    def _wrong_status(self) -> Iterator[str]:
        status = self.client.status()
        blocks = {block.segment: block for block in status.blocks}
        for segment, state in zip(self.segments, ("held", "held", "writing", "held"), strict=True):
            block = blocks.get(segment)
            if block is None:
                yield f"{segment} is gone"
            elif segment == self.lent and self.landed is None:
                if not block.lends:
                    yield f"the reference to {segment} has ended"
            elif block.state != state or not _is_ours(block):
                yield f"{segment} is {block.state}, held by {block.holders}; it was {state}"
        yield from _wrong_sums(status)

    def _wrong_names(self) -> Iterator[str]:
        for name, inode in self.files.items():
            try:
                found = os.stat(f"/dev/shm/{name}")
            except FileNotFoundError:
                yield f"{name} was unlinked"
            else:
                if (found.st_ino, found.st_nlink) != (inode, 2):
                    yield f"{name} is another file, or has {found.st_nlink} names"

    def renew(self) -> None:
        """Lend anew in time."""
        if self.landed is None and time.monotonic() - self.lent_at > _RELEND:
            kept = redeemed(self.client._session, self.lent, self.token, "r")
            self.token, self.lent_at = self.client._session.lend(self.lent), time.monotonic()
            del kept
            self.client._session.send_releases()


def write_files(folder: Path) -> None:
    """Write what an honest client asks for."""
    for number, name in enumerate((HELD, IDLE), 1):
        np.save(folder / name, np.arange(ROWS) + number)


def _ours(session: SessionStatus) -> bool:
    return session.pid == os.getpid()


def _is_ours(block: BlockStatus) -> bool:
    return [holder.pid for holder in block.holders].count(os.getpid()) == 1


def _wrong_sums(status: DaemonStatus) -> Iterator[str]:
    if status.charged != sum(block.size for block in status.blocks):
        yield f"{status.charged} bytes are charged for {status.blocks}"
    if not 0 <= status.charged <= status.budget or status.held + status.idle != status.charged:
        yield f"charged {status.charged}, held {status.held}, idle {status.idle}"


def _middle(values: list[float]) -> list[float]:
    ordered = sorted(values)
    return [statistics.median(ordered), ordered[len(ordered) * 95 // 100]]
