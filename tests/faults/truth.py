"""The truth of the soak: what every array must hold, known without asking anybody.

Element *k* of version *v* of the thing numbered *c* is ``c << 44 | v << 24 | k``: the first
element tells what one looks at, and all the others follow, so an array of two versions, of
another file or shifted by one row is found out. Files are rewritten by the soak alone, which
says before and after each rename which version may be and which must be seen.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

_RAMP = np.arange(1 << 17)
_VERSIONS = 1 << 20  # so many, then they begin anew
PUBLISHED = 100
"""What clients publish has numbers from here on; files have smaller ones."""


class Wrong(AssertionError):
    """A value was read that cannot be."""


class Expected(NamedTuple):
    """What an array must hold: the whole array `of` a version, and the cuts made since."""

    code: int
    version: int
    shape: tuple[int, ...]
    cuts: tuple[slice, ...] = ()

    def values(self) -> npt.NDArray[np.int64]:
        """Return them."""
        count = int(np.prod(self.shape))
        whole = (self.code << 44) + (self.version << 24) + _RAMP[:count].reshape(self.shape)
        for cut in self.cuts:
            whole = whole[cut]
        return whole

    def cut(self, rows: slice) -> Expected:
        """Return what ``array[rows]`` must hold."""
        return self._replace(cuts=(*self.cuts, rows))

    def check(self, array: npt.NDArray[Any]) -> None:
        """Raise `Wrong` unless the array holds exactly this."""
        values = self.values()
        if array.shape != values.shape:
            raise Wrong(f"{self}: an array of shape {array.shape}")
        if not (array == values).all():
            row = np.argwhere(np.asarray(array != values))[0]
            seen, due = int(array[tuple(row)]), int(values[tuple(row)])
            raise Wrong(f"{self}: {_words(seen)} instead of {_words(due)} at {row}")


class Publication(NamedTuple):
    """What a client publishes: its length follows from its version."""

    code: int
    serial: int

    @property
    def expected(self) -> Expected:
        """Return what it must hold."""
        serial = self.serial % _VERSIONS
        return Expected(self.code, serial, (1 + serial * 7919 % 30_000,))

    @classmethod
    def seen(cls, code: int, array: npt.NDArray[Any]) -> Expected:
        """Return what an array must hold that was found under a name, whoever published it."""
        return cls(code, version_of(array)).expected


def version_of(array: npt.NDArray[Any]) -> int:
    """Return the version that an array's first element is of."""
    return int(array.flat[0]) >> 24 & _VERSIONS - 1


def _words(value: int) -> str:
    return f"{value >> 44}/{value >> 24 & _VERSIONS - 1}/{value & 0xFFFFFF}"


# ---- files -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A file, how to ask for it, and whether it is rewritten."""

    number: int
    name: str
    shape: tuple[int, ...]
    options: dict[str, Any]
    changes: bool

    def path(self, folder: str) -> str:
        """Return what `arrayd.get` takes."""
        member = {"npz": ":x", "h5": ":/group/x"}.get(self.name.rpartition(".")[2], "")
        return f"{folder}/{self.name}{member}"

    def write(self, folder: str, version: int) -> None:
        """Put a version in the file's place at once."""
        values = Expected(self.number, version, self.shape).values()
        fresh = f"{folder}/fresh-{self.name}"
        kind = self.name.rpartition(".")[2]
        if kind == "npy":
            np.save(fresh, np.asfortranarray(values) if self.number % 2 else values)
        elif kind == "npz":
            np.savez(fresh, x=values)
        elif kind == "h5":
            with h5py.File(fresh, "w") as file:
                file.create_dataset("group/x", data=values, chunks=True, compression="gzip")
        elif kind == "txt":
            np.savetxt(fresh, values, "%d")
        else:
            values.tofile(fresh)
        os.rename(fresh, f"{folder}/{self.name}")


def _sources() -> list[Source]:
    kinds = ["npy", "npy", "npz", "h5", "raw", "npy", "npy", "txt"]
    found = []
    for number in range(3 * len(kinds)):
        kind = kinds[number % len(kinds)]
        rows = 2_000 if kind == "txt" else 4_000 + 1_500 * number
        shape = (rows, 2) if number % 3 == 0 and kind != "txt" else (rows,)
        options: dict[str, Any] = {"dtype": "i8"} if kind in ("raw", "txt") else {}
        if kind == "raw":
            options["shape"] = (-1, *shape[1:])
        found.append(Source(number, f"{number}.{kind}", shape, options, changes=number % 2 == 1))
    return found


SOURCES = _sources()


# ---- what the soak tells its actors, and they tell it -----------------------------------------


class Board:
    """Numbers that all processes of a soak see at once, in a file that they map.

    Parameters
    ----------
    path
        Of the file.
    slots, columns
        How many actors count how many kinds of things.
    """

    def __init__(self, path: Path, slots: int, columns: int) -> None:
        count = 2 * len(SOURCES) + 3 + slots * columns
        if not path.exists():
            np.zeros(count, np.int64).tofile(path)
        self._all = np.memmap(path, np.int64, "r+", shape=(count,))
        versions = 2 * len(SOURCES)
        self._begun, self._done = self._all[:versions].reshape(2, -1)
        self._restarts = self._all[versions : versions + 3]
        self.tally = self._all[versions + 3 :].reshape(slots, columns)

    def rewrite(self, source: Source, folder: str) -> None:
        """Write the next version of a file; only the soak does."""
        version = int(self._begun[source.number]) + 1
        self._begun[source.number] = version
        source.write(folder, version)
        self._done[source.number] = version

    def oldest(self, source: Source) -> int:
        """Return the version that a request beginning now must at least see."""
        return int(self._done[source.number])

    def newest(self, source: Source) -> int:
        """Return the version that a request ending now can at most have seen."""
        return int(self._begun[source.number])

    def restarting(self, *, frees: bool) -> None:
        """Take note that the daemon is about to end, and whether it frees what is unmapped."""
        self._restarts[0] += 1
        self._restarts[1] += frees

    def restarted(self) -> None:
        """Take note that the next daemon serves."""
        self._restarts[2] += 1

    @property
    def returned(self) -> int:
        """How often the next daemon has served."""
        return int(self._restarts[2])

    @property
    def restarts(self) -> tuple[int, int]:
        """How often the daemon has ended, and how often it freed what nobody mapped."""
        return int(self._restarts[0]), int(self._restarts[1])


class Letter(NamedTuple):
    """An array on its way from one actor to another."""

    expected: Expected
    returned: int  # restarts that were over before it was packed
    sent: float
    reference: bytes

    def may_be_gone(self, board: Board) -> bool:
        """Say whether the daemon may have forgotten what it lent: a restart, or a minute."""
        return board.restarts[0] != self.returned or time.monotonic() - self.sent > 50
