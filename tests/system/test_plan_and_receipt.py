"""``arrayd plan`` and ``arrayd receipt``: what a researcher types before and after a training."""

from __future__ import annotations

import json
import re
from collections import deque
from pathlib import Path

import h5py
import numpy as np
import pytest

import arrayd
from arrayd import cli
from arrayd.datasets import cache
from tests.support.daemons import Daemon
from tests.support.processes import leaves_nothing_behind

pytestmark = pytest.mark.one_daemon

N = 500


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with two files of equally many rows; the cache is there as well."""
    monkeypatch.setenv("ARRAYD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((N, 16), "f4"))
    np.save("y.npy", np.arange(N))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command; return its exit code and what it prints."""
    code = cli.main(words)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_plan_is_printed(home: Path, daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    """The dataset and how it would be delivered, with names of fields or without."""
    where = ("--endpoint", daemon.endpoint)
    code, out, _ = run(capsys, "plan", "x=x.npy", "y=y.npy", *where)
    assert code == 0
    assert "500 rows, x: float32[16], y: int64[]" in out
    assert "resident: 500 rows of 72 B" in out
    code, out, _ = run(capsys, "plan", "x.npy", "--budget", "20K", "--batch-size", "16", *where)
    assert (code, "row-random: 500 rows" in out) == (0, True)
    code, _, err = run(capsys, "plan", "x.npy", "--budget", "2K", "--batch-size", "64", *where)
    assert (code, "too small" in err) == (4, True)
    code, _, err = run(capsys, "plan", "none.npy", *where)
    assert (code, "none.npy" in err, "Traceback" in err) == (1, True, False)


def test_a_plan_is_measured(
    home: Path, daemon: Daemon, client: arrayd.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows are really read, and nothing is left of that; the text has rates and times."""
    where = ("--endpoint", daemon.endpoint, "--measure")
    small = ("x.npy", "--budget", "20K", "--batch-size", "16", *where)
    code, out, _ = run(capsys, "plan", *small)
    assert code == 0
    assert re.search(
        r"measured now +[\d,]+ rows/s \(.*/s\) at random, [\d,]+ rows/s .* in order", out
    )
    assert re.search(
        r"time per epoch +\d.* s to read, the first \d.* s;\n.*in order, would take", out
    )
    code, out, _ = run(capsys, "plan", "x.npy", *where)
    assert (code, "rows/s" in out, "time to load" in out) == (0, True, True)
    kept = {*(home / "cache").iterdir()}
    dataset = arrayd.dataset(home / "x.npy", budget="20K", client=client)
    plan = dataset.filter(np.arange(N) % 5 != 0).plan(16, measure=True)
    assert plan.rates is not None
    assert plan.rates.at_random is not None
    assert {*(home / "cache").iterdir()} == kept
    with pytest.raises(arrayd.SpecMismatch, match="too few"):
        dataset[:1].plan(1, measure=True)
    leaves_nothing_behind(client)


def test_decoding_is_measured(home: Path, client: arrayd.Client) -> None:
    """How fast units are decoded tells how long an epoch takes that decodes each once, or often."""
    with h5py.File("z.h5", "w") as file:
        file.create_dataset("x", data=np.zeros((N, 16), "f4"), chunks=(50, 16), compression="gzip")
    dataset = arrayd.dataset({"x": "z.h5:/x", "y": "y.npy"}, budget="20K", client=client)
    once = dataset.plan(16, measure=True)
    assert once.rates is not None
    assert (once.kind, once.rates.at_random) == ("lazy pack", None)
    assert once.seconds is not None
    assert once.seconds.once == pytest.approx(N / once.rates.in_order)
    assert "rows/s (" in str(once)
    often = dataset.plan(16, measure=True, plan="windowed")
    assert often.seconds is not None
    assert often.seconds.later == pytest.approx(often.decodes * often.seconds.once)
    deque(dataset.stream(16), maxlen=0)
    packed = dataset.plan(16, measure=True)
    assert packed.rates is not None
    assert packed.rates.at_random is not None
    assert packed.is_packed
    leaves_nothing_behind(client)


def test_a_receipt_is_verified(
    home: Path, client: arrayd.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """A true one holds; one that was changed, or whose selection is not known, is an error."""
    dataset = arrayd.dataset(home / "x.npy", client=client)
    stream = dataset.stream(64, seed=3)
    for _ in stream:
        pass
    Path("receipt.json").write_text(stream.receipt(0).to_json())
    code, out, _ = run(capsys, "receipt", "verify", "receipt.json")
    assert (code, "receipt.json: holds" in out, "500 rows" in out) == (0, True, True)
    plain = json.loads(stream.receipt(0).to_json())
    Path("false.json").write_text(json.dumps({**plain, "seed": 4}))
    code, _, err = run(capsys, "receipt", "verify", "false.json")
    assert (code, "does not hold" in err) == (1, True)
    part = dataset.filter(np.arange(N) % 2 == 0)
    stream = part.stream(64, seed=3)
    for _ in stream:
        pass
    Path("part.json").write_text(stream.receipt(0).to_json())
    code, _, err = run(capsys, "receipt", "verify", "part.json")
    assert (code, "--ids ids.npy" in err) == (1, True)
    cache.save_ids(part.rows)
    code, out, _ = run(capsys, "receipt", "verify", "part.json")
    assert (code, "holds" in out) == (0, True)
    np.save("ids.npy", part.ids)
    code, out, _ = run(capsys, "receipt", "verify", "part.json", "--ids", "ids.npy")
    assert (code, "holds" in out) == (0, True)
    for name, words in (("none.json", "no such file"), ("x.npy", "no receipt")):
        code, _, err = run(capsys, "receipt", "verify", name)
        assert (code, words in err, "Traceback" in err) == (1, True, False)
