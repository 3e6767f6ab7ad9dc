"""A reader that keeps nothing of what it decodes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from arrayd.samples.order import EpochOrder
from arrayd.samples.selection import Rows
from tests.support.datasets import make_dataset, make_samples
from tests.support.streams import OneReader, identity_of

WHOLE = np.arange(5.0 * 100).reshape(100, 5)


@pytest.mark.parametrize(("kind", "unit"), [("chunked", 7), ("text", 50), ("samples", 1)])
def test_it_decodes_for_each_window(tmp_path: Path, kind: str, unit: int) -> None:
    """Without a pack: each unit that has rows of a window once, and nothing is written."""
    parts = [WHOLE[:50], WHOLE[50:]]
    made = make_samples(tmp_path, list(WHOLE)) if kind == "samples" else None
    identity = identity_of(made or make_dataset(tmp_path, kind, parts), tmp_path, windowed=True)
    before = {*tmp_path.iterdir()}

    async def work() -> None:
        async with OneReader(identity, tmp_path) as reader:
            for start, stop in [(0, 1), (1, 33), (33, 97), (97, 100), (100, 164)]:
                ids, values, stats = await reader.window(start, stop)
                np.testing.assert_array_equal(values["x"], WHOLE[ids])
                order = EpochOrder(Rows(100), 7, start // 100)
                np.testing.assert_array_equal(ids, order.window(start % 100, (stop - 1) % 100 + 1))
                first = np.unique(ids // 50 * 50 + ids % 50 // unit * unit)
                rows = sum(min(unit, 50 - int(at) % 50) for at in first)
                assert stats["bytes_read"] == rows * 40

    asyncio.run(work())
    assert {*tmp_path.iterdir()} - before == {tmp_path / "ring"}
