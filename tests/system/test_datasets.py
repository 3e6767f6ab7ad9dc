"""Datasets: rows of files, selected, delivered in random order from memory shared by all."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.samples.order import EpochOrder
from arrayd.samples.receipt import verify
from arrayd.samples.selection import Rows
from tests.support.daemons import Daemon
from tests.support.processes import Stage, wait_until
from tests.support.shared_daemon import counters

pytestmark = pytest.mark.one_daemon

N = 600


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with files of rows that tell their number; the cache is there as well."""
    monkeypatch.setenv("ARRAYD_CACHE", str(tmp_path / "cache"))
    x = np.arange(N * 4, dtype="f8").reshape(N, 4)
    np.save(tmp_path / "x.npy", x)
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(50, 4), compression="gzip")
        file["y"] = np.arange(N)
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, part in enumerate(np.array_split(x, 7)):
        np.save(shards / f"{number}.npy", part)
    samples = tmp_path / "samples"
    lines = ["path,label"]
    for number in range(60):
        path = samples / f"{number % 3}" / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, x[number])
        lines.append(f"samples/{number % 3}/{number}.npy,{number % 3}")
    (tmp_path / "samples.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def rows_of(dataset: arrayd.Dataset, **options: Any) -> list[int]:
    """Return the rows of an epoch in order; the field x must tell them."""
    seen: list[int] = []
    for batch in dataset.stream(64, **options):
        assert (batch["x"][..., 0] == batch.ids * 4.0).all()
        seen += batch.ids.tolist()
    return seen


@pytest.fixture(params=["npy", "gzip", "shards", "list"])
def any_dataset(request: Any, home: Path, client: arrayd.Client) -> Iterator[arrayd.Dataset]:
    """Give a dataset of each kind of files."""
    sources: dict[str, Any] = {
        "npy": home / "x.npy",
        "gzip": {"x": f"{home}/train.h5:/x", "y": f"{home}/train.h5:/y"},
        "shards": f"{home}/shards/*.npy",
        "list": home / "samples.csv",
    }
    yield arrayd.dataset(sources[request.param], client=client)


def test_every_kind_of_files_has_the_same_order(any_dataset: arrayd.Dataset) -> None:
    """Each row comes once per epoch, and the order is that of its number alone."""
    n = len(any_dataset)
    assert rows_of(any_dataset, seed=5) == EpochOrder(Rows(n), 5, 0).window(0, n).tolist()
    stream = any_dataset.stream(7, seed=5, epochs=2)
    batches = [batch.copy() for batch in stream]
    assert [sum(len(b.ids) for b in batches if b.epoch == e) for e in (0, 1)] == [n, n]
    verify(stream.receipt(1), Rows(n), any_dataset.fingerprint)
    for batch in batches:
        for name, right in (("y", batch.ids), ("label", batch.ids % 3)):
            assert name not in batch or (batch[name] == right).all()


def test_selections_share_one_block(home: Path, client: arrayd.Client) -> None:
    """Splits and subsets are of the same memory; a small part of a large set has its own."""
    whole = arrayd.dataset(home / "x.npy", client=client)
    parts = whole.split(train=0.8, val=0.2, seed=1)
    assert sorted(rows_of(parts["train"]) + rows_of(parts["val"])) == list(range(N))
    assert len(rows_of(parts["train"].subset(20))) == 20
    assert sorted(rows_of(whole[10:50:2])) == list(range(10, 50, 2))
    odd = np.arange(N) % 2 == 1
    assert sorted(rows_of(whole.filter(odd))) == list(range(1, N, 2))
    assert len(client.status().blocks) == 1
    small = arrayd.dataset(home / "x.npy", client=client, budget="2K")
    trial = small.subset(50)
    assert sorted(rows_of(trial)) == trial.ids.tolist()
    assert trial.plan(4).memory == 50 * 32
    wait_until(lambda: len(client.status().blocks) == 2, "the subset has a block of its own")


def test_columns_come_with_the_rows(home: Path, client: arrayd.Client) -> None:
    """A list's columns are there for whole selections and batches; splits know them by name."""
    dataset = arrayd.dataset(home / "samples.csv", client=client)
    assert dataset.column("label").tolist() == [number % 3 for number in range(60)]
    parts = dataset.split(train=0.5, val=0.5, stratify="label")
    for part in parts.values():
        assert np.bincount(part.column("label")).tolist() == [10, 10, 10]
    with pytest.warns(UserWarning, match="No rows came into rest: .* another seed="):
        dataset.split(train=0.999, rest=1e-9, group="label")
    by_group = dataset.split(train=0.5, val=0.5, group="label")
    labels = [set(part.column("label").tolist()) for part in by_group.values()]
    assert not labels[0] & labels[1]
    with pytest.raises(arrayd.SpecMismatch, match=r"no column 'colour'.* label"):
        dataset.column("colour")


def test_fewer_bits(home: Path, client: arrayd.Client) -> None:
    """A cast is of a field or of all; what is lost is warned of, what does not fit is refused."""
    sources = {"x": f"{home}/train.h5:/x", "y": f"{home}/train.h5:/y"}
    dataset = arrayd.dataset(sources, cast={"x": "f4"}, client=client)
    batch = next(dataset.stream(8))
    assert (batch["x"].dtype, batch["y"].dtype) == (np.dtype("f4"), np.dtype("i8"))
    with pytest.warns(arrayd.PrecisionWarning, match=r"^x\.npy:x: float16 has too few bits"):
        next(arrayd.dataset(home / "x.npy", cast="f2", client=client).stream(8))
    shards = arrayd.dataset(f"{home}/shards/*.npy", client=client)
    next(shards.stream(8))
    words = [block.source for block in client.status().blocks]
    assert sorted(words) == [
        "0.npy+6:x",
        "train.h5:x (cast=float32)",
        "train.h5:y",
        "x.npy:x (cast=float16)",
    ]
    with pytest.raises(arrayd.CastError, match="field 'y' of the dataset"):
        next(arrayd.dataset(sources, cast={"y": "i1"}, client=client).stream(8))
    with pytest.raises(arrayd.SpecMismatch, match=r"cast= of \['z'\]"):
        arrayd.dataset(sources, cast={"z": "f4"}, client=client)


def test_the_order_in_blocks_is_warned_of(home: Path, client: arrayd.Client) -> None:
    """It delivers each row once as well, and says how far it is from random; sequential is not."""
    dataset = arrayd.dataset(home / "x.npy", client=client)
    with pytest.warns(arrayd.BiasWarning, match=r"15\.0 times as often") as caught:
        rows = rows_of(dataset, seed=3, order="block", block=10, buffer=4)
    assert [one.filename for one in caught] == [__file__]
    assert sorted(rows) == list(range(N))
    assert rows_of(dataset, order="sequential") == list(range(N))


def test_two_models_share_memory(
    home: Path, daemon: Daemon, client: arrayd.Client, puppets: Stage
) -> None:
    """Two processes make the same dataset: one load, one block, the same rows in each epoch."""
    code = (
        f"ds = arrayd.dataset({str(home / 'x.npy')!r}); s = ds.stream(64, seed=3, epochs=2);"
        "rows = [b.ids.tolist() for b in s]; [r.sha256 for r in s.receipts]"
    )
    seen = [puppets(daemon)(code) for _ in range(2)]
    assert seen[0] == seen[1]
    assert counters(client)["loads"] == 1


def test_a_dataset_travels_to_other_processes(
    home: Path, daemon: Daemon, client: arrayd.Client, puppets: Stage
) -> None:
    """Pickled, it is the same selection of the same files, and some hundred bytes."""
    part = arrayd.dataset(home / "x.npy", cast="f4", client=client).split(a=0.5)["a"][:100]
    data = pickle.dumps(part)
    assert len(data) < 2000
    other = puppets(daemon)
    other(f"import pickle; ds = pickle.loads({data!r})")
    assert other("ds.ids.tolist(), ds.fingerprint") == [part.ids.tolist(), part.fingerprint]
    seen = other("[row for batch in ds.stream(64, seed=9) for row in batch.ids.tolist()]")
    assert seen == rows_of(part, seed=9)


def test_a_changed_file_is_another_dataset(home: Path, client: arrayd.Client) -> None:
    """A state of what the file held before is refused; a dataset made before sees the change."""
    before = arrayd.dataset(home / "x.npy", client=client)
    stream = before.stream(64)
    next(stream)
    state = stream.state_dict()
    np.save(home / "x.npy", np.zeros((N, 4)))
    del stream
    client.evict(None, block=client.status().blocks[0].number)
    with pytest.raises(arrayd.SourceChanged, match="dataset"):
        next(before.stream(64))
    after = arrayd.dataset(home / "x.npy", client=client)
    assert after.fingerprint != before.fingerprint
    with pytest.raises(arrayd.StateMismatch, match="dataset"):
        after.stream(64).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"seed": -1}, "seed"),
        ({"rank": 2, "world": 2}, "rank=2"),
        ({"order": "random"}, "order"),
        ({"fields": ["z"]}, "there are x"),
        ({"plan": "magic"}, "plan='magic'"),
    ],
)
def test_wrong_arguments_of_a_stream(
    home: Path, client: arrayd.Client, arguments: dict[str, Any], words: str
) -> None:
    """Each is an error before anything is read, and names the argument."""
    dataset = arrayd.dataset(home / "x.npy", client=client)
    with pytest.raises(arrayd.SpecMismatch, match=re.escape(words)):
        dataset.stream(**arguments)
    assert client.status().blocks == ()


