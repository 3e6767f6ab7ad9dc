"""With a GPU: batches are copied to it from the shared ring, right at every pass of the ring."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayd
import arrayd.torch
from tests.support.daemons import Daemon

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
N, COLUMNS = 6000, 700

if torch.cuda.is_available():
    # What CUDA opens for good, before a test is asked what it leaves behind.
    torch.mm(torch.ones(64, 64, device="cuda"), torch.ones(64, 64, device="cuda")).double().sum()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.ones(1 << 20).pin_memory().to("cuda", non_blocking=True)
    torch.cuda.synchronize()


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Make files whose values tell their row."""
    monkeypatch.setenv("ARRAYD_CACHE", str(tmp_path / "cache"))
    rows = np.arange(N, dtype="f4")
    np.save(tmp_path / "x.npy", rows[:, None] + np.zeros(COLUMNS, "f4"))
    np.save(tmp_path / "y.npy", rows.astype("i8"))
    return {name: str(tmp_path / f"{name}.npy") for name in "xy"}


def check(batch: Any) -> None:
    """Check all values of a batch on the device."""
    right = batch["ids"].float()[:, None].expand(-1, COLUMNS)
    assert torch.equal(batch["x"], right)
    assert torch.equal(batch["y"], batch["ids"])


@GPU
@pytest.mark.parametrize("plan", ["resident", "row-random"])
def test_batches_on_the_gpu(daemon: Daemon, sources: dict[str, str], plan: str) -> None:
    """Several epochs through a small ring; batches stay valid, and may be written to."""
    with arrayd.connect(daemon.endpoint) as client, warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = arrayd.dataset(sources, client=client, budget=20 << 20)
        stream = arrayd.torch.stream(dataset, 256, seed=3, epochs=3, plan=plan, device="cuda")
        kept, total = [], 0
        for batch in stream:
            assert batch["x"].is_cuda
            check(batch)
            total += len(batch["ids"])
            kept.append(batch)
            pinned = dict(stream._copies._pinned._registered)
            assert all(pinned.values()), "memory could not be pinned"
        assert pinned, "nothing was pinned"
        assert total == 3 * N
        for batch in kept:
            check(batch)
        kept[0]["x"].zero_()
        assert stream.receipt(2).complete
        assert not stream._copies._pinned._registered, "it stays pinned after the end"
        for _ in zip(range(4), stream, strict=False):
            pass
        assert stream._copies._pinned._registered, "the next pass pins nothing"
        stream.close()
        assert not stream._copies._pinned._registered


@GPU
def test_a_computation_that_goes_on_meanwhile(daemon: Daemon, sources: dict[str, str]) -> None:
    """The copy of the next batch runs beside it, and neither sees a half of the other."""
    with arrayd.connect(daemon.endpoint) as client:
        dataset = arrayd.dataset(sources, client=client, budget=20 << 20)
        weights = torch.ones(4096, 4096, device="cuda")
        sums, right = [], 0.0
        for batch in arrayd.torch.stream(dataset, 256, plan="row-random", device="cuda"):
            for _ in range(8):
                weights = (weights @ weights).clamp_(0, 1)
            sums.append(batch["x"].double().sum())  # after the products, in the same stream
            right += float(batch["ids"].sum()) * COLUMNS
        assert float(sum(sums)) == right


@pytest.mark.parametrize("plan", ["resident", "row-random"])
def test_other_devices_get_copies(daemon: Daemon, sources: dict[str, str], plan: str) -> None:
    """Without a word of warning; ``meta`` has shapes only. ``cpu`` is no other device."""
    with arrayd.connect(daemon.endpoint) as client, warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = arrayd.dataset(sources, client=client, budget=20 << 20)
        stream = arrayd.torch.stream(dataset, 256, plan=plan, device="meta")
        shapes = [tuple(batch["x"].shape) for batch in stream]
        assert sum(rows for rows, _ in shapes) == N
        assert all(one.is_meta for one in next(iter(stream)).values())
        check(next(iter(arrayd.torch.stream(dataset, 256, plan=plan, device="cpu"))))


def test_what_makes_no_sense_on_a_device(
    daemon: Daemon, sources: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies are writable anyway, and a worker would send them through the host again."""
    with arrayd.connect(daemon.endpoint) as client:
        dataset = arrayd.dataset(sources, client=client)
        with pytest.raises(arrayd.SpecMismatch, match="writable=True: tensors on a device are"):
            arrayd.torch.stream(dataset, 8, device="meta", writable=True)
        stream = arrayd.torch.stream(dataset, 8, device="meta")
        monkeypatch.setattr(torch.utils.data, "get_worker_info", object)
        with pytest.raises(arrayd.SpecMismatch, match="in a worker of a DataLoader"):
            next(iter(stream))
