"""A stream delivers each row once per epoch, in the order of the seed, and proves it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arrayd.datasets import resident
from arrayd.datasets.resident import ResidentRows
from arrayd.datasets.stream import Delivery, Stream, StreamTerms
from arrayd.errors import SpecMismatch, StateMismatch
from arrayd.samples.order import EpochOrder
from arrayd.samples.receipt import merge, verify
from arrayd.samples.selection import Rows

TERMS = StreamTerms(
    batch_size=4, seed=7, epochs=2, drop_last=False, rank=0, world=1, dataset="d" * 32, plan="x"
)

SOME = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def stream_of(rows: Rows, terms: StreamTerms = TERMS, **order: Any) -> Stream:
    """Return a stream over values that tell their row."""
    order_of: Callable[[int], EpochOrder] = partial(EpochOrder, rows, terms.seed, **order)
    values = {"x": np.arange(rows.total * 3.0).reshape(-1, 3)}
    made: Callable[[], Delivery] = partial(
        ResidentRows, values, rows, partial=False, order=order_of, epochs=terms.epochs
    )
    return Stream(terms, order_of, {"label": np.arange(rows.total) % 5}, made)


def ids_of(stream: Stream) -> list[tuple[int, list[int]]]:
    """Return the epoch and the rows of each batch; the values must be those of the rows."""
    seen = []
    for batch in stream:
        assert (batch["x"][:, 0] == batch.ids * 3.0).all()
        assert (batch["label"] == batch.ids % 5).all()
        seen.append((batch.epoch, batch.ids.tolist()))
    return seen


@SOME
@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 3), st.integers(0, 99))
def test_each_row_comes_once(n: int, batch: int, epochs: int, seed: int) -> None:
    """In every epoch every row comes once, in the order of `EpochOrder`, in batches of a size."""
    stream = stream_of(Rows(n), replace(TERMS, batch_size=batch, epochs=epochs, seed=seed))
    length = len(stream)
    seen = ids_of(stream)
    assert len(seen) == length
    for epoch in range(epochs):
        rows = [row for number, ids in seen if number == epoch for row in ids]
        assert rows == EpochOrder(Rows(n), seed, epoch).window(0, n).tolist()
        sizes = [len(ids) for number, ids in seen if number == epoch]
        assert all(size == batch for size in sizes[:-1])
        verify(stream.receipt(epoch), Rows(n), TERMS.dataset)
        assert stream.receipt(epoch).complete
    with pytest.raises(SpecMismatch, match="over"):
        iter(stream)


@SOME
@given(
    st.integers(1, 50),
    st.integers(1, 7),
    st.integers(1, 4),
    st.booleans(),
)
def test_ranks_share_an_epoch(n: int, batch: int, world: int, drop_last: bool) -> None:
    """The ranks together get each row once, in steps of the global order; receipts agree."""
    terms = replace(TERMS, batch_size=batch, world=world, drop_last=drop_last, epochs=1)
    streams = [stream_of(Rows(n), replace(terms, rank=rank)) for rank in range(world)]
    lengths = [len(stream) for stream in streams]
    parts = [ids_of(stream) for stream in streams]
    assert [len(part) for part in parts] == lengths
    order = EpochOrder(Rows(n), terms.seed, 0).window(0, n).tolist()
    step = batch * world
    steps = n // step if drop_last else -(-n // step)
    seen = []
    for number in range(steps):
        for part in parts:
            seen += part[number][1] if number < len(part) else []
    assert seen == (order[: steps * step] if drop_last else order)
    receipts = [stream.receipt(0) for stream in streams]
    whole = merge(receipts)
    assert whole.delivered == len(seen)
    assert whole.sha256 == receipts[0].sha256
    assert whole.complete == (len(seen) == n)


@SOME
@given(st.data())
def test_a_state_is_resumed_to_the_sample(data: st.DataObject) -> None:
    """What comes after a state, on any batch size and number of ranks, is what was left."""
    n = data.draw(st.integers(1, 40))
    first = stream_of(Rows(n), replace(TERMS, batch_size=data.draw(st.integers(1, 9))))
    batches = data.draw(st.integers(0, len(first)))
    before = []
    for _ in range(batches):
        batch = next(first)
        before += [(batch.epoch, row) for row in batch.ids.tolist()]
    state = json.loads(json.dumps(first.state_dict()))
    assert len(json.dumps(state)) < 400
    world = data.draw(st.integers(1, 3))
    terms = replace(TERMS, batch_size=data.draw(st.integers(1, 9)), world=world)
    ranks = [stream_of(Rows(n), replace(terms, rank=rank)) for rank in range(world)]
    after: list[tuple[int, int]] = []
    for stream in ranks:
        stream.load_state_dict(state)
        if state["epoch"] < 2:
            after += [(epoch, row) for epoch, ids in ids_of(stream) for row in ids]
    wanted = [(epoch, row) for epoch in range(2) for row in range(n)]
    assert sorted(before + after) == wanted
    if state["epoch"] < 2 and state["epoch"] in ranks[0]._receipts:
        whole = merge([stream.receipt(state["epoch"]) for stream in ranks])
        assert whole.complete
        verify(whole, Rows(n), TERMS.dataset)


def test_a_state_of_something_else_is_refused() -> None:
    """Another dataset, selection, seed or order, and a state that was changed, are errors."""
    stream = stream_of(Rows(20))
    next(stream)
    state = stream.state_dict()
    others = [
        stream_of(Rows(21)),
        stream_of(Rows(20, 0, 19)),
        stream_of(Rows(20), replace(TERMS, seed=8)),
        stream_of(Rows(20), replace(TERMS, dataset="e" * 32)),
        stream_of(Rows(20), kind="sequential"),
    ]
    refused = 0
    for other in others[1:]:
        with pytest.raises(StateMismatch, match="cannot be resumed"):
            other.load_state_dict(state)
        refused += 1
    assert refused == 4
    changes: list[dict[str, Any]] = [
        {"pos": 3},
        {"epoch": 1},
        {"pos": 99},
        {"sha256": "0" * 64},
        {"pos": -1},
    ]
    for change in changes:
        with pytest.raises(StateMismatch):
            stream_of(Rows(20)).load_state_dict({**state, **change})
    broken: dict[str, Any]
    for broken in ({}, {**state, "pos": "x"}, {**state, "epoch": None}):
        with pytest.raises((StateMismatch, SpecMismatch)):
            stream_of(Rows(20)).load_state_dict(broken)


def test_augmentation_is_of_the_row_and_epoch() -> None:
    """Seeds of a row are the same in any batch size, and others in another epoch."""
    found: dict[tuple[int, int], int] = {}
    for size in (3, 7):
        for batch in stream_of(Rows(20), replace(TERMS, batch_size=size)):
            for row, seed in zip(batch.ids.tolist(), batch.seeds.tolist(), strict=True):
                assert found.setdefault((batch.epoch, row), seed) == seed
    assert len(set(found.values())) == 40


def test_a_batch_is_valid_until_the_next() -> None:
    """Its memory is used again, a copy's is not."""
    stream = stream_of(Rows(8))
    first = next(stream)
    kept = first.copy()
    values = kept["x"].tolist()
    second = next(stream)
    assert np.shares_memory(first["x"], second["x"])
    assert kept["x"].tolist() == values
    assert (kept.epoch, kept.pos, kept.ids.tolist(), kept.seeds.tolist()) == (
        first.epoch,
        first.pos,
        first.ids.tolist(),
        first.seeds.tolist(),
    )


