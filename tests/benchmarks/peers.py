"""Other libraries at the same work, where they are installed: torch's DataLoader, TensorSocket.

``python -m tests.benchmarks.peers SPEC`` is TensorSocket's producer, which its consumers need.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def installed(name: str) -> bool:
    """Tell whether a library can be imported."""
    return importlib.util.find_spec(name) is not None


class MappedRows:
    """A torch dataset over ``np.load(mmap_mode="r")``, opened in the process that uses it.

    Parameters
    ----------
    path
        Of a .npy.
    most
        Rows that are used at most.
    """

    def __init__(self, path: str, most: int = 1 << 62) -> None:
        self.path = path
        self._length = min(most, len(np.load(path, mmap_mode="r")))
        self._rows: Array | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> Any:
        """Return one row as a tensor of its own."""
        return _tensor(np.array(self._mapped()[row]))

    def _mapped(self) -> Array:
        if self._rows is None:
            self._rows = np.load(self.path, mmap_mode="r")
        return self._rows


class MappedBatches(MappedRows):
    """The same, gathered batch by batch, which few people write."""

    def __getitems__(self, rows: list[int]) -> Any:
        """Return the rows of a batch as one tensor."""
        return _tensor(np.take(self._mapped(), rows, axis=0, mode="clip"))


class MappedPairs(MappedBatches):
    """The same with a label, for TensorSocket sends tuples."""

    def __getitems__(self, rows: list[int]) -> Any:
        """Return the rows of a batch, and zeros."""
        return super().__getitems__(rows), _tensor(np.zeros(len(rows), np.int64))


def _tensor(array: Array) -> Any:
    return importlib.import_module("torch").from_numpy(array)


def _same(batch: Any) -> Any:
    """Return a batch that is collated already."""
    return batch


def loader(dataset: MappedRows, batch: int, workers: int) -> Any:
    """Return a DataLoader in random order."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    options = {} if type(dataset) is MappedRows else {"collate_fn": _same}
    return importlib.import_module("torch.utils.data").DataLoader(
        dataset,
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        **options,
    )


def loader_epochs(spec: dict[str, Any]) -> Iterator[Iterator[Any]]:
    """Yield the batches of one epoch after another of a DataLoader.

    Parameters
    ----------
    spec
        ``path``, ``batch``, ``workers``; ``batched``: gather batch by batch.
    """
    dataset = (MappedBatches if spec.get("batched") else MappedRows)(spec["path"])
    batches = loader(dataset, spec["batch"], spec["workers"])
    while True:
        yield iter(batches)


def socket_epochs(spec: dict[str, Any]) -> Iterator[Iterator[Any]]:
    """Yield the batches of one epoch after another of a TensorSocket consumer.

    The first epoch is passed over: those who connect late miss its beginning.

    Parameters
    ----------
    spec
        ``batch``, ``ports`` of the producer.
    """
    module = importlib.import_module("tensorsocket.consumer")
    vars(module)["LOCALHOST"] = "tcp://127.0.0.1"  # else it goes to whatever localhost is
    data, acks, *heart = spec["ports"]
    consumer = module.TensorConsumer(
        port=data, ack_port=acks, heart_ports=tuple(heart), batch_size=spec["batch"]
    )
    for _ in consumer:
        pass
    while True:
        yield (_rows_of(item) for item in consumer)


def _rows_of(item: Any) -> Any:
    """Return the tensor of rows out of what comes, which is nested by its size."""
    while not hasattr(item, "dim"):
        item = next(one for one in item if isinstance(one, (tuple, list)) or one.dim() == 2)
    return item


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody uses now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def produce(spec: dict[str, Any]) -> None:
    """Be the producer until the input ends."""
    module = importlib.import_module("tensorsocket.producer")
    vars(module)["LOCALHOST"] = "tcp://127.0.0.1"  # else it listens on the whole network
    data, acks, *heart = spec["ports"]
    batches = loader(MappedPairs(spec["path"], spec["rows"]), spec["batch"], spec["workers"])
    producer = module.TensorProducer(batches, port=data, ack_port=acks, heart_ports=tuple(heart))

    def pump() -> None:
        while True:
            for _ in producer:
                pass

    threading.Thread(target=pump, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    produce(json.loads(sys.argv[1]))