def test_wrong_datasets(home: Path, client: arrayd.Client) -> None:
    """Missing files, other shapes, empty lists and splits of more than all are typed errors."""
    (home / "missing.txt").write_text("samples/0/0.npy\nsamples/0/none.npy\n")
    with pytest.raises(arrayd.SourceNotFound, match=r"none\.npy"):
        arrayd.dataset(home / "missing.txt", client=client)
    np.save(home / "samples" / "0" / "0.npy", np.zeros(5))
    with pytest.raises(arrayd.SpecMismatch, match=r"0\.npy"):
        arrayd.dataset(home / "samples.csv", client=client)
    (home / "empty.csv").write_text("path,label\n")
    with pytest.raises(arrayd.SourceError):
        arrayd.dataset(home / "empty.csv", client=client)
    dataset = arrayd.dataset(home / "x.npy", client=client)
    with pytest.raises(arrayd.SpecMismatch, match=r"1\.1"):
        dataset.split(train=0.8, val=0.3)
    with pytest.raises(arrayd.SpecMismatch, match="budget"):
        arrayd.dataset(home / "x.npy", budget="much", client=client)
    with pytest.raises(arrayd.NoRoom, match="too small"):
        arrayd.dataset(home / "x.npy", budget="1K", client=client).stream(64)
