"""One client process of the soak: random calls, every value checked against the naive truth.

The truth: file *i* holds the value *i* in every element, and a published array is of one
value that its writer knows. Run as ``python -m tests.faults.actor SEED FOLDER SECONDS``;
prints what it did as JSON. `ARRAYD_ENDPOINT` says where.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import pickle
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

import arrayd

FILES = 12
_MOST_HELD = 8
_PATIENCE = 2  # seconds: all may hold what the others wait for, until somebody gives up


class Actor:
    """Random operations; what it holds is a list of (true value, array)."""

    def __init__(self, seed: int, folder: str) -> None:
        self.done: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._folder = folder
        self._held: list[tuple[int, Any]] = []
        self._operations: list[tuple[Callable[[], None], int]] = [
            (self.get, 450),
            (self.drop, 250),
            (self.put, 80),
            (self.create, 60),
            (self.fork, 60),
            (self.evict, 30),
            (self.refer, 60),
            (self.die, 1),
        ]

    def run(self, seconds: float) -> None:
        """Do operations for so long."""
        operations, weights = zip(*self._operations, strict=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            operation = self._random.choices(operations, weights)[0]
            self.done[operation.__name__] += 1
            # What a crowded machine may answer; anything else is a violation.
            with contextlib.suppress(arrayd.NoRoom, arrayd.LoadTimeout, arrayd.NoSuchBlock):
                operation()
            del self._held[: max(0, len(self._held) - _MOST_HELD)]

    def get(self) -> None:
        """Get a file, keep a slice of it."""
        value = self._random.randrange(FILES)
        array = arrayd.get(f"{self._folder}/{value}.npy", timeout=_PATIENCE)
        self._check(value, array)
        self._held.append((value, array[self._random.randrange(3) :]))

    def drop(self) -> None:
        """Check what was held all the time, and drop it."""
        if self._held:
            self._check(*self._held.pop(self._random.randrange(len(self._held))))

    def put(self) -> None:
        """Publish an array, and keep it or not."""
        value = self._random.randrange(100)
        array = arrayd.put(np.full(self._random.randrange(1, 30_000), value))
        self._check(value, array)
        if self._random.random() < 0.5:
            self._held.append((value, array))

    def create(self) -> None:
        """Write a block under a name that others write too, or give it up."""
        value, gives_up = self._random.randrange(100), self._random.random() < 0.3
        name = f"n{self._random.randrange(4)}"
        with (
            contextlib.suppress(KeyError),
            arrayd.create(2000, "i8", name=name, replace=True) as out,
        ):
            out[:] = value
            if gives_up:
                raise KeyError
        if not gives_up:
            self._check(value, out)

    def fork(self) -> None:
        """Have a child check what it inherits, get something, and end or be killed."""
        pid = os.fork()
        if pid == 0:
            os._exit(self._as_child())
        _, status = os.waitpid(pid, 0)
        assert status in (0, signal.SIGKILL), f"a child ended with {status}"

    def _as_child(self) -> int:
        try:
            for value, array in self._held:
                self._check(value, array)
            with contextlib.suppress(arrayd.NoRoom, arrayd.LoadTimeout):
                self.get()
            if self._random.random() < 0.3:
                self.die()
        except BaseException:
            traceback.print_exc()
            return 3
        return 0

    def evict(self) -> None:
        """Try to free a file that others may use."""
        with contextlib.suppress(arrayd.InUse):
            arrayd.evict(f"{self._folder}/{self._random.randrange(FILES)}.npy")

    def refer(self) -> None:
        """Send a reference to ourselves, as through a queue."""
        if self._held:
            value, array = self._random.choice(self._held)
            again = pickle.loads(bytes(ForkingPickler.dumps(array)))
            self._check(value, again)
            self._held.append((value, again))

    def die(self) -> None:
        """Be killed in the middle of everything."""
        os.kill(os.getpid(), signal.SIGKILL)

    def _check(self, value: int, array: Any) -> None:
        assert (array == value).all(), f"a value other than {value} was read"


def main() -> None:
    """Act, then say what was done."""
    faulthandler.register(signal.SIGUSR2)  # for the soak to see where one hangs
    seed, folder, seconds = sys.argv[1:]
    actor = Actor(int(seed), folder)
    actor.run(float(seconds))
    json.dump(actor.done, sys.stdout)


if __name__ == "__main__":
    main()
