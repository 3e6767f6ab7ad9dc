"""With real PyTorch: tensors that may be written to, workers without duplicates, the same order."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayd
import arrayd.torch
from arrayd.samples.order import EpochOrder
from arrayd.samples.selection import Rows
from tests.support.daemons import Daemon

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
data = pytest.importorskip("torch.utils.data")

N = 1000


@pytest.fixture
def dataset(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give a dataset whose values tell their row."""
    monkeypatch.setenv("ARRAYD_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "x.npy", np.arange(N * 3, dtype="f4").reshape(N, 3))
    np.save(tmp_path / "y.npy", np.arange(N))
    with arrayd.connect(daemon.endpoint) as client:
        sources = {"x": str(tmp_path / "x.npy"), "y": str(tmp_path / "y.npy")}
        yield arrayd.dataset(sources, client=client)


PLANS = pytest.mark.parametrize("plan", ["resident", "row-random"])


@PLANS
def test_tensors_share_memory_and_may_be_written_to(dataset: Any, plan: str) -> None:
    """No warning, no copy of the batch, no crash, and what is written is seen by nobody else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            seen = []
            stream = arrayd.torch.stream(dataset, 64, seed=3, plan=plan)
            for batch in stream:
                assert torch.equal(batch["x"][:, 0], batch["ids"] * 3.0)
                assert torch.equal(batch["y"], batch["ids"])
                seen += batch["ids"].tolist()
                batch["x"].mul_(-1)
                batch["y"].zero_()
            assert seen == EpochOrder(Rows(N), 3, 0).window(0, N).tolist()
            assert stream.receipt(0).complete


@PLANS
@pytest.mark.parametrize(
    ("workers", "context", "persistent"),
    [(0, None, False), (1, "fork", False), (2, "fork", True), (2, "spawn", False)],
)
def test_inside_a_data_loader(
    dataset: Any, plan: str, workers: int, context: str | None, persistent: bool
) -> None:
    """With any number of workers each row comes once, in an order that each pass changes."""
    stream = arrayd.torch.stream(dataset, 64, seed=3, plan=plan)
    loader = data.DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
        persistent_workers=persistent,
    )
    for epoch in (0, 1, 5):
        if epoch == 5:
            stream.set_epoch(5)
        assert len(loader) == 16
        seen: list[int] = []
        for batch in loader:
            assert torch.equal(batch["x"][:, 0], batch["ids"] * 3.0)
            seen += batch["ids"].tolist()
        assert seen == EpochOrder(Rows(N), 3, epoch).window(0, N).tolist()
    if workers:
        with pytest.raises(arrayd.SpecMismatch, match="workers of a DataLoader"):
            stream.state_dict()
    else:
        assert stream.state_dict()["epoch"] == 6


def test_a_sampler_has_the_same_order(dataset: Any) -> None:
    """For a map-style dataset; ranks share the rows, epochs differ, and it resumes."""
    sampler = arrayd.torch.Sampler(dataset, seed=5)
    loader = data.DataLoader(np.arange(N), batch_size=50, sampler=sampler)
    assert len(loader) == N // 50
    rows = [row for batch in loader for row in batch.tolist()]
    assert rows == EpochOrder(Rows(N), 5, 0).window(0, N).tolist()
    ranks = [list(arrayd.torch.Sampler(dataset, seed=5, rank=r, world=3)) for r in range(3)]
    assert sorted(row for rank in ranks for row in rank) == list(range(N))
    assert [len(rank) for rank in ranks] == [334, 333, 333]
    even = [arrayd.torch.Sampler(dataset, rank=r, world=3, drop_last=True) for r in range(3)]
    assert [len(one) for one in even] == [len(list(one)) for one in even] == [333] * 3
    sampler.set_epoch(1)
    assert list(sampler) == EpochOrder(Rows(N), 5, 1).window(0, N).tolist() != rows


def test_a_sampler_resumes_on_other_ranks(dataset: Any) -> None:
    """What one rank has not taken, two ranks take: each row once."""
    first = arrayd.torch.Sampler(dataset, seed=5)
    taken = list(itertools.islice(first, 301))
    state = first.state_dict()
    assert state["pos"] == 301
    rest = []
    for rank in range(2):
        other = arrayd.torch.Sampler(dataset, seed=5, rank=rank, world=2)
        other.load_state_dict(state)
        assert len(other) == len(range(301 + rank, N, 2))
        rest += list(other)
    order = EpochOrder(Rows(N), 5, 0).window(0, N).tolist()
    assert taken == order[:301]
    assert sorted(rest) == sorted(order[301:])
    with pytest.raises(arrayd.StateMismatch, match="seed"):
        arrayd.torch.Sampler(dataset, seed=6).load_state_dict(state)
    for wrong in ({"pos": N + 1}, {"pos": -1}, {"arrayd": 77}):
        with pytest.raises(arrayd.StateMismatch):
            first.load_state_dict({**state, **wrong})


def test_a_sampler_begins_the_next_epoch_at_its_start(dataset: Any) -> None:
    """The state after `set_epoch` is of that epoch's first row; ranks that resume stay even."""
    sampler = arrayd.torch.Sampler(dataset, seed=5)
    assert len(list(sampler)) == N
    sampler.set_epoch(1)
    state = sampler.state_dict()
    assert (state["epoch"], state["pos"]) == (1, 0)
    with pytest.raises(arrayd.SpecMismatch):
        sampler.set_epoch(-1)
    even = []
    for rank in range(3):
        other = arrayd.torch.Sampler(dataset, seed=5, rank=rank, world=3, drop_last=True)
        other.load_state_dict({**state, "pos": 4})
        even.append((len(other), len(list(other))))
    assert even == [(332, 332)] * 3


def test_what_is_no_dataset_and_no_state(dataset: Any) -> None:
    """One typed error each."""
    with pytest.raises(arrayd.SpecMismatch, match=r"arrayd\.dataset"):
        arrayd.torch.stream("x.npy")  # type: ignore[arg-type]
    state: Any = None
    with pytest.raises(arrayd.StateMismatch, match="no state"):
        arrayd.torch.Sampler(dataset).load_state_dict(state)


def test_what_torch_has_no_type_for_is_left_out(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text and long doubles do not reach the tensors; the other byte order does, as values."""
    monkeypatch.setenv("ARRAYD_CACHE", str(tmp_path / "cache"))
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", np.full(2, i, ">f4"))
    lines = "".join(f"{i}.npy,class{i % 2},{i}\n" for i in range(4))
    (tmp_path / "samples.csv").write_text("path,label,group\n" + lines)
    with arrayd.connect(daemon.endpoint) as client:
        dataset = arrayd.dataset(str(tmp_path / "samples.csv"), client=client)
        (batch,) = arrayd.torch.stream(dataset, 8)
        assert sorted(batch) == ["group", "ids", "seeds", "x"]
        assert torch.equal(batch["x"][:, 0], batch["ids"].float())
        assert torch.equal(batch["group"], batch["ids"])
        np.save(tmp_path / "wide.npy", np.zeros(4, "longdouble"))
        (batch,) = arrayd.torch.stream(arrayd.dataset(str(tmp_path / "wide.npy"), client=client), 4)
        assert sorted(batch) == ["ids", "seeds"]
