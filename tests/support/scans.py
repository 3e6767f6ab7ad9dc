"""What tests of `arrayd.datasets.scan` share: files in a folder, and a cache of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from arrayd.datasets import cache
from arrayd.samples.manifest import Manifest
from arrayd.source import Source


class NoClient:
    """Stands where no daemon may be asked."""

    def info(self, source: Source) -> None:
        """Fail."""
        pytest.fail(f"the daemon was asked about {source}")


ALONE: Any = NoClient()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the working directory, and a cache of the test's own beside it."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    work = tmp_path / "work [1]"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def shards(*rows: int, name: str = "s", kind: str = "f4", shape: tuple[int, ...] = (3,)) -> None:
    """Write ``s1.npy``, ``s2.npy``, … with so many rows."""
    for number, count in enumerate(rows, 1):
        np.save(f"{name}{number}.npy", np.full((count, *shape), number, kind))


def names(manifest: Manifest, field: str = "x") -> list[str]:
    """Return the names of the files of a field, without their folder."""
    files = manifest.files[manifest.field(field).files]
    return [os.path.basename(files.path(number)) for number in range(len(files))]


def starts(manifest: Manifest, field: str = "x") -> list[int]:
    """Return the first row of each file of a field, and their number."""
    return [int(row) for row in manifest.files[manifest.field(field).files].starts]


def wrong_files() -> None:
    """Write files with which something is wrong."""
    shards(2, 3, 4)
    shards(2, name="d", kind="f8")
    shards(2, name="w", shape=(4,))
    np.save("zero.npy", np.float32(1))
    np.save("object.npy", np.array([None]), allow_pickle=True)
    np.save("empty.npy", np.zeros((0, 3), "f4"))
    Path("cut.npy").write_bytes(Path("s1.npy").read_bytes()[:-1])
    with h5py.File("a.h5", "w") as file:
        file["one"], file["two"], file["words"] = np.zeros(2), np.zeros(3), ["a", "bc"]
    with h5py.File("time.h5", "w") as file:
        file.create_dataset("r", (2,), h5py.ref_dtype)
    Path("folder").mkdir()
    Path("some.lst").write_text("s1.npy\n")
    Path("label.csv").write_text("path,x\ns1.npy,1\n")
    Path("others.csv").write_text("path,x\ns1.npy,2\n")
    Path("none.txt").write_text("#\n")
    Path("none.lst").write_text("#\n")
