"""``arrayd report`` through a real daemon: read once, in slices, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.cli import main
from arrayd.datasets import slices
from tests.support.daemons import Daemon
from tests.support.processes import save

pytestmark = pytest.mark.one_daemon

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> Call:
    """Give a function that runs ``arrayd report`` and returns code, output and complaint."""

    def run(*words: object) -> tuple[int, str, str]:
        code = main(["report", *map(str, words), "--endpoint", daemon.endpoint])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_one_cast(call: Call, tmp_path: Path) -> None:
    """A member of a file, and the table with its verdict."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.array([[0.5, 1.0], [7e4, 2.0]])
        file["y"] = np.arange(3)
    code, out, complaint = call(tmp_path / "a.h5", "--dataset", "x", "--cast", "float16")
    assert (code, complaint) == (0, "")
    assert out.startswith(f"{tmp_path}/a.h5:x: (2, 2) float64\nfloat64 -> float16, 4 values\n")
    assert "REFUSED unless you choose: 1 value is beyond float16" in out
    code, _, complaint = call(tmp_path / "a.h5")
    assert (code, complaint.count("\n")) == (1, 1)
    assert "holds several arrays: add :NAME, one of x, y" in complaint


def test_all_smaller_types(call: Call, tmp_path: Path) -> None:
    """Without ``--cast`` each type of fewer bits is reported, of one reading; JSON for programs."""
    values = save(tmp_path / "x.npy", np.linspace(-1, 1, 1001))
    code, out, _ = call(tmp_path / "x.npy", "--json")
    found = json.loads(out)
    assert code == 0
    assert [one["target"] for one in found["reports"][:2]] == ["<f4", "<f2"]
    half = found["reports"][1]["fields"][""]
    assert half["changed"] == np.count_nonzero(values.astype("f2") != values)
    assert (half["count"], half["bytes_after"], half["overflow"]) == (1001, 2002, 0)


@pytest.mark.parametrize("order", ["C", "F"])
def test_slices_are_the_whole(
    call: Call,
    client: arrayd.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    order: str,
) -> None:
    """A file larger than a slice is read in parts that leave no trace in the daemon."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 1000)
    values = np.random.default_rng(2).normal(0, 1, (500, 3))
    save(tmp_path / "x.npy", np.asfortranarray(values) if order == "F" else values)
    code, out, _ = call(tmp_path / "x.npy", "--json", "--cast", "f4")
    (report,) = json.loads(out)["reports"]
    assert code == 0
    assert report["fields"][""]["count"] == 1500
    assert report["fields"][""]["minimum"] == values.min()
    blocks = [block for block in client.status().blocks if block.state != "leaving"]
    assert len(blocks) <= (0 if order == "C" else 1)


def test_text_is_read_whole(call: Call, tmp_path: Path) -> None:
    """A format of which rows are not cheap; records have a report for each field."""
    (tmp_path / "a.txt").write_text("chr1 5 0.1\nchr2 70000 0.5\n")
    words = ("--dtype", "c:S4,n:i4,x:f8", "--cast", "c:S4,n:i2,x:f4")
    code, out, _ = call(tmp_path / "a.txt", *words)
    assert code == 0
    assert "field n\nint32 -> int16, 2 values" in out
    assert "Lossless: |S4" in out