def test_a_stream_without_end_has_no_length() -> None:
    """It goes on from epoch to epoch."""
    stream = stream_of(Rows(3), replace(TERMS, epochs=None))
    with pytest.raises(TypeError):
        len(stream)
    epochs = [next(stream).epoch for _ in range(5)]
    assert epochs == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("epochs", "made"), [(1, [0]), (2, [0, 1]), (None, [0, 1, 2])])
def test_no_order_is_made_for_nothing(
    monkeypatch: pytest.MonkeyPatch, epochs: int | None, made: list[int]
) -> None:
    """The order of the next epoch is computed ahead, but not that of one that never comes."""
    monkeypatch.setattr(resident, "SORT_AHEAD", 1)
    asked: list[int] = []

    def order_of(epoch: int) -> EpochOrder:
        asked.append(epoch)
        return EpochOrder(Rows(5), 7, epoch)

    rows = ResidentRows({"x": np.arange(5)}, Rows(5), partial=False, order=order_of, epochs=epochs)
    for epoch in range(epochs or 2):
        ids, fields = rows.fetch(epoch * 5, epoch * 5 + 5, slice(None))
        assert ids.tolist() == EpochOrder(Rows(5), 7, epoch).window(0, 5).tolist()
        assert (fields["x"] == ids).all()
    rows.close()
    assert asked == made
