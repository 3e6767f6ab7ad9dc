"""The receipt of an epoch: that each row was delivered once, in the order that was announced.

Two digests are kept while rows are delivered:

* the **order digest** is the sha256 of the row ids of the epoch as little-endian uint64, in the
  order of their positions. Every rank of a data-parallel run computes the whole order, so it is
  equal for all ranks, world sizes, batch sizes, plans and restarts, and `verify` computes it anew
  from the few numbers in the receipt. An id that is swapped, left out, repeated or foreign
  changes it.
* the **share** of a rank is the sum, modulo 2**64, of the keys of the rows that this rank was
  given (`arrayd.samples.order`, purpose ``"share"``, seed and epoch 0). It does not depend on their
  order, and the shares of several ranks add up: so `merge` can tell whether they are together all
  rows once. Two ranks that had the same half have the right number of rows, but not the right sum.
  (By chance it agrees once in 2**64. It is proof against mistakes, not against forgers.)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from arrayd.errors import BadFile, ReceiptMismatch, SpecMismatch
from arrayd.samples.keys import purpose_key, row_keys
from arrayd.samples.order import VERSION, EpochOrder
from arrayd.samples.selection import Ids, Rows, chunks

_FORMAT = 1
_SUM = re.compile("[0-9a-f]{16}")
_SHARE = purpose_key("share", 0)


class EpochDigest:
    """The order digest of the positions from 0 on: feed it the row ids as they are delivered.

    Attributes
    ----------
    share : ShareSum
        Of all rows so far.
    """

    def __init__(self) -> None:
        self._state = hashlib.sha256()
        self.share = ShareSum()

    @property
    def count(self) -> int:
        """Positions so far."""
        return self.share.count

    def update(self, ids: Ids) -> None:
        """Add the rows at the next positions; an array of uint64."""
        self._state.update(np.ascontiguousarray(ids, "<u8").data)
        self.share.update(ids)

    def hexdigest(self) -> str:
        """Return the digest so far, 64 hexadecimal digits."""
        return self._state.hexdigest()

    def copy(self) -> EpochDigest:
        """Return another one with the same rows, that goes on by itself."""
        other = EpochDigest()
        other._state, other.share = self._state.copy(), self.share.copy()
        return other


class ShareSum:
    """The share of a rank: which rows it was given, in whatever order.

    Attributes
    ----------
    count : int
        Rows so far, repeated ones included.
    """

    def __init__(self) -> None:
        self._sum = 0
        self.count = 0

    def update(self, ids: Ids) -> None:
        """Add rows; an array of uint64."""
        self._sum = (self._sum + int(row_keys(ids, _SHARE).sum())) % 2**64
        self.count += len(ids)

    def hexdigest(self) -> str:
        """Return the sum so far, 16 hexadecimal digits."""
        return f"{self._sum:016x}"

    def copy(self) -> ShareSum:
        """Return another one with the same rows, that goes on by itself."""
        other = ShareSum()
        other._sum, other.count = self._sum, self.count
        return other


def expected(order: EpochOrder, stop: int) -> EpochDigest:
    """Return the digest of the positions from 0 to `stop`, computed from the order."""
    digest = EpochDigest()
    for start, end in chunks(stop):
        digest.update(order.window(start, end))
    return digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What was delivered of one epoch, to one rank or (`rank` None) to all ranks together.

    Parameters
    ----------
    version, kind, block, buffer, seed, epoch
        The order: see `arrayd.samples.order`.
    rows
        Rows of the selection, n.
    dataset, selection
        Fingerprint of the dataset and digest of the selection, hexadecimal.
    sha256
        Order digest of the positions from 0 to `position`.
    position
        Positions of the epoch that have passed, for all ranks together.
    share, whole
        Shares, see the head of this module: of the rows that the rank was given, and of all rows
        up to `position`; 16 hexadecimal digits.
    delivered
        Rows that the rank was given, repeated ones included.
    missing, repeated
        Rows of its share up to `position` that it was not given, or more than once, as the giver
        says. A `Stream` goes from position to position, so it says 0: the proof is the sha256.
    complete
        The epoch has ended, and of its share nothing is missing or repeated.
    plan
        How the rows were read; the order does not depend on it.
    world, rank
        Ranks that shared the epoch, and which of them this is.
    """

    version: str
    kind: str
    block: int
    buffer: int
    seed: int
    epoch: int
    rows: int
    dataset: str
    selection: str
    sha256: str
    position: int
    share: str
    whole: str
    delivered: int
    missing: int
    repeated: int
    complete: bool
    plan: str
    world: int = 1
    rank: int | None = None

    @classmethod
    def of(
        cls,
        order: EpochOrder,
        digest: EpochDigest,
        share: ShareSum,
        *,
        dataset: str,
        plan: str,
        missing: int = 0,
        repeated: int = 0,
        world: int = 1,
        rank: int | None = None,
    ) -> Self:
        """Return the receipt of an epoch, as far as it has been delivered.

        Parameters
        ----------
        order
            The order of the epoch.
        digest, share
            Of the rows that were delivered: of all positions, and to this rank.
        dataset, plan, missing, repeated, world, rank
            See `Receipt`.
        """
        return cls(
            version=VERSION,
            kind=order.kind,
            block=order.block,
            buffer=order.buffer,
            seed=order.seed,
            epoch=order.epoch,
            rows=len(order),
            dataset=dataset,
            selection=order.rows.digest().hex(),
            sha256=digest.hexdigest(),
            position=digest.count,
            share=share.hexdigest(),
            whole=digest.share.hexdigest(),
            delivered=share.count,
            missing=missing,
            repeated=repeated,
            complete=digest.count == len(order) and not missing and not repeated,
            plan=plan,
            world=world,
            rank=rank,
        )

    def to_json(self) -> str:
        """Return it as a JSON object in one line."""
        return json.dumps({"receipt": _FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the receipt that `to_json` wrote.

        Raises
        ------
        BadFile
            It is no receipt, or one of a newer arrayd.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadFile(f"This is no receipt: it is no JSON ({error}).") from None
        if not isinstance(found, dict) or "receipt" not in found:
            raise BadFile("This is no receipt: it is no JSON object with the key 'receipt'.")
        if found.pop("receipt") != _FORMAT:
            raise BadFile("This receipt was written by a newer arrayd: read it with that one.")
        hints = typing.get_type_hints(cls)
        wrong = [name for name, hint in hints.items() if not _is(found.get(name), hint)]
        wrong += [name for name in found if name not in hints]
        wrong += [name for name in ("share", "whole") if not _SUM.fullmatch(str(found.get(name)))]
        if wrong:
            raise BadFile(
                f"This receipt is damaged: {', '.join(wrong)} is missing or no value of it."
            )
        return cls(**found)

    def __str__(self) -> str:
        who = "all ranks" if self.rank is None else f"rank {self.rank} of {self.world}"
        kind = f"block ({self.block} × {self.buffer})" if self.kind == "block" else self.kind
        state = "complete" if self.complete else f"NOT complete: {self.position:,} positions passed"
        return (
            f"epoch {self.epoch} of {self.rows:,} rows, {who}: {state}\n"
            f"  delivered  {self.delivered:,} rows, {self.missing:,} missing, "
            f"{self.repeated:,} repeated\n"
            f"  order      {kind}, seed {self.seed}, {self.version}\n"
            f"  sha256     {self.sha256}\n"
            f"  dataset    {self.dataset}\n"
            f"  selection  {self.selection}\n"
            f"  plan       {self.plan}"
        )


def verify(receipt: Receipt, rows: Rows, dataset: str | None = None) -> None:
    """Compute a receipt anew and compare.

    Parameters
    ----------
    receipt
        Of one rank or of all.
    rows
        The selection that it is said to be of.
    dataset
        Fingerprint of the dataset; None: it is not compared.

    Raises
    ------
    ReceiptMismatch
        The rows were not delivered as the receipt says; the message says what differs.
    """
    _same("order version", receipt.version, VERSION)
    if dataset is not None:
        _same("dataset", receipt.dataset, dataset)
    _same("number of rows", receipt.rows, len(rows))
    _same("selection", receipt.selection, rows.digest().hex())
    if not 0 <= receipt.position <= len(rows):
        raise ReceiptMismatch(
            f"The receipt is of {receipt.position:,} positions; an epoch of this selection has "
            f"{len(rows):,}. It is damaged, or the stream went wrong."
        )
    order = _order_of(receipt, rows)
    digest = expected(order, receipt.position)
    _same("sha256 of the row ids", receipt.sha256, digest.hexdigest())
    _same("share of all rows", receipt.whole, digest.share.hexdigest())
    _check_counts(receipt)


def merge(receipts: Sequence[Receipt]) -> Receipt:
    """Return the receipt of all ranks together, from one of each.

    The ranks have the same epoch, position and order digest, and what they were given is, taken
    together, each row up to the position once; but for those that a receipt itself says are
    missing or repeated, as the result does then.

    Raises
    ------
    ReceiptMismatch
        That is not so; the message says what differs.
    SpecMismatch
        There is no receipt.
    """
    if not receipts:
        raise SpecMismatch("merge takes the receipts of all ranks: there is none.")
    first = receipts[0]
    for one in receipts:
        for name in _ALIKE:
            _same(f"{name} of rank {one.rank}", getattr(one, name), getattr(first, name))
    ranks = [one.rank for one in receipts]
    if Counter(ranks) != Counter(range(first.world)) and ranks != [None]:
        raise ReceiptMismatch(
            f"The receipts are of the ranks {ranks}; the run had {first.world}, from 0 on. Merge "
            "one receipt of each rank."
        )
    merged = dataclasses.replace(
        first,
        share=f"{sum(int(one.share, 16) for one in receipts) % 2**64:016x}",
        delivered=sum(one.delivered for one in receipts),
        missing=sum(one.missing for one in receipts),
        repeated=sum(one.repeated for one in receipts),
        complete=all(one.complete for one in receipts),
        rank=None,
    )
    _check_counts(merged)
    return merged


_ALIKE = (
    *("version", "kind", "block", "buffer", "seed", "epoch", "rows", "dataset", "selection"),
    *("world", "position", "sha256", "whole"),
)
"""What the receipts of all ranks have in common."""


def _order_of(receipt: Receipt, rows: Rows) -> EpochOrder:
    """Return the order that a receipt names."""
    seed, epoch, kind = receipt.seed, receipt.epoch, receipt.kind
    try:
        return EpochOrder(rows, seed, epoch, kind, block=receipt.block, buffer=receipt.buffer)
    except SpecMismatch as error:
        raise ReceiptMismatch(f"The receipt is damaged: {error}") from None


def _check_counts(receipt: Receipt) -> None:
    """Check that counts, share and state of a receipt agree with each other."""
    sound = not receipt.missing and not receipt.repeated
    _same("state 'complete'", receipt.complete, sound and receipt.position == receipt.rows)
    if receipt.rank is None or receipt.world == 1:
        right = receipt.position - receipt.missing + receipt.repeated
        _same("number of rows delivered", receipt.delivered, right)
        if sound:
            _same("share", receipt.share, receipt.whole)


def _same(what: str, found: object, right: object) -> None:
    """Raise `ReceiptMismatch` unless the receipt says what is right."""
    if found != right:
        raise ReceiptMismatch(
            f"The receipt does not hold: {what} is {found}, and should be {right}. Check it "
            "with the dataset and selection that it names. If it fails with these too, it was "
            "changed, or rows were lost, repeated or swapped: the run is not what it says.",
            what=what,
            found=found,
            right=right,
        )


def _is(value: Any, hint: Any) -> bool:
    """Tell whether a value of JSON is of a field's type; a bool is no int."""
    if isinstance(hint, types.UnionType):
        return any(_is(value, one) for one in typing.get_args(hint))
    return type(value) is hint
