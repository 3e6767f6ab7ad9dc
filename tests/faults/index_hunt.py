"""Readers attach by the index at full speed, while all that it says keeps changing.

Files are replaced, blocks evicted for room or at request, the daemon is killed and comes back. A
reader knows which editions of a file it may be given: not an older one than was complete when it
asked, nor a newer one than was begun when it had the array. It also looks at what it holds again
later. Each array says in every element which file and edition it is.

By hand, a million attaches: ``python -m tests.faults.index_hunt 600 3 1`` (seconds, readers, and
for which part of the files there is room: with less than all most of the time goes into loads).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import arrayd
from arrayd.errors import InUse, NoSuchBlock, SourceChanged
from arrayd.session.request import FileRequest
from tests.support.daemons import Daemon

FILES = 40
ELEMENTS = 600
"""Of an array: with its footer and metadata a segment has 16 KiB."""

ROOM = 0.75
"""A quarter of the files are not resident: room is made all the time."""


def budget(room: float = ROOM) -> str:
    """Return a budget for that part of the files."""
    return f"{int(FILES * 16 * room)}K"


HELD = 3
"""Arrays that a reader keeps for a while."""

LIFE = 2.0
"""Seconds that a daemon has between its start and its death."""

PAUSE = 0.02
"""Seconds between two changes."""

ROUND = 200
"""Attaches of a reader between two looks at the clock."""

HONEST, NAIVE = "honest", "naive"
"""How a reader asks; a naive one looks the index up by what a file was when it asked first."""

Editions = npt.NDArray[np.int64]


class Files:
    """The files, and their editions: those begun and those complete, for all processes to see."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        editions = directory / "editions"
        if not editions.exists():
            editions.write_bytes(bytes(2 * FILES * 8))
        table = np.memmap(editions, np.int64, "r+", shape=(2, FILES))
        self.begun: Editions = table[0]
        self.complete: Editions = table[1]

    def path(self, number: int) -> str:
        """Return where a file is."""
        return str(self.directory / f"{number}.npy")

    def replace(self, number: int) -> None:
        """Put the next edition in a file's place."""
        edition = int(self.begun[number]) + 1
        np.save(self.directory / "new.npy", np.full(ELEMENTS, number * 10**9 + edition))
        self.begun[number] = edition
        os.rename(self.directory / "new.npy", self.path(number))
        self.complete[number] = edition


def read(endpoint: str, directory: str, seconds: float, seed: int, how: str) -> dict[str, Any]:
    """Attach and look until the time is over; return what was seen."""
    if how == NAIVE:
        keys: dict[str, bytes] = {}
        fresh = FileRequest.key
        FileRequest.key = lambda self: keys.setdefault(  # type: ignore[method-assign]
            self.source.path, fresh(self)
        )
    files, chance = Files(Path(directory)), random.Random(seed)
    held: list[tuple[arrayd.SharedArray, int]] = []
    seen = {"attaches": 0, "wrong": 0}
    deadline = time.monotonic() + seconds
    with arrayd.Client(endpoint, start=False) as client:
        while time.monotonic() < deadline:
            for _ in range(ROUND):
                number = chance.randrange(FILES)
                oldest = int(files.complete[number])
                try:
                    array = client.get(files.path(number))
                except SourceChanged:  # it was replaced as it was read, and nothing was returned
                    continue
                value = int(array[chance.randrange(ELEMENTS)])
                newest = int(files.begun[number])
                seen["attaches"] += 1
                right = oldest <= value - number * 10**9 <= newest
                seen["wrong"] += not right or not bool(np.all(array == value))
                held.append((array, value))
                if len(held) > HELD:
                    other, known = held.pop(chance.randrange(HELD))
                    seen["wrong"] += not bool(np.all(other == known))
        counters = client.status().counters
        seen["by_index"] = client._session.blocks.claims
    return seen | {"loads": counters["loads"], "evictions": counters["evictions"]}


def disturb(
    daemon: Daemon, files: Files, chance: random.Random, goes_on: Callable[[], bool]
) -> dict[str, int]:
    """Replace files, evict blocks, kill the daemon; say how often."""
    done = {"replaced": 0, "evicted": 0, "spared": 0, "killed": 0}
    kill_at = time.monotonic() + LIFE
    with arrayd.Client(daemon.endpoint, start=False) as client:
        while goes_on():
            time.sleep(PAUSE)  # not to wait for anything: readers are to find something resident
            number = chance.randrange(FILES)
            if chance.random() < 0.5:
                files.replace(number)
                done["replaced"] += 1
            else:
                try:
                    done["evicted"] += client.evict(files.path(number))["blocks"]
                except (InUse, NoSuchBlock):
                    done["spared"] += 1
            if time.monotonic() > kill_at:
                daemon.kill()
                daemon.start()
                done["killed"] += 1
                kill_at = time.monotonic() + LIFE
    return done


def hunt(
    daemon: Daemon, directory: Path, seconds: float, readers: int, seed: int, how: str = HONEST
) -> dict[str, Any]:
    """Let readers and all that disturbs them run; return what they saw, summed up."""
    files = Files(directory)
    for number in range(FILES):
        files.replace(number)
    with ExitStack() as stack:
        words = [daemon.endpoint, str(directory), str(seconds)]
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.faults.index_hunt", *words, str(seed + n), how],
                    stdout=subprocess.PIPE,
                )
            )
            for n in range(readers)
        ]
        alive = lambda: any(process.poll() is None for process in processes)  # noqa: E731 - local
        done = disturb(daemon, files, random.Random(seed), alive)
        found = [json.loads(process.communicate()[0] or "{}") for process in processes]
        assert all(process.returncode == 0 for process in processes), "a reader met an error"
    sums = {key: sum(one[key] for one in found) for key in ("attaches", "wrong", "by_index")}
    return sums | done | {key: found[0][key] for key in ("loads", "evictions")}


def main() -> None:
    """Read as one of the readers, or hunt by hand."""
    if len(sys.argv) == 6:
        endpoint, directory, length, seed, how = sys.argv[1:]
        seen = read(endpoint, directory, float(length), int(seed), how)
        sys.stdout.write(json.dumps(seen))
        return
    seconds, readers = float(sys.argv[1]), int(sys.argv[2])
    room = float(sys.argv[3]) if len(sys.argv) > 3 else ROOM
    with tempfile.TemporaryDirectory(prefix="ad", dir="/tmp") as name:
        (Path(name) / "files").mkdir()
        daemon = Daemon(Path(name), ("--budget", budget(room), "--workers", "2"))
        daemon.start()
        try:
            chosen = random.randrange(1 << 30)
            seen = hunt(daemon, Path(name) / "files", seconds, readers, chosen)
            sys.stdout.write(f"{seen}\n")
        finally:
            daemon.stop()
            assert not daemon.leftovers()


if __name__ == "__main__":
    main()
