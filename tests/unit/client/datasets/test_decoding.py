"""Which units have wanted rows, how often they are decoded, and what room a pack has."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from arrayd.datasets.decoding import PackRoom, WantedUnits
from arrayd.samples.manifest import Files
from arrayd.samples.order import EpochOrder
from arrayd.samples.pack_spec import PackSpec
from arrayd.samples.selection import Rows

FILES = Files.of(["/a", "/b", "/c"], np.zeros((3, 5)), [25, 0, 40])


def units(rows: Rows, unit: int = 10, files: Files = FILES) -> WantedUnits:
    """Return the units of a field of float32 that is cast to float16."""
    return WantedUnits.of(files, unit, rows, 4, 2)


def test_units_begin_anew_in_each_file() -> None:
    """The last of a file may be smaller; those without wanted rows do not count."""
    whole = units(Rows(65))
    assert (whole.rows, whole.nbytes, whole.wanted) == (65, 260, ((5, 1), (10, 6)))
    part = units(Rows(65, 18, 26))
    assert (part.rows, part.wanted) == (10 + 5 + 10, ((1, 1), (2, 1), (5, 1)))
    some = units(Rows.of([0, 3, 64], 65))
    assert (some.rows, some.wanted) == (20, ((1, 1), (2, 1)))
    assert units(Rows(65), unit=1).wanted == ((1, 65),)
    assert units(Rows(65), unit=1000).wanted == ((25, 1), (40, 1))


@pytest.mark.parametrize("unit", [1, 7, 64, 5000])
@pytest.mark.parametrize("window", [100, 700, 6000])
@pytest.mark.parametrize("part", [0.2, 1.0])
def test_the_factor_is_that_of_real_orders(unit: int, window: int, part: float) -> None:
    """Units are counted in the windows of real epochs."""
    files = Files.of(["/a", "/b"], np.zeros((2, 5)), [4000, 1000])
    rows = Rows.of(np.flatnonzero(np.random.default_rng(0).random(5000) < part), 5000)
    found, n = units(rows, unit, files), len(rows)
    window = min(window, n)
    counted = 0
    for epoch in range(4):
        ids = EpochOrder(rows, 3, epoch).window(0, n).astype(np.int64)
        for start in range(0, n, window):
            numbers, inside = files.locate(ids[start : start + window])
            counted += len(np.unique(numbers * 10**6 + inside // unit))
    real = counted / 4 / sum(many for _, many in found.wanted)
    assert found.decodes(window, n, 0.0) == pytest.approx(real, rel=0.03)


def test_what_stays_in_memory_is_not_decoded() -> None:
    """Where units are single rows, it saves its part; where all windows have each, nothing."""
    single, large = units(Rows(65), 1), WantedUnits(10**6, 4, 4, ((10**5, 10),))
    assert single.decodes(10, 65, 0.25) == pytest.approx(0.75)
    assert large.decodes(10**4, 10**6, 0.5) == pytest.approx(100)


def test_room_is_what_is_still_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier run has written counts, but not its holes; no folder, no answer."""
    spec = PackSpec(b"m" * 16, "x", np.dtype("f2"), (), "error", 10**6)
    packs = [(spec, WantedUnits(10**6, 4, 2, ((10, 10**5),)))]
    room = PackRoom.of(str(tmp_path), packs)
    assert room is not None
    assert (room.needed, room.short) == (2 * 10**6, False)
    with open(spec.path(str(tmp_path)), "wb") as file:
        file.truncate(spec.size)
        file.write(b"x" * 10**6)
        file.flush()
        os.fsync(file.fileno())
    room = PackRoom.of(str(tmp_path), packs)
    assert room is not None
    assert 10**6 - 70_000 <= room.needed <= 10**6
    full = SimpleNamespace(f_bavail=3, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    assert PackRoom.of(str(tmp_path), packs) == PackRoom(str(tmp_path), room.needed, 12288)
    monkeypatch.undo()
    assert PackRoom.of(str(tmp_path / "none"), packs) is None
