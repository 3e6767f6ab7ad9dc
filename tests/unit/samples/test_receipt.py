"""Receipts: they hold for what was delivered, and for nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrayd.errors import BadFile, ReceiptMismatch, SourceError, SpecMismatch
from arrayd.samples.order import KINDS, EpochOrder
from arrayd.samples.receipt import EpochDigest, Receipt, ShareSum, expected, merge, verify
from arrayd.samples.selection import Ids, Rows
from tests.unit.samples import plain
from tests.unit.samples.plain import SEEDS, ints, quick, selections

ROWS = Rows(100).filter(np.arange(100) % 4 > 0)
ORDER = EpochOrder(ROWS, 7, 2)


def delivered(order: EpochOrder, ids: Ids, **changes: Any) -> Receipt:
    """Return the receipt of a stream with one rank that has delivered `ids`."""
    digest, share = EpochDigest(), ShareSum()
    digest.update(ids)
    share.update(ids)
    receipt = Receipt.of(order, digest, share, dataset="d1", plan="resident")
    return dataclasses.replace(receipt, **changes)


def of_ranks(order: EpochOrder, world: int, stop: int, batch: int = 3) -> list[Receipt]:
    """Return the receipts of a run with several ranks that has come to a position."""
    ids = order.window(0, stop)
    digest = EpochDigest()
    digest.update(ids)
    made = []
    for rank in range(world):
        share = ShareSum()
        share.update(ids[np.arange(stop) % (batch * world) // batch == rank])
        made.append(
            Receipt.of(order, digest, share, dataset="d1", plan="ring", world=world, rank=rank)
        )
    return made


@quick
@given(selections(), SEEDS, st.sampled_from(KINDS), st.data())
def test_a_receipt_holds_for_what_was_delivered(
    rows: Rows, seed: int, kind: str, data: st.DataObject
) -> None:
    """In batches of any size, up to any position, through JSON; and it can be pickled."""
    order = EpochOrder(rows, seed, 3, kind, block=10, buffer=3)
    stop = data.draw(st.integers(0, len(rows)))
    digest, share = EpochDigest(), ShareSum()
    position = 0
    while position < stop:
        end = min(stop, position + data.draw(st.integers(1, 100)))
        ids = order.window(position, end)
        digest.update(ids)
        share.update(ids)
        position = end
    receipt = Receipt.of(order, digest, share, dataset="d1", plan="resident")
    assert receipt.complete == (stop == len(rows))
    assert receipt.delivered == receipt.position == stop
    verify(receipt, rows, "d1")
    again = Receipt.from_json(receipt.to_json())
    assert again == receipt == pickle.loads(pickle.dumps(receipt))
    assert merge([receipt]) == receipt


def test_the_digests_are_what_is_documented() -> None:
    """sha256 over little-endian uint64; the sum of the keys of purpose "share"."""
    ids = ORDER.window(0, 75)
    text = b"".join(row.to_bytes(8, "little") for row in ints(ids))
    receipt = delivered(ORDER, ids)
    assert receipt.sha256 == hashlib.sha256(text).hexdigest()
    total = sum(plain.key(row, 0, 0, "share") for row in ints(ids)) % 2**64
    assert receipt.share == receipt.whole == f"{total:016x}"
    digest = EpochDigest()
    digest.update(ids[::2])  # an array with gaps in memory
    digest.update(ids[:3].astype(">u8"))
    other = EpochDigest()
    other.update(np.concatenate([ids[::2], ids[:3]]))
    assert digest.hexdigest() == other.hexdigest()
    assert digest.count == 41


def test_a_copy_goes_on_by_itself() -> None:
    """The digest of a prefix, continued in two ways."""
    digest = expected(ORDER, 30)
    other = digest.copy()
    other.update(ORDER.window(30, 75))
    assert other.hexdigest() == expected(ORDER, 75).hexdigest()
    assert other.share.hexdigest() == expected(ORDER, 75).share.hexdigest()
    assert (digest.count, other.count) == (30, 75)
    assert digest.hexdigest() == expected(ORDER, 30).hexdigest()
    assert digest.share.hexdigest() == expected(ORDER, 30).share.hexdigest()


@quick
@given(
    st.integers(0, 73),
    st.integers(1, 73),
    st.sampled_from(["swap", "miss", "repeat", "replace", "alien"]),
)
def test_a_receipt_shows_what_went_wrong(i: int, step: int, fault: str) -> None:
    """An id that was swapped, left out, repeated or is none of the selection."""
    ids = ORDER.window(0, 75)
    j = (i + step) % 74
    if fault == "swap":
        ids[[i, j]] = ids[[j, i]]
    elif fault == "miss":
        ids = np.delete(ids, i)
    elif fault == "repeat":
        ids = np.insert(ids, i, ids[i])
    else:
        ids[i] = ids[j] if fault == "replace" else 4 * j
    with pytest.raises(ReceiptMismatch, match=r"sha256 of the row ids|76 positions"):
        verify(delivered(ORDER, ids), ROWS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "splitmix64-9"}, "order version is splitmix64-9, and should be splitmix64-1"),
        ({"seed": 8}, "sha256 of the row ids"),
        ({"epoch": 3}, "sha256 of the row ids"),
        ({"kind": "sequential"}, "sha256 of the row ids"),
        ({"kind": "chance"}, "damaged: order='chance'"),
        ({"seed": -1}, "damaged: seed=-1"),
        ({"rows": 74}, "number of rows is 74, and should be 75"),
        ({"selection": "00"}, "selection is 00"),
        ({"dataset": "d2"}, "dataset is d2, and should be d1"),
        ({"position": 76}, "76 positions; an epoch of this selection has 75"),
        ({"position": -1}, "-1 positions"),
        ({"position": 70}, "sha256 of the row ids"),
        ({"whole": "0" * 16}, "share of all rows is 0000000000000000"),
        ({"share": "0" * 16}, "share is 0000000000000000"),
        ({"delivered": 74}, "number of rows delivered is 74, and should be 75"),
        ({"missing": 1, "complete": False}, "delivered is 75, and should be 74"),
        ({"repeated": 1}, "'complete' is True, and should be False"),
        ({"complete": False}, "'complete' is False, and should be True"),
    ],
)
def test_a_receipt_that_was_changed_is_refused(changes: dict[str, Any], message: str) -> None:
    """Each number in it that verify can compute."""
    receipt = delivered(ORDER, ORDER.window(0, 75), **changes)
    with pytest.raises(ReceiptMismatch, match=message) as caught:
        verify(receipt, ROWS, "d1")
    assert isinstance(caught.value, (SourceError, ValueError))


def test_a_receipt_of_other_rows_is_refused() -> None:
    """As many of them, but others."""
    receipt = delivered(ORDER, ORDER.window(0, 75))
    with pytest.raises(ReceiptMismatch, match="selection is"):
        verify(receipt, Rows(100, 0, 75))


@quick
@given(st.integers(1, 7), st.integers(0, 75), st.integers(1, 20))
def test_the_ranks_together_are_everything_once(world: int, stop: int, batch: int) -> None:
    """The order digest is that of one rank; each receipt holds, and so does the merged one."""
    receipts = of_ranks(ORDER, world, stop, batch)
    alone = delivered(ORDER, ORDER.window(0, stop))
    for receipt in receipts:
        verify(receipt, ROWS, "d1")
    merged = merge(receipts[::-1])
    verify(merged, ROWS, "d1")
    assert merged == dataclasses.replace(alone, plan="ring", world=world)
    assert merged.share == alone.share


def test_shares_that_do_not_add_up_are_refused() -> None:
    """Two ranks that had the same rows, a rank that is absent or twice, ranks of two runs."""
    one, two = of_ranks(ORDER, 2, 72)
    with pytest.raises(ReceiptMismatch, match=r"ranks \[0, 0\]; the run had 2"):
        merge([one, one])
    with pytest.raises(ReceiptMismatch, match=r"ranks \[1\]"):
        merge([two])
    twice = dataclasses.replace(one, rank=1)
    assert twice.delivered == two.delivered
    with pytest.raises(ReceiptMismatch, match=r"share is .*, and should be"):
        merge([one, twice])
    with pytest.raises(ReceiptMismatch, match="number of rows delivered is 71"):
        merge([one, dataclasses.replace(two, delivered=35)])
    with pytest.raises(ReceiptMismatch, match="position of rank 1 is 75, and should be 72"):
        merge([one, of_ranks(ORDER, 2, 75)[1]])
    with pytest.raises(ReceiptMismatch, match="seed of rank 1 is 8"):
        merge([one, dataclasses.replace(two, seed=8)])
    with pytest.raises(SpecMismatch, match="there is none"):
        merge([])


def test_rows_that_are_known_to_be_missing_stay_so() -> None:
    """`drop_last`, say: the merged receipt says what is missing, and is not complete."""
    one, two = of_ranks(ORDER, 2, 75)
    share = ShareSum()
    share.update(ORDER.window(0, 75)[np.arange(75) % 6 // 3 == 1][:-1])
    less = dataclasses.replace(
        two, share=share.hexdigest(), delivered=share.count, missing=1, complete=False
    )
    merged = merge([one, less])
    assert (merged.missing, merged.delivered, merged.complete) == (1, 74, False)
    verify(merged, ROWS, "d1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body.pop("sha256"), "damaged: sha256 is missing or no value"),
        (lambda body: body.update(seed="7"), "damaged: seed"),
        (lambda body: body.update(complete=1), "damaged: complete"),
        (lambda body: body.update(rows=True), "damaged: rows"),
        (lambda body: body.update(share="xyz"), "damaged: share"),
        (lambda body: body.update(colour="red"), "damaged: colour"),
        (lambda body: body.update(receipt=2), "written by a newer arrayd"),
        (lambda body: body.pop("receipt"), "no JSON object with the key 'receipt'"),
    ],
)
def test_a_damaged_receipt_is_refused(change: Any, message: str) -> None:
    """Each field is there, of its type; nothing else is."""
    body = json.loads(delivered(ORDER, ORDER.window(0, 75)).to_json())
    change(body)
    with pytest.raises(BadFile, match=message):
        Receipt.from_json(json.dumps(body))


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", b"\xff"])
def test_what_is_no_receipt_is_refused(text: str | bytes) -> None:
    """Other files."""
    with pytest.raises(BadFile, match="This is no receipt"):
        Receipt.from_json(text)


def test_a_receipt_is_readable() -> None:
    """It says what matters first: whether it is complete."""
    text = str(delivered(ORDER, ORDER.window(0, 75)))
    assert text.startswith("epoch 2 of 75 rows, all ranks: complete\n  delivered  75 rows, 0 miss")
    assert "order      exact, seed 7, splitmix64-1\n" in text
    blocks = EpochOrder(ROWS, 7, 2, "block", block=10, buffer=3)
    part = dataclasses.replace(delivered(blocks, blocks.window(0, 9)), world=4, rank=2)
    assert "rank 2 of 4: NOT complete: 9 positions passed" in str(part)
    assert "order      block (10 × 3), seed 7" in str(part)
