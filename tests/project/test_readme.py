"""The README is true: its code runs, its commands exist, its options are the daemon's."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import arrayd
from arrayd import cli
from arrayd_server import option_text
from tests.support import fake_packages
from tests.support.daemons import Daemon

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DATA = ROOT.parent / "shared" / "data" / "methylation"
DTYPE = np.dtype("S10,<i4,<f4,<i4,<i4")

BLOCKS = dict(re.findall(r"<!-- test: (\S+) -->\n```python\n(.*?)```", README, re.DOTALL))


def sample_text(rows: int, seed: int) -> str:
    """Return methylation-like lines."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 99, (rows, 2))
    return "".join(
        f"chr21\t{9_000_000 + i}\t{100 * c / max(1, c + t):.2f}\t{c}\t{t}\n"
        for i, (c, t) in enumerate(counts)
    )


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """Give a folder with the files that the README's code reads."""
    np.save(tmp_path / "model.npy", np.arange(100_000.0).reshape(-1, 10))
    np.savez(tmp_path / "weights.npz", dense=np.arange(64.0), bias=np.zeros(3))
    np.arange(6400, dtype="<f4").tofile(tmp_path / "big.bin")
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["x"] = np.arange(20_000, dtype="f4").reshape(2000, 10)
        file["y"] = np.arange(2000)
    texts = sorted(DATA.glob("*.cov.txt"))
    for i in range(1, 5):
        text = texts[i - 1].read_text() if len(texts) == 4 else sample_text(2000, i)
        (tmp_path / f"s{i}.cov.txt").write_text(text)
    return tmp_path


def run(code: str, folder: Path, endpoint: str) -> str:
    """Run a script in `folder`, as a user would; return what it prints."""
    script = folder / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env={**os.environ, "ARRAYD_ENDPOINT": endpoint},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def gathered(folder: Path) -> dict[str, np.ndarray]:
    """Return the datasets of out.h5, which is removed."""
    with h5py.File(folder / "out.h5") as file:
        found = {name: file[name][...] for name in file}
    (folder / "out.h5").unlink()
    return found


@pytest.mark.parametrize("name", ["everyday", "two-models", "training", "torch", "writer"])
def test_the_code_runs(name: str, workplace: Path, daemon: Daemon) -> None:
    """Every line of the README's examples works as it stands."""
    if name == "torch":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    run(BLOCKS[name], workplace, daemon.endpoint)


@pytest.mark.parametrize("scene", ["queue", "pool"])
def test_both_scripts_of_scene_one_gather_the_same(
    scene: str, workplace: Path, daemon: Daemon
) -> None:
    """The script of today and the one with arrayd write what np.loadtxt reads, dtype included."""
    for kind in ("before", "after", "after"):
        run(BLOCKS[f"{scene}-{kind}"], workplace, daemon.endpoint)
        found = gathered(workplace)
        assert sorted(found) == [f"s{i}.cov.txt" for i in range(1, 5)]
        for name, rows in found.items():
            expected = np.loadtxt(workplace / name, dtype=DTYPE)
            np.testing.assert_array_equal(rows, expected)
            assert rows.dtype == expected.dtype


def test_a_format_of_ones_own(
    start_daemon: Callable[..., Daemon], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module reads its files, once a package brings it."""
    code = BLOCKS["own-format"]
    fake_packages.install(workplace / "site", "mypackage", {"idx": "idx"}, idx=code)
    monkeypatch.setenv("PYTHONPATH", str(workplace / "site"))
    daemon = start_daemon("--budget", "64M", "--workers", "1")
    values = np.arange(24, dtype="u1").reshape(4, 3, 2)
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, *values.shape)
    (workplace / "train.idx").write_bytes(header + values.tobytes())
    with arrayd.connect(daemon.endpoint) as client:
        np.testing.assert_array_equal(client.get(workplace / "train.idx"), values)
        part = client.get(workplace / "train.idx", format="idx", rows=slice(1, 3), cast="f4")
        np.testing.assert_array_equal(part, values[1:3])


def test_the_options_are_the_daemons() -> None:
    """The table of options is the one that the daemon prints."""
    table = re.search(r"<!-- options -->\n(.*?)<!-- /options -->", README, re.DOTALL)
    assert table is not None
    assert table[1].strip() == option_text.markdown_table().strip()


def test_all_marked_blocks_are_run() -> None:
    """No block is marked as tested without a test above."""
    scenes = {f"{scene}-{kind}" for scene in ("queue", "pool") for kind in ("before", "after")}
    others = {"everyday", "two-models", "training", "torch", "writer", "own-format"}
    assert set(BLOCKS) == scenes | others


def test_the_modules_it_names_exist() -> None:
    """Every file named in the README is in the tree."""
    folders = (ROOT / name for name in ("client", "server", "tests", "deploy"))
    there = {path.name for folder in folders for path in folder.rglob("*.py")}
    named = {name.rsplit("/", 1)[-1] for name in re.findall(r"`([\w/.]+\.py)`", README)}
    assert named - there == set()


def test_the_commands_it_names_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Every `arrayd …` command in the README is one that the command line knows."""
    names = set(re.findall(r"^arrayd ([\w-]+)", README, re.MULTILINE))
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert names <= set(re.findall(r"^    ([\w-]+)", shown, re.MULTILINE))
