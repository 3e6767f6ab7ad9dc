"""Restart for real: clients read and ask while the daemon is killed, and handed over, for long.

``python -m tests.faults.restart [KILLS [HAND-OVERS]]`` prints a table; CI runs fewer of each
(`test_restart.py`). Each of the clients (``python -m tests.faults.restart read JSON``) holds
some files and checks every value of them over and over in one thread, while another has parts
of other files loaded, none of them twice, and drops them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import arrayd
from tests.faults.crew import ROOT
from tests.support.daemons import Daemon

READERS = 20
FLAGS = ("--budget", "3M", "--workers", "2")

_HELD, _OTHERS = 8, 4  # files
_HOLDS = 3  # files that each reader holds
_LENGTH = 20_000
_PAUSE = 0.04  # seconds between two looks at all that is held: the others want to run as well
_PATIENCE = 60.0  # seconds: twenty interpreters start, and all get their turn, on a busy machine
_READS, _REQUESTS, _SLOWEST = range(3)  # columns of the board; the last in microseconds


@functools.cache
def values(number: int) -> npt.NDArray[np.float64]:
    """Return what a file holds."""
    return np.arange(_LENGTH, dtype="f8") + 1e6 * number


def path_of(folder: str | Path, number: int) -> str:
    """Return a file's path; the first `_HELD` are held, the others asked for in parts."""
    return f"{folder}/{number}.npy"


def board(folder: str | Path) -> npt.NDArray[np.int64]:
    """Return what each reader has done, in a file that all of them map."""
    return np.memmap(f"{folder}/board", np.int64, "r+", shape=(READERS, 3))


# ---- a reader --------------------------------------------------------------------------------


class Reader:
    """One client: its holds for life, and its requests."""

    def __init__(self, folder: str, slot: int) -> None:
        self._folder, self._row = folder, board(folder)[slot]
        self._chance = random.Random(slot)
        self._numbers = [(slot + i) % _HELD for i in range(_HOLDS)]
        self._arrays = [arrayd.get(path_of(folder, n)) for n in self._numbers]
        self._names = [array.block.name for array in self._arrays if array.block]
        self._ended = threading.Event()

    def run(self) -> None:
        """Read and ask until standard input ends; the first error ends the process."""
        reading = threading.Thread(target=self._guarded, args=(self._read,))
        asking = threading.Thread(target=self._guarded, args=(self._ask,))
        reading.start()
        asking.start()
        sys.stdin.read()
        self._ended.set()
        reading.join()
        asking.join()

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            while not self._ended.wait(_PAUSE):
                step()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)

    def _read(self) -> None:
        for number, array in zip(self._numbers, self._arrays, strict=True):
            assert (array == values(number)).all(), f"wrong values of file {number}"
            self._row[_READS] += 1

    def _ask(self) -> None:
        began = time.monotonic()
        if self._chance.random() < 0.5:
            self._ask_for_part()
        else:
            self._ask_for_held()
        self._row[_REQUESTS] += 1
        took = int((time.monotonic() - began) * 1e6)
        self._row[_SLOWEST] = max(self._row[_SLOWEST], took)

    def _ask_for_part(self) -> None:
        number = _HELD + self._chance.randrange(_OTHERS)
        start = self._chance.randrange(_LENGTH - 500)
        part = arrayd.get(path_of(self._folder, number), rows=slice(start, start + 500))
        assert (part == values(number)[start : start + 500]).all(), f"wrong values of {number}"

    def _ask_for_held(self) -> None:
        """Ask for what we hold; a pin is the daemon's matter, so it is asked."""
        which = self._chance.randrange(_HOLDS)
        again = arrayd.get(path_of(self._folder, self._numbers[which]), pin=0.01)
        assert again.block is not None
        assert again.block.name == self._names[which], "another block than ours: loaded again"


# ---- the test --------------------------------------------------------------------------------


@dataclass
class Row:
    """What was seen over the restarts of one kind; seconds."""

    kind: str
    restarts: int = 0
    reads: int = 0
    reads_without: int = 0
    requests: int = 0
    slowest: float = 0.0
    longest_away: float = 0.0
    errors: int = 0
    reloads: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kind:<12} {self.restarts:>8} {self.reads:>9,} {self.reads_without:>9,} "
            f"{self.requests:>9,} {self.slowest:>9.3f} {self.longest_away:>9.3f} "
            f"{self.errors:>6} {self.reloads:>7}"
        )


HEADING = (
    f"{'daemon was':<12} {'restarts':>8} {'reads':>9} {'while away':>9} {'requests':>8} "
    f"{'slowest s':>9} {'away s':>9} {'errors':>6} {'reloads':>7}"
)


