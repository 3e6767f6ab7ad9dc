"""`Stream`: the rows of a selection in random order, batch after batch, epoch after epoch.

Theory of operation
-------------------
A stream has one number that changes: its *position*, which counts rows over all epochs. Which row
lies at which position is a pure function (`arrayd.samples.order`). So a state is a position and
what names the function; a stream is resumed by going on at a position; and what was delivered can
be proved afterwards: the sha256 of the row ids, in the order of delivery, must be the function's.

With several ranks (data-parallel training) each global step takes ``batch_size * world`` positions,
of which each rank gets its part. All ranks pass all positions, and digest all ids, so position,
state and sha256 are the same on each of them; a state can be resumed on any number of ranks.

Where the rows come from is not known here: from blocks in memory (`ResidentRows`), or from a ring
that the daemon fills (`RingRows`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Protocol, Self

import numpy as np
import numpy.typing as npt

from arrayd.common import arguments
from arrayd.datasets.batch import Array, Batch
from arrayd.datasets.delivered import Delivered
from arrayd.errors import SpecMismatch, StateMismatch
from arrayd.samples.order import VERSION, EpochOrder
from arrayd.samples.receipt import EpochDigest, Receipt, expected

STATE_VERSION = 1

_WORDS = {"arrayd": "version", "dataset": "dataset (its fingerprint)", "selection": "selection"}


class Delivery(Protocol):
    """Where the rows of a stream come from."""

    @property
    def ring(self) -> Array | None:
        """The bytes of the ring that the fields are slices of, uint8; None: there is none (yet)."""

    def fetch(
        self, start: int, stop: int, own: slice
    ) -> tuple[npt.NDArray[np.uint64], dict[str, Array]]:
        """Return the row ids at these positions, and the fields of the rows ``[own]`` of them.

        The ids stay as they are; the fields until rows are passed.
        """

    def pass_to(self, position: int) -> None:
        """Rows before this position are not looked at any more."""

    def close(self) -> None:
        """No more rows are wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTerms:
    """What a stream delivers.

    Parameters
    ----------
    batch_size
        Rows of a batch, of each rank.
    seed
        Of the order.
    epochs
        How many epochs; None: without end.
    drop_last
        Leave out the last step of an epoch if it has not a full batch for every rank.
    rank, world
        Which of how many ranks this process is.
    dataset
        Fingerprint of the dataset, hexadecimal.
    plan
        How rows are delivered, in a word.
    """

    batch_size: int
    seed: int
    epochs: int | None
    drop_last: bool
    rank: int
    world: int
    dataset: str
    plan: str

    @property
    def step(self) -> int:
        """Positions of a global step."""
        return self.batch_size * self.world


