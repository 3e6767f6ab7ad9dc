"""One long-lived loader process as the daemon has it, and an oracle process beside it.

The oracle reads the same file with numpy or h5py: in a process of its own, for what crashes
a loader crashes it as well. ``python -m tests.faults.hostile_loader`` is that process.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.lib.format import drop_metadata

from arrayd.errors import ArraydError, LoaderCrashed, LoadTimeout, NoRoom, from_wire
from arrayd.source import Source
from arrayd.wire.codec import pack, stream
from arrayd.wire.dtypes import from_descr

Array = np.ndarray[Any, Any]

MEMORY = 512 << 20
"""Bytes that the loader, and the oracle, may use."""

BUDGET = 64 << 20
"""A larger array is `NoRoom`, as in a daemon of this budget."""

PATIENCE = 10.0
"""Seconds after which a task counts as hung."""

ROOT = Path(__file__).resolve().parents[2]


class Loader:
    """A worker on a socket pair; started again when it crashes, or says that it is spent.

    Parameters
    ----------
    target
        A file that takes the place of the segment.
    log
        A file that takes what the process writes to its standard error.
    """

    def __init__(self, target: Path, log: Path, memory: int = MEMORY) -> None:
        self.peak = 0  # bytes of RAM that any of the processes had at a time
        self._target = target
        self._log = log
        self._memory = memory
        self._start()

    def load(self, source: Source) -> tuple[dict[str, Any], Array]:
        """Return what a probe finds, and the array, all parts filled.

        Raises
        ------
        ArraydError
            What the loader says; LoaderCrashed and LoadTimeout for what it does.
        """
        found = self.ask("probe", source, stat=None)
        dtype, shape = from_descr(found["descr"]), tuple(found["shape"])
        nbytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if nbytes > BUDGET:
            raise NoRoom(f"{nbytes} bytes")
        with self._target.open("wb") as file:
            file.truncate(nbytes)
        for part in found["parts"]:
            self.ask(
                "fill",
                source,
                part=part,
                path=str(self._target),
                found={**found, "parts": []},
            )
        data = np.fromfile(self._target, np.uint8)
        empty = np.zeros(shape, dtype) if not nbytes else None
        order: Any = found["order"]
        return found, empty if empty is not None else data.view(dtype).reshape(shape, order=order)

    def ask(self, op: str, source: Source, **fields: Any) -> dict[str, Any]:
        """Return the answer to one task."""
        self._sock.sendall(pack({"id": 1, "op": op, "source": source.to_wire(), **fields}))
        until = time.monotonic() + PATIENCE
        while True:
            for message in self._inbox:
                if "rows" not in message:
                    return self._told(message)
            if not select.select([self._sock], [], [], max(0, until - time.monotonic()))[0]:
                self._end()
                self._start()
                raise LoadTimeout(f"{source}: {op} hangs")
            data = self._sock.recv(1 << 20)
            if not data:
                code = self._process.wait()
                self._end()
                self._start()
                raise LoaderCrashed(f"{source}: {op} ended with {code}")
            self._inbox.feed(data)

    def close(self) -> None:
        """End it; twice is once."""
        if self._process.returncode is None:
            self._note_peak()
        self._end()

    def _told(self, message: dict[str, Any]) -> dict[str, Any]:
        if message.get("spent"):
            self.close()
            self._start()
        if "err" in message:
            raise from_wire(message["err"])
        answer: dict[str, Any] = message["ok"]
        return answer

    def _start(self) -> None:
        self._sock, theirs = socket.socketpair()
        self._inbox = stream()
        numbers = (theirs.fileno(), os.getpid(), self._memory)
        with theirs, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "arrayd_server.loading.worker", *map(str, numbers)],
                pass_fds=[theirs.fileno()],
                stderr=log,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )

    def _note_peak(self) -> None:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        lines = (line.split() for line in status.splitlines())
        self.peak = max([self.peak, *(int(w[1]) << 10 for w in lines if w[0] == "VmHWM:")])

    def _end(self) -> None:
        self._sock.close()
        self._process.kill()
        self._process.wait()


class Oracle:
    """What numpy or h5py makes of a file; None if they refuse it, crash or take too long."""

    def __init__(self) -> None:
        self._start()

    def digest(self, source: Source, member: str | None) -> list[Any] | None:
        """Return shape, dtype and a hash of the values, as `digest` does."""
        question: dict[str, Any] = {"member": member, "options": source.option, "rows": source.rows}
        question |= {"path": source.path, "format": source.resolved_format()}
        question["dtype"] = None if source.dtype is None else source.dtype.descr
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        ready = select.select([self._process.stdout], [], [], PATIENCE)[0]
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self.close()
            self._start()
            return None
        answer: list[Any] | None = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _start(self) -> None:
        self._process: Any = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.hostile_loader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )


def digest(array: Array) -> list[Any]:
    """Return shape, dtype and a hash of the values; padding between fields does not count."""
    total = hashlib.blake2b()
    for leaf in _leaves(array):
        total.update(np.ascontiguousarray(leaf).tobytes())
    return [list(array.shape), str(drop_metadata(array.dtype)), total.hexdigest()]


def _leaves(array: Array) -> list[Array]:
    names = array.dtype.names
    return [leaf for n in names for leaf in _leaves(array[n])] if names else [array]


def _hdf5(question: dict[str, Any]) -> Array:
    with h5py.File(question["path"], "r", locking=False) as file:
        return np.asarray(file[question["member"]][()])


def _text(question: dict[str, Any]) -> Array:
    return np.loadtxt(question["path"], dtype=_dtype(question) or float, **question["options"])


def _raw(question: dict[str, Any]) -> Array:
    values = np.fromfile(question["path"], _dtype(question), offset=question["options"]["offset"])
    unit = int(np.prod([n for n in question["options"]["shape"] if n > 0]))
    return values[: values.size // unit * unit].reshape(question["options"]["shape"])


def _dtype(question: dict[str, Any]) -> Any:
    found = question["dtype"]
    if found is None:
        return None
    return np.dtype(found[0][1]) if len(found) == 1 else np.dtype([tuple(f) for f in found])


_READERS: dict[str, Callable[[dict[str, Any]], Array]] = {
    "npy": lambda q: np.load(io.BytesIO(Path(q["path"]).read_bytes())),
    "npz": lambda q: np.load(q["path"])[q["member"]],
    "hdf5": _hdf5,
    "text": _text,
    "raw": _raw,
}


def main() -> None:
    """Answer questions, one a line."""
    resource.setrlimit(resource.RLIMIT_DATA, (2 * MEMORY, 2 * MEMORY))
    for line in sys.stdin:
        question = json.loads(line)
        try:
            array = _READERS[question["format"]](question)
            rows = question["rows"]
            answer: Any = digest(array if rows is None else array[slice(*rows)])
        except Exception:  # it refuses
            answer = None
        print(json.dumps(answer), flush=True)  # noqa: T201 - that is how it answers


def known(error: ArraydError) -> bool:
    """Say whether an error is one that a user can be told, and no bug of ours."""
    return "bug in arrayd" not in error.message and len(error.message) <= 4000


if __name__ == "__main__":
    main()
