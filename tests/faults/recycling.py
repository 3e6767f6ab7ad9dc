"""Hunt for wrong reads of recycled segments.

``python -m tests.faults.recycling [SECONDS [PROCESSES]]`` prints how many attaches there were, how
many of them found no segment of that name any more (gone), and how many read what is another's
(wrong); a process whose segment was cut under it is killed by SIGBUS.

One process makes small segments, fills each with its own number, seals it, lets its pages go on
under the next number, and so on. Others open, as clients do, the number that they were last told:
at any moment that may be just before, amid or after the steps of `segments.recycling`. What they
read must be the number, also when they look again a while later.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np

from arrayd.system import mapping
from arrayd.system.mapping import MappingFinalizer, SegmentMapping, Vanished
from arrayd.wire import layout
from arrayd_server.kernel import leases
from arrayd_server.segments.outcome import Outcome
from arrayd_server.segments.scope import Scope
from arrayd_server.segments.store import Segments

SLOTS = 4
"""Segments that there are at a time."""

SIZES = (24_000, 32_000, 40_000)
"""Bytes of their data, in turn, so that each is larger or smaller than the one before."""

ROOT = Path(__file__).parents[2]


class Naive(Segments):
    """Segments that recycle in an order that looks right, and is not.

    Nobody has the segment open when it is looked at; then it gets its new name, and the footer is
    written when a load begins.
    """

    def recycle(self, name: str, heir: str) -> tuple[Outcome, int]:
        """Rename a segment that nobody has open."""
        with self._opened(name, os.O_RDWR) as fd:
            if not leases.alone(fd):
                return Outcome.REFUSED, -1
        os.rename(self.public(name), self.public(heir))
        os.rename(self.path(name), self.path(heir))
        self._inodes[heir] = self._inodes.pop(name)
        return Outcome.RECYCLED, -1

    def _reuse(self, name: str, plan: layout.SegmentPlan, meta: dict[str, Any]) -> bool:
        with self._opened(name, os.O_RDWR) as fd:
            os.ftruncate(fd, plan.size)
        self.describe(name, plan, meta)
        return True


class Maker:
    """Makes the segments, and tells the others in `board` which there are."""

    def __init__(self, segments: Segments, prefix: str, board: np.ndarray[Any, Any]) -> None:
        self._segments = segments
        self._prefix = prefix
        self._board = board
        self._numbers = itertools.count(1)
        self.counts: Counter[str] = Counter()

    def name(self, number: int) -> str:
        """Return the name of a segment."""
        return f"{self._prefix}-{number}"

    def make(self, slot: int, number: int) -> None:
        """Make a segment full of its number, be it of a spare; tell of it when it is sealed."""
        size = SIZES[number % len(SIZES)]
        name, plan = self.name(number), layout.plan(size, 50)
        self._segments.make(name, plan, {"number": number})
        fd = os.open(self._segments.path(name), os.O_RDWR)
        os.pwrite(fd, np.full(size // 8, number, "u8").tobytes(), 0)
        os.close(fd)
        while not self._segments.seal(name, plan, {"number": number}):
            pass
        self._board[slot] = number

    def turn(self, slot: int) -> None:
        """Let a segment leave its pages to the next, unless somebody uses it."""
        old, number = int(self._board[slot]), next(self._numbers)
        if not old:
            self.make(slot, number)
            return
        outcome, fd = self._segments.recycle(self.name(old), self.name(number))
        self.counts[outcome.name] += 1
        if outcome is Outcome.REFUSED:
            return
        if outcome is Outcome.UNLINKED:
            self._segments.discard(self.name(old))
        if fd >= 0:
            os.close(fd)
        self.make(slot, number)

    def end(self) -> None:
        """Remove all."""
        for name in self._segments.names():
            self._segments.discard(name)


def attach(board: np.ndarray[Any, Any], prefix: str, end: float) -> Counter[str]:
    """Attach and read until `end`; return what was found, and how often."""
    found: Counter[str] = Counter()
    ended: deque[MappingFinalizer] = deque()
    for turn in itertools.count():
        if turn % 64 == 0 and time.monotonic() > end:
            return found
        number = int(board[turn % SLOTS])
        if number == 0:
            continue
        try:
            size = SIZES[number % len(SIZES)]
            pages = SegmentMapping(f"{prefix}-{number}", size, "r", None, ended.append, _ring)
        except Vanished:
            found["gone"] += 1
            continue
        values = np.asarray(pages).view("u8")
        right = values[0] == values[-1] == number and (values == number).all()
        found["right" if right and (values == number).all() else "wrong"] += 1
        del values, pages
        while ended:
            mapping.discard(ended.popleft())
    raise AssertionError


def _ring(_: object) -> None:
    """Wake nobody."""


def hunt(seconds: float, processes: int, kind: type[Segments] = Segments) -> Counter[str]:
    """Recycle at full speed for a while under the eyes of some processes; return all counts."""
    leases.ignore_sigio()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, contextlib.ExitStack() as stack:
        file = Path(folder, "board")
        file.write_bytes(bytes(8 * SLOTS))
        scope = stack.enter_context(Scope(f"ipc://{folder}/sock"))
        segments = kind(scope)
        maker = Maker(segments, scope.prefix, _board(file))
        stack.callback(maker.end)
        command = [sys.executable, "-m", "tests.faults.recycling", "attach"]
        command += [str(file), scope.prefix, str(seconds)]
        users = [
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(processes)
        ]
        turn = 0
        while any(user.poll() is None for user in users):
            maker.turn(turn % SLOTS)
            turn += 1
        counts = maker.counts
        for user in users:
            answer = user.communicate()[0]
            counts += Counter(json.loads(answer) if user.returncode == 0 else ["killed"])
        return counts


def _board(file: Path) -> np.ndarray[Any, Any]:
    with file.open("r+b") as opened:
        return np.frombuffer(mmap.mmap(opened.fileno(), 8 * SLOTS), "u8")


def main() -> None:
    """Hunt, or be one of those who attach."""
    if sys.argv[1:2] == ["attach"]:
        end = time.monotonic() + float(sys.argv[4])
        found = attach(_board(Path(sys.argv[2])), sys.argv[3], end)
        sys.stdout.write(json.dumps(found))
        return
    seconds, processes = float((sys.argv[1:2] or ["60"])[0]), int((sys.argv[2:3] or ["3"])[0])
    sys.stdout.write(f"{dict(hunt(seconds, processes))}\n")


if __name__ == "__main__":
    main()