class Stream:
    """An iterator over batches; made by `Dataset.stream`.

    It is for one thread. Close it, or use it in a ``with``, when it is not used to its end.

    Parameters
    ----------
    terms
        What it delivers.
    order
        Makes the order of an epoch.
    columns
        Arrays with one entry for each row of the dataset, delivered with the batches.
    delivery
        Makes where the rows come from, at the first batch.
    """

    def __init__(
        self,
        terms: StreamTerms,
        order: Callable[[int], EpochOrder],
        columns: Mapping[str, Array],
        delivery: Callable[[], Delivery],
    ) -> None:
        self._terms = terms
        self._order = order
        self._first = order(0)
        self._columns = columns
        self._make = delivery
        self._delivery: Delivery | None = None
        self._n = len(self._first)
        self._epoch = 0
        self._pos = 0
        self._own = slice(terms.rank * terms.batch_size, (terms.rank + 1) * terms.batch_size)
        self._step_rows = terms.step
        self._least = terms.step if terms.drop_last else 1  # rows of a step that is delivered
        self._delivered = self._nothing()
        self._receipts: dict[int, Receipt] = {}
        # Of the thread that is in a step; a Ctrl-C that leaves it taken does not stop that thread.
        self._stepping = threading.RLock()

    def __repr__(self) -> str:
        terms = self._terms
        return (
            f"<stream of {self._n:,} rows ({terms.plan}), seed {terms.seed}, at epoch "
            f"{self._epoch}, pos {self._pos:,}>"
        )

    def __reduce__(self) -> NoReturn:
        """Refuse to travel.

        Raises
        ------
        SpecMismatch
            Always.
        """
        raise SpecMismatch(
            "A stream lives in the process that made it, and is neither pickled nor copied. Send "
            "the dataset, and the stream's state_dict(): the other process makes a stream of its "
            "own and gives it the state with load_state_dict()."
        )

    def __len__(self) -> int:
        """Return the batches that are left to this rank.

        Raises
        ------
        TypeError
            The stream has no end.
        """
        if self._terms.epochs is None:
            raise TypeError("a stream without end (epochs=None) has no length")
        left = self._terms.epochs - self._epoch
        return 0 if left <= 0 else self._batches(self._pos) + (left - 1) * self._batches(0)

    def _batches(self, pos: int) -> int:
        """Return the batches of this rank in an epoch from position `pos` on."""
        full, rest = divmod(max(0, self._n - pos), self._terms.step)
        mine = rest > self._terms.rank * self._terms.batch_size
        return full + (mine and not self._terms.drop_last)

    @property
    def ring(self) -> Array | None:
        """The bytes of the ring that the batches are slices of, uint8; None: there is none (yet).

        It is one mapping for all batches. Pinned for copies to a GPU it may be only where batches
        are not writable; ``arrayd.torch.stream(…, device=)`` does that. There is
        another one after a restart of the daemon, or where others could not wait for a consumer.
        """
        return None if self._delivery is None else self._delivery.ring

    # ---- batches -------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        if self._n == 0:
            raise SpecMismatch(
                "This stream has no rows: its selection is empty. Look at len() of a split or a "
                "filter before you iterate."
            )
        if self._over:
            raise SpecMismatch(
                f"This stream is over: its {self._terms.epochs} epochs were delivered. Ask for "
                "more with epochs=, or make another stream."
            )
        return self

    def __next__(self) -> Batch:
        # Two threads would repeat rows, and each wait for what only the other's cursor lets come.
        if not self._stepping.acquire(blocking=False):
            raise SpecMismatch(
                "Another thread waits for a batch of this stream: a stream is for one thread. Make "
                "one in each thread, with the same arguments they share the reads, or with rank= "
                "and world= they share the rows."
            )
        try:
            return self._next_batch()
        finally:
            self._stepping.release()

    def _next_batch(self) -> Batch:
        while not self._over:
            start, stop = self._pos, min(self._n, self._pos + self._step_rows)
            if stop - start < self._least:
                self._end_epoch()
                continue
            batch = self._step(start, stop)
            if batch is not None:
                return batch
        self.close()
        raise StopIteration

    @property
    def _over(self) -> bool:
        epochs = self._terms.epochs
        return self._n == 0 or (epochs is not None and self._epoch >= epochs)

    def _step(self, start: int, stop: int) -> Batch | None:
        """Deliver a global step; None: this rank has no part in it."""
        delivery, own = self._delivery, self._own
        if delivery is None:
            delivery = self._delivery = self._make()
        epoch, base = self._epoch, self._epoch * self._n
        delivery.pass_to(base + start)
        ids, fields = delivery.fetch(base + start, base + stop, own)
        self._delivered.add(ids, own)
        self._pos = stop
        if stop == self._n:
            self._end_epoch()
        mine = ids[own]
        if not len(mine):
            return None
        for name, column in self._columns.items():
            fields[name] = column[mine.view(np.int64)]
        return Batch(fields, mine, self._terms.seed, epoch, start + own.start)

    def _end_epoch(self) -> None:
        self._receipts[self._epoch] = self.receipt()
        self._epoch, self._pos, self._delivered = self._epoch + 1, 0, self._nothing()

    def _nothing(self, before: EpochDigest | None = None) -> Delivered:
        """Return what this rank has delivered of an epoch when it begins, or goes on with it."""
        terms = self._terms
        return Delivered(before, first=terms.rank == 0, alone=terms.world == 1)

    def close(self) -> None:
        """End the stream: nobody waits for it any more. Its state and receipts stay."""
        if self._delivery is not None:
            delivery, self._delivery = self._delivery, None
            delivery.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def epoch(self) -> int:
        """The epoch that the next batch is of."""
        return self._epoch

    def until(self, epoch: int) -> Self:
        """End before this epoch, whatever ``epochs=`` said; return the stream."""
        self._terms = replace(self._terms, epochs=epoch)
        return self

    def skip_to(self, epoch: int) -> Self:
        """Go on at the first row of an epoch, wherever the stream was; return the stream."""
        self._go_to(self._order(epoch).epoch, 0, None)
        return self

    # ---- state and receipt ---------------------------------------------------------------

    def receipt(self, epoch: int | None = None) -> Receipt:
        """Return the proof of what was delivered.

        Parameters
        ----------
        epoch
            Of an epoch that this stream has ended; None: of the one it is in, so far.

        Raises
        ------
        SpecMismatch
            This stream has not ended that epoch.
        """
        if epoch is None:
            terms = self._terms
            return Receipt.of(
                self._order(self._epoch),
                self._delivered.digest,
                self._delivered.share,
                dataset=terms.dataset,
                plan=terms.plan,
                world=terms.world,
                rank=terms.rank,
            )
        if arguments.whole("epoch", epoch) not in self._receipts:
            raise SpecMismatch(
                f"This stream has not ended epoch {epoch}; it has ended {sorted(self._receipts)}."
            )
        return self._receipts[epoch]

    @property
    def receipts(self) -> list[Receipt]:
        """Those of the epochs that this stream has ended, in order."""
        return [self._receipts[epoch] for epoch in sorted(self._receipts)]

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream is: for the checkpoint, beside the model.

        All batches that were handed out count as consumed. It is plain data of some 300 bytes, the
        same on all ranks.
        """
        return {
            **self._identity(),
            "epoch": self._epoch,
            "pos": self._pos,
            "sha256": self._delivered.digest.hexdigest() if self._pos else "",
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another stream was, on any batch size and number of ranks.

        Raises
        ------
        StateMismatch
            The state is of another dataset, selection, seed or order, or was changed.
        """
        if not isinstance(state, Mapping):
            raise StateMismatch(
                f"This is no state of a stream: {state!r:.80}. Pass what state_dict() returned."
            )
        for key, value in self._identity().items():
            if state.get(key) != value:
                raise _mismatch(_WORDS.get(key, key), state.get(key), value)
        epoch = arguments.whole("epoch", state.get("epoch"))
        pos = arguments.whole("pos", state.get("pos"))
        if epoch < 0 or not 0 <= pos <= self._n:
            raise _mismatch("epoch and position", (epoch, pos), (">= 0", f"0 to {self._n}"))
        order = self._order(epoch)
        digest = expected(order, pos)
        found = digest.hexdigest() if pos else ""
        if state.get("sha256") != found:
            raise _mismatch("sha256 of the rows delivered", state.get("sha256"), found)
        self._go_to(epoch, pos, digest)

    def _go_to(self, epoch: int, pos: int, before: EpochDigest | None) -> None:
        """Go on at a position; `before` is the digest of the epoch up to there, None of nothing."""
        self.close()
        self._epoch, self._pos, self._receipts = epoch, pos, {}
        self._delivered = self._nothing(before)

    def _identity(self) -> dict[str, Any]:
        """Return what a state must be of to be resumed here."""
        first = self._first
        return {
            "arrayd": STATE_VERSION,
            "dataset": self._terms.dataset,
            "selection": first.rows.digest().hex(),
            "order": _named(first),
            "seed": first.seed,
        }


def _named(order: EpochOrder) -> str:
    """Return a name of the function from seed, epoch and position to a row."""
    if order.kind == "block":
        return f"{VERSION}/block/{order.block}x{order.buffer}"
    return VERSION if order.kind == "exact" else f"{VERSION}/{order.kind}"


def _mismatch(what: str, found: object, right: object) -> StateMismatch:
    return StateMismatch(
        f"This state cannot be resumed here: its {what} is {found!r}, and should be {right!r}. "
        "It is of another dataset (or its files have changed), split, seed or order, or was "
        "damaged. Make the stream as it was when the state was saved, or start anew without it.",
        what=what,
        found=found,
        right=right,
    )
