"""What one thread of an actor does: random calls of arrayd, each value checked."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

import arrayd
from tests.faults.truth import (
    PUBLISHED,
    SOURCES,
    Board,
    Expected,
    Letter,
    Publication,
    Source,
    Wrong,
    version_of,
)

WEIGHTS = {
    "get": 300,
    "get_many": 40,
    "slices": 60,
    "drop": 180,
    "release": 40,
    "private": 30,
    "hurry": 40,
    "pin": 20,
    "prefetch": 20,
    "info": 20,
    "evict": 30,
    "find": 30,
    "put": 60,
    "create": 40,
    "send": 80,
    "receive": 80,
}
"""How often a thread does what, in relation."""

OF_A_PROCESS = {
    "own": 60,
    "fork": 40,
    "orphan": 10,
    "share": 10,
    "threads": 20,
    "reincarnate": 4,
    "leave": 3,
    "die": 3,
}
"""The same for what only a whole process does."""

COLUMNS = [*WEIGHTS, *OF_A_PROCESS, "crowded", "late", "changed", "attached bytes"]
"""What an actor counts on the board."""

_PATIENCE = 1  # seconds: all may hold what the others wait for, until somebody gives up
_MOST_HELD = 4
_SHARED_NAMES = 4


@dataclass
class World:
    """What the threads of an actor share.

    Parameters
    ----------
    letters
        Both ends of the queue that all actors send to and receive from.
    slot
        Where this actor counts on the board.
    """

    folder: str
    board: Board
    slot: int
    letters: tuple[socket.socket, socket.socket]

    def count(self, kind: str, by: int = 1) -> None:
        """Take note of what was done."""
        self.board.tally[self.slot, COLUMNS.index(kind)] += by


class Hand:
    """One thread's chance, and the arrays it holds, each with what it must show."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.held: list[tuple[Expected, Any]] = []
        self._seen: Counter[int] = Counter()  # source -> the newest version seen

    def act(self, weights: dict[str, int]) -> None:
        """Do one thing; what a crowded machine may answer is no violation."""
        (name,) = self.chance.choices(list(weights), list(weights.values()))
        self.do(name)
        del self.held[: max(0, len(self.held) - _MOST_HELD)]

    def do(self, name: str) -> None:
        """Do this one thing."""
        self.world.count(name)
        try:
            getattr(self, name)()
        except arrayd.NoRoom:
            self.world.count("crowded")
        except arrayd.LoadTimeout:
            self.world.count("late")
        except _ChangedMeanwhile:
            self.world.count("changed")

    # ---- files ---------------------------------------------------------------------------

    def get(self, **options: Any) -> None:
        """Get a file, or rows of it, in the type and order it has or in another."""
        source = self.chance.choice(SOURCES)
        rows = self._rows(source.shape[0]) if self.chance.random() < 0.2 else None
        if self.chance.random() < 0.05:
            options["cast"] = "f8"
        if self.chance.random() < 0.05:
            options["order"] = self.chance.choice("CF")
        self.held.append(self._read(source, rows, **options))

    def hurry(self) -> None:
        """Get a file, with hardly any time to wait for it."""
        self.get(timeout=self.chance.random() * 0.02)

    def pin(self) -> None:
        """Have a file kept warm for a moment."""
        self.get(pin=0.5)

    def get_many(self) -> None:
        """Get several files at once."""
        sources = [s for s in self.chance.sample(SOURCES, 4) if not s.options]
        oldest = [self._oldest(source) for source in sources]
        paths = [source.path(self.world.folder) for source in sources]
        found = arrayd.get_many(paths, return_errors=True, timeout=_PATIENCE)
        for source, old, one in zip(sources, oldest, found, strict=True):
            if isinstance(one, arrayd.SharedArray):
                self.held.append((self._seen_now(source, one, None, old), one))
            elif not isinstance(one, arrayd.NoRoom | arrayd.LoadTimeout):
                with self._changing(source):
                    raise one

    def private(self) -> None:
        """Write to a copy-on-write array: nobody else sees it."""
        source = self.chance.choice(SOURCES)
        expected, mine = self._read(source, None, mode="c")
        mine[1:] = -1
        expected.cut(slice(0, 1)).check(mine[:1])
        if not (mine[1:] == -1).all():
            raise Wrong(f"{expected}: a private array lost what was written to it")
        others, original = self._read(source, None)
        others.check(original)

    def prefetch(self) -> None:
        """Have a file loaded without waiting."""
        source = self.chance.choice(SOURCES)
        with self._changing(source):
            arrayd.prefetch(source.path(self.world.folder), **source.options)

    def info(self) -> None:
        """Look at a file without loading it."""
        source = self.chance.choice(SOURCES)
        with self._changing(source):
            found = arrayd.info(source.path(self.world.folder), **source.options)
            assert found.shape == source.shape, f"{found} is not of shape {source.shape}"

    def evict(self) -> None:
        """Try to free a file that others may use."""
        with contextlib.suppress(arrayd.InUse, arrayd.NoSuchBlock):
            arrayd.evict(f"{self.world.folder}/{self.chance.choice(SOURCES).name}")

    # ---- what is held --------------------------------------------------------------------

    def slices(self) -> None:
        """Keep a part of an array, and perhaps no more than that."""
        if not self.held:
            return
        index = self.chance.randrange(len(self.held))
        expected, array = self.held[index]
        rows = self._rows(len(array))
        self.held.append((expected.cut(rows), array[rows]))
        if self.chance.random() < 0.5:
            del self.held[index]

    def drop(self) -> None:
        """Check what was held all the time, and drop it."""
        if self.held:
            expected, array = self._taken()
            expected.check(array)

    def release(self) -> None:
        """End a hold at once, and go on looking at its pages."""
        if self.held:
            expected, array = self._taken()
            if isinstance(array, arrayd.SharedArray):  # no value that came through the queue
                arrayd.release(array)
                arrayd.release(array)
            expected.check(array)

    # ---- publications --------------------------------------------------------------------

    def put(self) -> None:
        """Publish an array, under no name or under one that others publish under too."""
        code, name, serial = self._name()
        expected = Publication(code, serial).expected
        keep, replace = name is not None and self.chance.random() < 0.3, self.chance.random() < 0.7
        with contextlib.suppress(arrayd.NameTaken):
            array = arrayd.put(expected.values(), name, keep=keep, replace=replace)
            expected.check(array)
            self.held.append((expected, array))

    def create(self) -> None:
        """Write a block in place, or give it up in the middle."""
        code, name, serial = self._name()
        expected, gives_up = Publication(code, serial).expected, self.chance.random() < 0.3
        with (
            contextlib.suppress(arrayd.NameTaken, _GivenUp),
            arrayd.create(expected.shape, "i8", name, replace=self.chance.random() < 0.7) as out,
        ):
            out[:] = expected.values()
            if gives_up:
                raise _GivenUp
        if "out" in locals():
            expected.check(out)

    def find(self) -> None:
        """Get what somebody published under a name."""
        slot = self.chance.randrange(_SHARED_NAMES)
        with contextlib.suppress(arrayd.NoSuchBlock):
            timeout = self.chance.choice([None, 0.05])
            array = arrayd.get(f"name:shared{slot}", timeout=timeout)
            expected = Publication.seen(PUBLISHED + slot, array)
            expected.check(array)
            self.held.append((expected, array))

    # ---- references ----------------------------------------------------------------------

    def send(self) -> None:
        """Send an array by reference to whoever comes; then perhaps drop it, or die."""
        if not self.held:
            return
        expected, array = self.held[-1]
        returned, sent = self.world.board.returned, time.monotonic()
        letter = Letter(expected, returned, sent, bytes(ForkingPickler.dumps(array)))
        try:
            self.world.letters[0].send(pickle.dumps(letter))
        except (BlockingIOError, OSError):  # the queue is full, or the values are too many
            self._open(letter)
        fate = self.chance.random()
        if fate < 0.5:
            del array
            self.held.pop()
        if fate < 0.02:
            os.kill(os.getpid(), signal.SIGKILL)

    def receive(self) -> None:
        """Take an array out of the queue, if there is one."""
        with contextlib.suppress(BlockingIOError):
            self._open(pickle.loads(self.world.letters[1].recv(1 << 20)))

    def empty_queue(self) -> None:
        """Take all arrays out of the queue."""
        with contextlib.suppress(BlockingIOError):
            while True:
                letter = pickle.loads(self.world.letters[1].recv(1 << 20))
                with contextlib.suppress(arrayd.NoRoom, arrayd.LoadTimeout, _ChangedMeanwhile):
                    self._open(letter)

    def _open(self, letter: Letter) -> None:
        """Keep the array that a letter brings, unless it may be gone and is."""
        expected = letter.expected
        origin = SOURCES[expected.code] if expected.code < PUBLISHED else None
        try:
            with contextlib.nullcontext() if origin is None else self._changing(origin):
                array = pickle.loads(letter.reference)
                np.shape(array)  # a LostArray raises its error when it is used
        except arrayd.NoSuchBlock:
            if expected.code < PUBLISHED or not letter.may_be_gone(self.world.board):
                raise
            return
        expected.check(array)
        self.held.append((expected, array))

    # ---- the truth -----------------------------------------------------------------------

    def _read(self, source: Source, rows: slice | None, **options: Any) -> tuple[Expected, Any]:
        """Return a file's array, and what it must hold."""
        oldest = self._oldest(source)
        options = {"timeout": _PATIENCE, **source.options, **options}
        with self._changing(source):
            array = arrayd.get(source.path(self.world.folder), rows=rows, **options)
        self.world.count("attached bytes", array.nbytes)
        return self._seen_now(source, array, rows, oldest), array

    def _oldest(self, source: Source) -> int:
        return max(self.world.board.oldest(source), self._seen[source.number])

    def _seen_now(self, source: Source, array: Any, rows: slice | None, oldest: int) -> Expected:
        """Return what an array must hold, once its version is one that it can be."""
        newest, version = self.world.board.newest(source), version_of(array)
        if not oldest <= version <= newest:
            raise Wrong(f"{source.name}: version {version} is not in {oldest}..{newest}")
        self._seen[source.number] = version
        whole = Expected(source.number, version, source.shape)
        expected = whole if rows is None else whole.cut(rows)
        expected.check(array)
        return expected

    @contextlib.contextmanager
    def _changing(self, source: Source) -> Iterator[None]:
        """Take the error that a file may cause which is rewritten."""
        try:
            yield
        except arrayd.SourceChanged:
            if not source.changes:
                raise
            raise _ChangedMeanwhile from None

    def _taken(self) -> tuple[Expected, Any]:
        return self.held.pop(self.chance.randrange(len(self.held)))

    def _name(self) -> tuple[int, str | None, int]:
        """Return number, name and serial of what is to be published."""
        slot = self.chance.randrange(2 * _SHARED_NAMES)
        serial = self.chance.randrange(1 << 20)
        return PUBLISHED + slot, f"shared{slot}" if slot < _SHARED_NAMES else None, serial

    def _rows(self, count: int) -> slice:
        start = self.chance.randrange(count)
        return slice(start, self.chance.randint(start + 1, count), self.chance.choice([1, 1, 3]))


class _ChangedMeanwhile(Exception):
    """A file was rewritten while it was read, as may be."""


class _GivenUp(Exception):
    """The writer of a block changes its mind."""
