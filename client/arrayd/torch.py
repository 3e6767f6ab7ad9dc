"""Datasets for PyTorch: batches as tensors, and a sampler with the same order.

>>> import arrayd, arrayd.torch
>>> ds = arrayd.dataset({"x": "train.h5:/x", "y": "train.h5:/y"})        # doctest: +SKIP
>>> for batch in arrayd.torch.stream(ds, batch_size=256, seed=7):        # doctest: +SKIP
...     loss = model(batch["x"]), batch["y"]

The daemon reads ahead, so no worker processes are needed. Inside a ``DataLoader`` (with
``batch_size=None``) it works as well, with any number of workers and without duplicates.

torch is imported when something of here is used, not before.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from arrayd.common import arguments
from arrayd.datasets.batch import Batch
from arrayd.datasets.dataset import Dataset
from arrayd.datasets.stream import Stream
from arrayd.errors import MissingDependency, SpecMismatch, StateMismatch
from arrayd.integrations.gpu_copies import GpuCopies, writeable_alias
from arrayd.samples.keys import checked_epoch
from arrayd.samples.order import EpochOrder

__all__ = ["Sampler", "stream"]

STATE_VERSION = 1

_MOST_WORKERS = 1024


def stream(dataset: Dataset, batch_size: int = 256, *, device: Any = None, **options: Any) -> Any:
    """Return a ``torch.utils.data.IterableDataset`` over batches of tensors.

    Each batch is a dict of tensors by field and column, with ``ids`` (int64) and ``seeds`` (int64,
    the bits of `Batch.seeds`) among them. It may be written to, and is valid until the next one;
    ``clone`` what is to be kept. In the workers of a ``DataLoader`` it is a copy.

    Parameters
    ----------
    dataset
        Its values must be of types that torch has; columns of text are left out.
    batch_size, options
        As for `Dataset.stream`.
    device
        Where the tensors are to be, as torch names it. On a GPU they are copies, and stay valid;
        the next batch is copied beside the computation on this one, straight from the ring that
        all processes share (`arrayd.integrations.gpu_copies`). Not in a worker.

    Returns
    -------
    torch.utils.data.IterableDataset
        Each pass over it delivers the next ``epochs`` (1) epochs. Also with ``set_epoch``; and,
        without workers, with ``state_dict``, ``load_state_dict`` and ``receipt``.

    Raises
    ------
    MissingDependency
        torch cannot be imported.
    SpecMismatch, NoRoom
        As for `Dataset.stream`.
    """
    if not isinstance(dataset, Dataset):
        raise SpecMismatch(f"stream takes what arrayd.dataset returns, not {dataset!r:.80}.")
    place = None if device is None else _torch().device(device)
    if place is not None and place.type == "cpu":
        place = None
    if place is not None and options.get("writable"):
        raise SpecMismatch(
            f"device={device!r} with writable=True: tensors on a device are copies, which may "
            "always be written to. Leave writable= out."
        )
    return _iterable()(dataset, batch_size, options, place)


class Sampler:
    """Row numbers in the order of a stream, for a ``Dataset`` of your own.

    In place of ``torch.utils.data.distributed.DistributedSampler``: no row is padded or repeated,
    and it resumes in the middle of an epoch, on any number of ranks.

    Parameters
    ----------
    dataset
        Whose rows: an arrayd dataset or a selection of one.
    seed
        Of the order.
    rank, world
        This rank gets every `world`-th row.
    drop_last
        Leave out the last rows, so that all ranks have equally many.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> None:
        self._rows = dataset.rows
        self._seed = seed
        self._world = arguments.positive("world", world)
        self._rank = arguments.rank(rank, self._world)
        self._drop_last = arguments.flag("drop_last", drop_last)
        self._epoch = 0
        self._pos = 0  # of all ranks together, in the epoch
        self._start = 0  # where the next iteration begins

    def set_epoch(self, epoch: int) -> None:
        """Use the order of another epoch, from its start; of the same one, go on where it is."""
        number = checked_epoch(epoch)
        if number != self._epoch:
            self._pos = self._start = 0
        self._epoch = number

    @property
    def _end(self) -> int:
        """Where an iteration ends; steps are counted from where it begins, as in `Stream`."""
        n = len(self._rows)
        return n - (n - self._start) % self._world if self._drop_last else n

    def __len__(self) -> int:
        return len(range(self._start + self._rank, self._end, self._world))

    def __iter__(self) -> Iterator[int]:
        order = EpochOrder(self._rows, self._seed, self._epoch)
        start, end = self._start, self._end
        self._start = 0
        for first in range(start, end, 4096 * self._world):
            last = min(first + 4096 * self._world, end)
            ids = order.window(first, last)[self._rank :: self._world].tolist()
            for number, row in enumerate(ids):
                self._pos = min(end, first + (number + 1) * self._world)
                yield row

    def state_dict(self) -> dict[str, int]:
        """Return how far the present iteration is. Workers of a DataLoader run ahead of it."""
        return {"arrayd": STATE_VERSION, "seed": self._seed, "epoch": self._epoch, "pos": self._pos}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Begin the next iteration where another one was, on any number of ranks."""
        if not isinstance(state, Mapping):
            raise StateMismatch(
                f"This is no state of a sampler: {state!r:.80}. Pass what state_dict() returned."
            )
        if (state.get("arrayd"), state.get("seed")) != (STATE_VERSION, self._seed):
            raise StateMismatch(
                f"The state is of seed {state.get('seed')} (version {state.get('arrayd')}), this "
                f"sampler of seed {self._seed} (version {STATE_VERSION}): its order is another. "
                "Make the sampler with the seed of the state."
            )
        epoch, pos = checked_epoch(state.get("epoch")), arguments.whole("pos", state.get("pos"))
        if not 0 <= pos <= len(self._rows):
            raise StateMismatch(
                f"The state is of position {pos:,}, and there are {len(self._rows):,} rows: it is "
                "of another dataset or selection."
            )
        self._epoch, self._pos, self._start = epoch, pos, pos


class TensorBatches:
    """What `stream` returns, but for torch's own base class.

    A pass over it delivers ``epochs`` more epochs, like a DataLoader: the order is another one each
    time, also in workers, which count their passes in memory that all of them share.
    """

    def __init__(
        self, dataset: Dataset, batch_size: int, options: dict[str, Any], device: Any
    ) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._device = device  # None: where the batches are
        self._copies: GpuCopies | None = None
        self._options = {"writable": device is None, **options}
        self._epochs = self._options.pop("epochs", 1)
        if self._epochs is not None:
            arguments.positive("epochs", self._epochs)
        self._stream = self._made({})
        # Passes that each worker has made, and last the epoch in which they began: all see the same
        # memory, forked, spawned or persistent.
        self._shared = _torch().zeros(_MOST_WORKERS + 1, dtype=_torch().int64).share_memory_()

    def __reduce__(self) -> tuple[Any, ...]:
        options = {**self._options, "epochs": self._epochs}
        return _again, (self._dataset, self._batch_size, options, self._device, self._shared)

    @property
    def _first(self) -> int:
        """The epoch in which passes began to be counted."""
        return int(self._shared[-1])

    def _made(self, part: dict[str, int]) -> Stream:
        """Return a stream without end, of this rank or of a worker's part of it."""
        return self._dataset.stream(self._batch_size, epochs=None, **(self._options | part))

    def _pass(self) -> Stream:
        """Return the stream, made to end with this pass."""
        if self._epochs is None:
            return self._stream
        done = (self._stream.epoch - self._first) // self._epochs
        return self._stream.until(self._first + (done + 1) * self._epochs)

    def __len__(self) -> int:
        return len(self._pass())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = _data().get_worker_info()
        if worker is None:
            whole = self._pass()
            if self._device is not None:
                return self._on_device(whole)
            return (tensors(_torch(), batch) for batch in whole)
        if self._device is not None:
            raise SpecMismatch(
                f"device={str(self._device)!r} in a worker of a DataLoader: it would send what is "
                "on the device through the host again. Use num_workers=0: the daemon reads ahead."
            )
        # Worker w of W makes the steps w, w + W, ...; the DataLoader takes turns.
        rank, world = self._options.get("rank", 0), self._options.get("world", 1)
        part = {"rank": worker.id * world + rank, "world": worker.num_workers * world}
        stream, number = self._made(part), int(self._shared[worker.id])
        self._shared[worker.id] += 1
        first = self._first + number * (self._epochs or 0)
        stream.skip_to(first)
        if self._epochs is not None:
            stream.until(first + self._epochs)
        # A thread of torch sends a batch while the next one is made: it must be a copy.
        return (tensors(_torch(), batch.copy()) for batch in stream)

    def _on_device(self, batches: Stream) -> Iterator[dict[str, Any]]:
        """Copy batches to the device, each before the next one takes its memory."""
        if self._device.type != "cuda":
            for batch in batches:
                yield {name: one.to(self._device) for name, one in _readable(batch).items()}
            return
        if self._copies is None:
            self._copies = GpuCopies(_torch(), self._device)
        for batch in batches:
            for name, array in batch.items():
                self._copies.cover(name, array)
            try:
                yield self._copies.copied(_readable(batch))
            finally:
                self._copies.wait()
        self._copies.close()  # the stream has ended: a ring that stays pinned stays in memory

    def set_epoch(self, epoch: int) -> None:
        """Begin the next pass with the first row of this epoch."""
        self._stream.skip_to(epoch)
        self._shared.zero_()
        self._shared[-1] = epoch

    def _refuse_workers(self, what: str) -> None:
        """Refuse what only a stream in this process can tell."""
        if self._shared[:-1].any():
            raise SpecMismatch(
                f"{what} knows nothing of the rows that workers of a DataLoader deliver: they "
                "run ahead of the training. Use num_workers=0 (the daemon reads ahead), or "
                "arrayd.torch.Sampler."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream is; see `Stream.state_dict`."""
        self._refuse_workers("state_dict")
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another stream was; see `Stream.load_state_dict`."""
        self._stream.load_state_dict(state)

    def receipt(self, epoch: int | None = None) -> Any:
        """Return the proof of what was delivered; see `Stream.receipt`."""
        self._refuse_workers("receipt")
        return self._stream.receipt(epoch)

    def close(self) -> None:
        """End the stream."""
        if self._copies is not None:
            self._copies.close()
        self._stream.close()


@functools.cache
def _iterable() -> Any:
    """Return the class of what `stream` returns: it can be made only where torch is."""
    return type("TensorStream", (TensorBatches, _data().IterableDataset), {})


def _again(
    dataset: Dataset, batch_size: int, options: dict[str, Any], device: Any, shared: Any
) -> Any:
    stream = _iterable()(dataset, batch_size, options, device)
    stream._shared = shared
    return stream


def _readable(batch: Batch) -> dict[str, Any]:
    """Return a read-only batch as tensors that are only read, and not kept."""
    for name, array in batch.items():
        batch[name] = writeable_alias(array)
    return tensors(_torch(), batch)


def tensors(torch: Any, batch: Batch) -> dict[str, Any]:
    """Return a batch as tensors, which share its memory; what torch has no type for is left out."""
    found = {name: _tensor(torch, array) for name, array in batch.items() if _fits(array)}
    found["ids"] = torch.from_numpy(batch.ids.view(np.int64))
    found["seeds"] = torch.from_numpy(batch.seeds.view(np.int64))
    return found


def _fits(array: np.ndarray[Any, Any]) -> bool:
    """Say whether torch has a type for an array's values: numbers and bool."""
    dtype = array.dtype
    wide = dtype.itemsize > (16 if dtype.kind == "c" else 8)  # longdouble: torch has none
    return (dtype.kind in "biufc" and not wide) or dtype.name == "bfloat16"


def _tensor(torch: Any, array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(array)


def _data() -> Any:
    _torch()
    return importlib.import_module("torch.utils.data")


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise MissingDependency(
            f"arrayd.torch needs PyTorch, which cannot be imported: {error}. pip install torch"
        ) from None
