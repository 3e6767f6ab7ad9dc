"""A process that consumes batches on command: ``python -m tests.benchmarks.consumer SPEC``.

SPEC is JSON; ``kind`` names the work, the rest is for it. The process prints ``{}`` when it is
ready. For each line of JSON that it reads it works, and prints what it found: ``seconds``, ``cpu``
(seconds, with its worker processes), ``rows``, and what else there is to say.

A batch counts as delivered when its first and last row were looked at: all kinds copy or map the
whole of it, none reads it through.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from typing import Any, Protocol

import numpy as np

import arrayd
from arrayd.samples.order import EpochOrder
from arrayd.samples.selection import Rows
from tests.benchmarks import peers
from tests.benchmarks.processes import cpu_seconds, family

Array = np.ndarray[Any, Any]


class Work(Protocol):
    """What a consumer does."""

    def do(self, task: dict[str, Any]) -> dict[str, Any]:
        """Do a piece of it, and return what was found."""


class Spent:
    """Time that passes inside a ``with``.

    Attributes
    ----------
    seconds, cpu : float
        By the clock; of this process and its workers.
    """

    def __init__(self) -> None:
        self.seconds = self.cpu = 0.0

    def __enter__(self) -> Spent:
        self._workers = _of_workers()
        self._cpu, self._began = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.cpu = time.process_time() - self._cpu + _of_workers() - self._workers


def _of_workers() -> float:
    return cpu_seconds(family(os.getpid())[1:])


class OfArrayd:
    """A dataset's stream. The first word of each row is its number in the dataset.

    Tasks: ``open`` (options of ``stream``) makes the stream anew, with ``state`` in mid-way;
    ``batches`` takes so many (null: to the end); ``check`` looks at all rows; ``gone`` ends it.

    Parameters
    ----------
    spec
        ``endpoint``, ``sources``, ``dataset`` (options of ``arrayd.dataset``).
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        client = arrayd.connect(spec["endpoint"])
        self._dataset = arrayd.dataset(spec["sources"], client=client, **spec.get("dataset", {}))
        self._stream: Any = None

    def do(self, task: dict[str, Any]) -> dict[str, Any]:
        """Open, take batches, tell the state."""
        found: dict[str, Any] = {}
        began = time.perf_counter()
        if "open" in task:
            self._close()
            self._stream = self._dataset.stream(**task["open"])
            if task.get("state"):
                self._stream.load_state_dict(task["state"])
        opened = time.perf_counter() - began
        if "batches" in task:
            found |= self._take(task["batches"], check=task.get("check", False))
            found["waited"] = opened + found["first"]
        if task.get("gone"):
            self._close()
        if self._stream is not None:
            found["state"] = self._stream.state_dict()
            found["receipts"] = [receipt.to_json() for receipt in self._stream.receipts]
        return found

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _take(self, most: int | None, *, check: bool) -> dict[str, Any]:
        """Take batches; wrong rows are an error."""
        rows = batches = 0
        first = head = 0.0
        with Spent() as spent:
            began = time.perf_counter()
            while batches != most:
                batch = next(self._stream, None)
                if batch is None:
                    break
                if not batches:
                    first, head = time.perf_counter() - began, len(batch.ids)
                values, ids = batch["x"], batch.ids
                if check:
                    wrong = (values.reshape(len(ids), -1)[:, 0] != ids.view(np.int64)).any()
                else:
                    wrong = values[0, 0] != ids[0] or values[-1, 0] != ids[-1]  # as `OfTake`
                assert not wrong, f"wrong rows at {batch!r}"
                rows += len(ids)
                batches += 1
        return {**vars_of(spent), "rows": rows, "first": first, "head": head}


def vars_of(spent: Spent) -> dict[str, float]:
    """Return a time as data."""
    return {"seconds": spent.seconds, "cpu": spent.cpu}


class OfTake:
    """``np.take`` from plain shared memory by the same permutation, computed before the clock runs.

    Parameters
    ----------
    spec
        ``segment``, ``rows``, ``row_bytes``, ``batch``.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._memory = shared_memory.SharedMemory(spec["segment"])
        # Else it is unlinked when this process ends.
        resource_tracker.unregister(self._memory._name, "shared_memory")  # type: ignore[attr-defined]
        shape = spec["rows"], spec["row_bytes"] // 8
        self._rows = np.ndarray(shape, np.int64, self._memory.buf)
        self._batch: int = spec["batch"]
        self._epoch = -1

    def do(self, task: dict[str, Any]) -> dict[str, Any]:
        """Take an epoch."""
        self._epoch += 1
        n, size = len(self._rows), self._batch
        order = EpochOrder(Rows(n), 7, self._epoch).window(0, n).view(np.int64)
        out = np.empty((size, self._rows.shape[1]), np.int64)
        with Spent() as spent:
            for first in range(0, n, size):
                ids = order[first : first + size]
                values = out[: len(ids)]
                np.take(self._rows, ids, axis=0, out=values, mode="clip")
                assert values[0, 0] == ids[0]
                assert values[-1, 0] == ids[-1]
        return {**vars_of(spent), "rows": n}


class OfBatches:
    """Another library's batches, whose iterators come one per epoch.

    Parameters
    ----------
    epochs
        Yields the batches of an epoch each; arrays of rows.
    most
        Batches of an epoch that are taken; the first one is not timed.
    """

    def __init__(self, epochs: Iterator[Iterator[Any]], most: int) -> None:
        self._epochs = epochs
        self._most = most

    def do(self, task: dict[str, Any]) -> dict[str, Any]:
        """Take an epoch, or the beginning of it."""
        batches = next(self._epochs)
        next(batches)  # workers start with it
        rows = 0
        with Spent() as spent:
            for number, values in enumerate(batches, 2):
                rows += len(values)
                float(values[0][0])
                float(values[-1][0])
                if number >= self._most:
                    break
        return {**vars_of(spent), "rows": rows}


class OfNothing:
    """An interpreter that has imported arrayd and is connected: what a consumer weighs at least."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._client = arrayd.connect(spec["endpoint"])

    def do(self, task: dict[str, Any]) -> dict[str, Any]:
        """Do nothing."""
        return {}


def work_of(spec: dict[str, Any]) -> Work:
    """Return the work of this kind."""
    kinds: dict[str, Any] = {
        "arrayd": OfArrayd,
        "take": OfTake,
        "nothing": OfNothing,
        "loader": lambda spec: OfBatches(peers.loader_epochs(spec), spec["most"]),
        "tensorsocket": lambda spec: OfBatches(peers.socket_epochs(spec), spec["most"]),
    }
    made: Work = kinds[spec["kind"]](spec)
    return made


def main() -> None:
    """Work until the input ends."""
    work = work_of(json.loads(sys.argv[1]))
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        found = work.do(json.loads(line))
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
    if not isinstance(work, OfArrayd):
        os._exit(0)  # threads of other libraries do not hold it up


if __name__ == "__main__":
    main()
