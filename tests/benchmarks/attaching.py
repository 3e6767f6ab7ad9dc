"""Ways to get arrays that lie in memory already: ``python -m tests.benchmarks.attaching SPEC``.

One class for arrayd, for bare system calls, for a bare round trip and for each peer. Each gets the
same arrays, of `VALUES` doubles, in turn, looks at one value of each, and drops it at once: by then
it is attached. The names that a peer's calls need are made before the clock runs. This module runs
under the peers' Python too, so that libraries are imported where they are used.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import mmap
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.player import Found, Work, play, timed

VALUES = 512
"""Doubles in a small array: 4 KiB."""


class OfArrayd:
    """A client.

    Parameters
    ----------
    spec
        ``endpoint``; ``files``, each with `VALUES` doubles; ``members``, the same in one block.
    """

    def __init__(self, spec: Found) -> None:
        import arrayd

        self._client = arrayd.connect(spec["endpoint"])
        self._files: list[str] = spec["files"]
        self._members: list[str] = spec.get("members", [])
        self._kept: Any = None

    def __call__(self, task: Found) -> Found:
        """Get in the way that ``what`` names; see the code."""
        get, get_many, each = self._client.get, self._client.get_many, itertools.cycle(self._files)
        if task["what"] == "held":
            self._kept = get(self._files[0])
        if task["what"] == "sum":
            return self._sum(task["file"])
        if task["what"] == "hunted":
            return self._hunted(task)
        calls: dict[str, Callable[[], object]] = {
            "held": lambda: get(self._files[0])[7],
            "distinct": lambda: get(next(each))[7],
            "asking": lambda: get(next(each), pin=0.1)[7],
            "many": lambda: get_many(self._files)[-1][7],
            "members": lambda: get_many(self._members)[-1][7],
            "load": lambda: get_many(self._files + self._members),
        }
        found = timed(calls[task["what"]], task)
        self._kept = None
        return found

    def _hunted(self, task: Found) -> Found:
        """Get while others are up to something; what goes wrong is counted."""
        errors: list[str] = []
        each = itertools.cycle(self._files)

        def call() -> None:
            try:
                assert self._client.get(next(each)).shape == (VALUES,)
            except Exception as error:
                errors.append(repr(error))

        return {**timed(call, task), "errors": len(errors), "first": errors[:1]}

    def _sum(self, file: str | None) -> Found:
        """Sum a large array twice, and keep it; None: let it go."""
        if file is None:
            self._kept = None
            return {}
        self._kept = self._client.get(file)
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            float(self._kept.sum())
            seconds.append(time.perf_counter() - began)
        return {"first": seconds[0], "second": seconds[1]}


class OfSegments:
    """Bare system calls on files in a folder of /dev/shm.

    Parameters
    ----------
    spec
        ``files`` as above; ``segments``: as many, of a page and a footer each.
    """

    def __init__(self, spec: Found) -> None:
        self._pairs: list[tuple[str, str]] = list(zip(spec["files"], spec["segments"], strict=True))

    def __call__(self, task: Found) -> Found:
        """Get what is mapped, or map."""
        each = itertools.cycle(self._pairs)
        path, segment = self._pairs[0]
        kept = self._attach(path, segment)

        def held() -> float:
            os.stat(path)
            return float(kept.view()[7])

        def distinct() -> float:
            return float(self._attach(*next(each))[7])

        return timed({"held": held, "distinct": distinct}[task["what"]], task)

    @staticmethod
    def _attach(path: str, segment: str) -> np.ndarray[Any, Any]:
        """Look whether the file is as it was, and map its segment: what nobody can do without."""
        os.stat(path)
        fd = os.open(segment, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            os.pread(fd, mmap.PAGESIZE, size - mmap.PAGESIZE)
            pages = mmap.mmap(fd, VALUES * 8, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        return np.ndarray((VALUES,), np.float64, pages)


class OfEcho:
    """A bare DEALER round trip of a packed request, to an echo that unpacks and packs it.

    Parameters
    ----------
    spec
        ``at``: of the echo.
    """

    def __init__(self, spec: Found) -> None:
        self._msgpack, zmq = importlib.import_module("msgpack"), importlib.import_module("zmq")
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.connect(spec["at"])
        self._message = {"op": "get", "path": "/var/tmp/0123456789.npy", "stat": [1 << 40] * 5}

    def __call__(self, task: Found) -> Found:
        """Ask."""

        def ask() -> object:
            self._socket.send(self._msgpack.packb(self._message))
            return self._msgpack.unpackb(self._socket.recv())

        return timed(ask, task)


def echo(spec: Found) -> Work:
    """Be the echo of `OfEcho`, until killed."""
    msgpack, zmq = importlib.import_module("msgpack"), importlib.import_module("zmq")
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(spec["at"])

    def answer(_: Found) -> Found:
        while True:
            who, message = socket.recv_multipart()
            socket.send_multipart([who, msgpack.packb(msgpack.unpackb(message))])

    return answer


class OfPlasma:
    """A client of a Plasma store.

    Parameters
    ----------
    spec
        ``socket`` of the store; ``count`` of arrays.
    """

    def __init__(self, spec: Found) -> None:
        warnings.simplefilter("ignore", DeprecationWarning)  # each of its names says it is old
        self._plasma = importlib.import_module("pyarrow.plasma")
        self._client = self._plasma.connect(spec["socket"])
        self._ids = [self._id(str(number)) for number in range(spec["count"])]
        self._raw = self._id("raw")

    def __call__(self, task: Found) -> Found:
        """Put them all, or get."""
        get, each = self._client.get, itertools.cycle(self._ids)
        if task["what"] == "fill":
            for one in self._ids:
                self._client.put(np.zeros(VALUES), one)
            buffer = memoryview(self._client.create(self._raw, VALUES * 8))
            buffer.cast("B")[:] = bytes(VALUES * 8)
            self._client.seal(self._raw)
            return {}
        kept = self._client.get_buffers([self._raw])

        def held() -> object:
            (buffer,) = self._client.get_buffers([self._raw])
            return np.frombuffer(buffer)[7]

        calls: dict[str, Callable[[], object]] = {
            "held": held,
            "distinct": lambda: get(next(each))[7],
            "many": lambda: get(self._ids)[-1][7],
        }
        found = timed(calls[task["what"]], task)
        del kept
        return found

    def _id(self, name: str) -> Any:
        return self._plasma.ObjectID(hashlib.sha1(name.encode()).digest())


class OfSharedArray:
    """The library SharedArray: no server, no counts, no freshness.

    Parameters
    ----------
    spec
        ``prefix`` of the names; ``count`` of arrays.
    """

    def __init__(self, spec: Found) -> None:
        self._library = importlib.import_module("SharedArray")
        self._names = [f"shm://{spec['prefix']}{number}" for number in range(spec["count"])]

    def __call__(self, task: Found) -> Found:
        """Create them all, or attach."""
        if task["what"] == "fill":
            for name in self._names:
                self._library.create(name, VALUES)
            return {}
        each, attach = itertools.cycle(self._names), self._library.attach
        return timed(lambda: attach(next(each))[7], task)


class OfCopies:
    """A process that has a copy of its own, as `np.load` makes it."""

    def __init__(self, _: Found) -> None:
        self._kept: Any = None

    def __call__(self, task: Found) -> Found:
        """Load ``file``, sum it, and keep it."""
        self._kept = np.load(task["file"])
        return {"sum": float(self._kept.sum())}


def small_files(folder: Path, count: int) -> list[str]:
    """Make .npy files of one small array each."""
    folder.mkdir()
    paths = [str(folder / f"{number}.npy") for number in range(count)]
    for path in paths:
        np.save(path, np.arange(float(VALUES)))
    return paths


if __name__ == "__main__":
    play(
        {
            "arrayd": OfArrayd,
            "segments": OfSegments,
            "echo": OfEcho,
            "echo server": echo,
            "plasma": OfPlasma,
            "sharedarray": OfSharedArray,
            "copies": OfCopies,
        }
    )
