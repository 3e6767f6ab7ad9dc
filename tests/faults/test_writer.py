"""A writer is killed at every step, or its disk is full: the file has what was flushed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from arrayd.common import failpoints
from tests.faults.grounds import NEEDS_ROOT
from tests.support.daemons import PATIENCE

SCRIPT = """
import sys, arrayd
with arrayd.writer(sys.argv[1], "f4", (2,), resume=True, flush_every=int(sys.argv[2])) as out:
    while out.rows < 20:
        out.append([[out.rows, -out.rows]])
        print(out.flushed, flush=True)
print(out.flushed)
"""


def write(path: Path, setting: str = "", flush_every: int = 4 * 8) -> tuple[int, int]:
    """Append until there are 20 rows; return how it ended, and what it knew to be flushed."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(flush_every)],
        env={**os.environ, failpoints.VARIABLE: setting},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    said = done.stdout.split()
    return done.returncode, int(said[-1]) if said else 0


@pytest.mark.parametrize(
    ("setting", "flushed"),
    [
        ("client.appended=kill", 0),
        ("client.appended=kill:4", 0),
        ("client.counted=kill", 4),
        ("client.appended=kill:6", 4),
        ("client.counted=kill:3", 12),
        ("client.counted=exit:5", 20),
    ],
)
def test_killed(tmp_path: Path, setting: str, flushed: int) -> None:
    """After each death numpy reads the rows flushed, all that the writer said, and it goes on."""
    path = tmp_path / "x.npy"
    code, known = write(path, setting)
    assert code != 0
    rows = np.load(path)
    assert len(rows) == flushed
    assert len(rows) >= known
    expected = np.arange(20, dtype="f4")[:, None] * np.array([1, -1], "f4")
    np.testing.assert_array_equal(rows, expected[:flushed])
    assert write(path) == (0, 20)
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), expected)
    assert os.listdir(tmp_path) == ["x.npy"]


@NEEDS_ROOT
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """On a small file system: NoRoom with numbers, and a valid file of whole batches."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = """
import sys, arrayd, numpy as np
path = sys.argv[1] + "/x.npy"
batch = np.arange(25_000).reshape(-1, 10)
try:
    with arrayd.writer(path, "i8", 10) as out:
        while True:
            out.append(batch)
except arrayd.NoRoom as error:
    print(error.details["needed"], error.details["total"], "resume=True" in str(error))
rows = np.load(path, mmap_mode="r")
print(len(rows) // 2500, len(rows) % 2500, all((part == batch).all() for part in np.split(rows, 5)))
"""
    mount = f'mount -t tmpfs -o size=1m none {disk} && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", script, str(disk)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout.splitlines() == ["200000 1048576 True", "5 0 True"], done.stderr
