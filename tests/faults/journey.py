"""What a user does, as steps that a fault may hit: each is tried until it succeeds.

A puppet runs one (`matrix.py`). A step that fails with an error of arrayd is tried again, as
a user would, and one that is ended by Ctrl-C is not; any other error, and any wrong value, is
a violation.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import arrayd
from arrayd.datasets.pack import pack
from arrayd.gather.hdf5 import collect

FILES = {"a.npy": 1, "b.npy": 2, "c.npy": 3}
"""The files and the value that each is full of."""

ITEMS = 300_000
"""Of each file, 8 bytes each: several chunks."""

NAME = "table"

ROWS = 10
"""Of the file that `write` makes; row n is the number n."""

TRIES = 40
_WAIT = 15.0  # seconds that a request may take; a fault lasts for one or two


class Journey:
    """The steps, and what went wrong on the way.

    Parameters
    ----------
    endpoint
        Of the daemon.
    folder
        Where `FILES` are.
    """

    def __init__(self, endpoint: str, folder: str) -> None:
        os.environ["ARRAYD_ENDPOINT"] = endpoint
        self.folder = Path(folder)
        self.endpoint = endpoint
        self.held: dict[str, Any] = {}

    def go(self, *steps: str) -> list[str]:
        """Do steps; return the errors that were met, in order, as "class: message"."""
        met: list[str] = []
        for step in steps:
            self._do(getattr(self, step), met)
        return met

    def _do(self, step: Callable[[], None], met: list[str]) -> None:
        for _ in range(TRIES):
            try:
                return step()
            except arrayd.ArraydError as error:
                met.append(f"{type(error).__name__}: {error}")
            except KeyboardInterrupt:
                met.append("KeyboardInterrupt:")
                return None
            time.sleep(0.05)  # what a user does before trying again
        raise AssertionError(f"{step.__name__} fails and fails: {met[-3:]}")

    # ---- files ---------------------------------------------------------------------------

    def load(self) -> None:
        """Get a file through two sessions; both read the right values from one block."""
        with arrayd.connect(self.endpoint) as other:
            first = arrayd.get(self.folder / "a.npy", timeout=_WAIT)
            second = other.get(self.folder / "a.npy", timeout=_WAIT)
            _check(first, FILES["a.npy"])
            _check(second, FILES["a.npy"])
            self.held["a.npy"] = first

    def hit(self) -> None:
        """Get what is in memory through a session that has met the daemon, and then ask it."""
        with arrayd.connect(self.endpoint) as other:
            other.status()
            array = other.get(self.folder / "a.npy", timeout=_WAIT)
            _check(array, FILES["a.npy"])
            other.status()
            del array

    def load_all(self) -> None:
        """Get all files in one request."""
        paths = [self.folder / name for name in FILES]
        for name, array in zip(FILES, arrayd.get_many(paths, timeout=_WAIT), strict=True):
            _check(array, FILES[name])
            self.held[name] = array

    def cast(self) -> None:
        """Get a file in another type and order: its chunks are small, and go through a mapping."""
        array = arrayd.get(self.folder / "b.npy", cast="f4", timeout=_WAIT)
        assert array.dtype == np.float32
        _check(array, FILES["b.npy"])

    def drop(self) -> None:
        """Let all arrays go; the daemon hears of it."""
        self.held.clear()
        gc.collect()
        _until(lambda: not any(h.pid == os.getpid() for b in _blocks() for h in b.holders))

    def evict(self) -> None:
        """Free a file that nobody uses."""
        with contextlib.suppress(arrayd.NoSuchBlock):  # a try that failed may have done it
            arrayd.evict(self.folder / "a.npy")
        path = str(self.folder / "a.npy")
        assert not any(b.path == path and b.state != "leaving" for b in _blocks())

    def look(self) -> None:
        """Ask how things are."""
        assert any(session.pid == os.getpid() for session in arrayd.status().sessions)

    def gather(self) -> None:
        """Collect the files in one; it is whole as soon as it is there."""
        out = self.folder / "out.h5"
        files = [self.folder / name for name in FILES]
        with arrayd.connect(self.endpoint) as client:
            collect(client, files, out)
        check_gathered(out)

    def write(self) -> None:
        """Append rows to a file, or go on with what an earlier try has flushed."""
        out = self.folder / "rows.npy"
        with arrayd.writer(out, "i8", resume=True, flush_every=3 * 8) as writer:
            while writer.rows < ROWS:
                writer.append([writer.rows])
        assert check_written(out) == ROWS
        out.unlink()

    def pack(self) -> None:
        """Pack the files in one, or go on with what an earlier try has packed."""
        out = self.folder / "set.npy"
        with arrayd.connect(self.endpoint) as client:
            pack(client, [self.folder / name for name in FILES], out)
        check_packed(out)
        out.unlink()

    # ---- published blocks ----------------------------------------------------------------

    def publish(self) -> None:
        """Put an array under a name; the name shows it."""
        self.held[NAME] = arrayd.put(_published(1), NAME, replace=True, timeout=_WAIT)
        check_named(arrayd.get(f"name:{NAME}"), 1)

    def rewrite(self) -> None:
        """Write a block in place, under a name that another block has."""
        with arrayd.create(ITEMS, "i8", NAME, replace=True, timeout=_WAIT) as out:
            out[:] = _published(2)
        self.held[NAME] = out
        check_named(arrayd.get(f"name:{NAME}"), 2)

    def give_up(self) -> None:
        """Write half of a block and give it up: the name is what it was before."""
        with (
            contextlib.suppress(ZeroDivisionError),
            arrayd.create(ITEMS, "i8", NAME, replace=True, timeout=_WAIT) as out,
        ):
            out[: ITEMS // 2] = 7
            raise ZeroDivisionError

    def send(self) -> None:
        """Send an array by reference, to another session of ours."""
        message = bytes(ForkingPickler.dumps(self.held["a.npy"]))
        assert len(message) < 2000, "it was sent by value"
        _check(pickle.loads(message), FILES["a.npy"])

    # ---- processes -----------------------------------------------------------------------

    def fork(self) -> None:
        """Fork a child that reads what it inherits, and gets more; it may be killed."""
        pid = os.fork()
        if pid == 0:
            os._exit(self._as_child())
        _, status = os.waitpid(pid, 0)
        assert status in (0, signal.SIGKILL), f"a child ended with {status}"
        _check(self.held["a.npy"], FILES["a.npy"])

    def _as_child(self) -> int:
        with contextlib.suppress(BaseException):
            _check(self.held["a.npy"], FILES["a.npy"])
            self.load_all()
            return 0
        return 3

    def hand_over(self) -> None:
        """Have the daemon replaced; what is held can be read all the time, and is adopted."""
        self._replace_daemon(signal.SIGUSR1)

    def stop(self) -> None:
        """Have the daemon stopped, and another one started by its keeper."""
        self._replace_daemon(signal.SIGTERM)

    def _replace_daemon(self, number: int) -> None:
        pid = arrayd.status().pid
        os.kill(pid, number)
        _until(lambda: self._read_on() and arrayd.status().pid != pid)
        self.load()

    def _read_on(self) -> bool:
        for name, array in self.held.items():
            _check(array, FILES[name])
        return True


def check_named(array: Any, *allowed: int) -> None:
    """Assert that a published array is one of those written, and whole."""
    assert any(np.array_equal(array, _published(n)) for n in allowed or (1, 2)), array


def check_gathered(out: Path) -> None:
    """Assert that a collected file has all arrays."""
    with h5py.File(out) as file:
        values = sorted(set(np.unique(item[()])) for item in file.values())
    assert values == sorted({value} for value in FILES.values()), values


def check_packed(out: Path) -> None:
    """Assert that a packed file has all rows of all files."""
    parts = np.split(np.load(out), len(FILES))
    assert [np.unique(part).tolist() for part in parts] == [[value] for value in FILES.values()]


def check_written(out: Path) -> int:
    """Assert that a file that is written has the first rows, each right; return how many."""
    rows = np.load(out)
    assert rows.tolist() == list(range(len(rows))), rows
    return len(rows)


def _published(number: int) -> np.ndarray[Any, Any]:
    return np.arange(ITEMS) * number


def _check(array: Any, value: int) -> None:
    assert len(array) == ITEMS
    assert (array == value).all(), f"a value other than {value} was read"


def _blocks() -> Iterator[Any]:
    yield from arrayd.status().blocks


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + _WAIT
    while not holds():
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.005)