@dataclass
class Trial:
    """The readers and their daemon, which runs with `FLAGS`."""

    daemon: Daemon
    folder: Path
    rows: list[Row] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number in range(_HELD + _OTHERS):
            np.save(path_of(self.folder, number), values(number))
        np.zeros((READERS, 3), np.int64).tofile(self.folder / "board")
        self._board = board(self.folder)
        self._readers = [self._start(slot) for slot in range(READERS)]

    def run(self, kills: int, handovers: int) -> None:
        """Restart the daemon so often, and see each time that nobody minds."""
        with arrayd.connect(self.daemon.endpoint) as client:
            self._await(lambda: self._board[:, _REQUESTS].min() > 0, "readers have begun")
            blocks = self._held_blocks(client)
            for kind, number, times in (
                ("killed", signal.SIGKILL, kills),
                ("handed over", signal.SIGUSR1, handovers),
            ):
                self._restart_often(Row(kind), number, times)
                if self._held_blocks(client) != blocks:
                    self.complaints.append(f"{blocks} became {self._held_blocks(client)}")
                self._await(lambda: self._all_known(client), "holds are known again")

    def end(self) -> None:
        """Let all readers end, and see how they did."""
        for reader in self._readers:
            assert reader.stdin is not None
            reader.stdin.close()
        for slot, reader in enumerate(self._readers):
            code = reader.wait(_PATIENCE)
            said = (self.folder / f"reader-{slot}").read_text()
            if code or said:
                self.complaints.append(f"reader {slot} ended with {code}:\n{said[-3000:]}")

    def close(self) -> None:
        """End what is left."""
        for reader in self._readers:
            reader.kill()
            reader.wait()
            assert reader.stdin is not None
            reader.stdin.close()

    def __str__(self) -> str:
        return "\n".join([*self.complaints, HEADING, *map(str, self.rows)])

    def _start(self, slot: int) -> subprocess.Popen[bytes]:
        orders = json.dumps([str(self.folder), slot])
        with (self.folder / f"reader-{slot}").open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.faults.restart", "read", orders],
                cwd=ROOT,
                env={**os.environ, "ARRAYD_ENDPOINT": self.daemon.endpoint},
                stdin=subprocess.PIPE,
                stderr=errors,
            )

    def _restart_often(self, row: Row, number: int, times: int) -> None:
        self.rows.append(row)
        self._board[:, _SLOWEST] = 0
        before, loads = self._board.sum(axis=0), self._loads_of_held()
        for _ in range(times):
            row.reads_without += self._restart(row, number)
            row.restarts += 1
        row.reads, row.requests, _ = (self._board.sum(axis=0) - before).tolist()
        row.slowest = float(self._board[:, _SLOWEST].max()) / 1e6
        row.reloads = self._loads_of_held() - loads
        row.errors = sum(reader.poll() is not None for reader in self._readers)

    def _restart(self, row: Row, number: int) -> int:
        """Restart the daemon once; return the reads while there was none."""
        began = time.monotonic()
        code = self.daemon.end(number)
        if code not in (0, -signal.SIGKILL):
            self.complaints.append(f"the daemon ended with {code}")
        reads = int(self._board[:, _READS].sum())
        self.daemon.start()
        without = int(self._board[:, _READS].sum()) - reads
        row.longest_away = max(row.longest_away, time.monotonic() - began)
        # Of the first request after that it is not known whether this daemon was asked.
        before = self._board[:, _REQUESTS].copy()
        self._await(lambda: bool((self._board[:, _REQUESTS] >= before + 2).all()), "are answered")
        return without

    def _held_blocks(self, client: arrayd.Client) -> dict[str, str]:
        """Return the segment of each file that is held."""
        held = {path_of(self.folder, number) for number in range(_HELD)}
        return {b.path: b.segment for b in client.status().blocks if b.path in held}

    def _all_known(self, client: arrayd.Client) -> bool:
        """Say whether the daemon knows every hold of every reader."""
        names = self._held_blocks(client)
        due = {
            (reader.pid, names[path_of(self.folder, (slot + i) % _HELD)])
            for slot, reader in enumerate(self._readers)
            for i in range(_HOLDS)
        }
        blocks = client.status().blocks
        return due <= {(who.pid, block.segment) for block in blocks for who in block.holders}

    def _loads_of_held(self) -> int:
        """Return how often a file that is held was loaded, over all runs of the daemon."""
        log = self.daemon.log
        return sum(log.count(f": {path_of(self.folder, n)}, ") for n in range(_HELD))

    def _await(self, holds: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not holds():
            dead = [reader.pid for reader in self._readers if reader.poll() is not None]
            if dead or time.monotonic() > deadline:
                raise AssertionError(f"not all: {what}; ended: {dead}\n{self._all_complaints()}")
            time.sleep(0.002)  # between two looks

    def _all_complaints(self) -> str:
        files = [self.folder / f"reader-{slot}" for slot in range(READERS)]
        return "\n".join(text[-2000:] for file in files if (text := file.read_text()))


@contextlib.contextmanager
def trial(daemon: Daemon, folder: Path) -> Iterator[Trial]:
    """Give a trial whose readers have ended afterwards, whatever happens."""
    one = Trial(daemon, folder)
    try:
        yield one
    finally:
        one.close()


def main() -> int:
    """Be a reader, or run the trial by hand; return 1 if anybody minded."""
    if sys.argv[1:2] == ["read"]:
        Reader(*json.loads(sys.argv[2])).run()
        return 0
    kills, handovers = (*map(int, sys.argv[1:]), *[20] * (3 - len(sys.argv)))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        daemon = Daemon(folder, FLAGS)
        stack.callback(daemon.discard)
        daemon.start()
        stack.callback(shutil.copy, folder / "log", "/tmp/arrayd-restart.log")
        one = stack.enter_context(trial(daemon, folder))
        one.run(kills, handovers)
        one.end()
        daemon.stop()
        one.complaints += [f"left behind: {name}" for name in daemon.leftovers()]
        sys.stdout.write(f"{one}\n")
    return 1 if one.complaints or any(row.errors or row.reloads for row in one.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
