from __future__ import annotations

from typing import Any

import numpy as np

from arrayd.datasets import reader_memory
from arrayd_server.core import windows
from arrayd_server.loaders.dataset import reading, rows
from arrayd_server.streams import reader
from arrayd_server.streams.share import ResidentShare

Array = np.ndarray[Any, Any]


class Interrupted(dict[str, Array]):
    """A ring during the copy of whose rows something else happens."""

    def __init__(self, ring: dict[str, Array], act: Any) -> None:
        super().__init__(ring)
        self._act = act

    def __getitem__(self, name: str) -> Array:
        """Let it happen, and return the field."""
        self._act()
        return super().__getitem__(name)


def test_rows_behind_a_slot_that_is_not_filled_yet() -> None:
    """They are found an epoch later, when the rows before them are there as well."""
    share = ResidentShare(np.zeros(5, np.uint64), {"x": np.zeros((5, 2))})
    ring = {"x": np.arange(8.0).reshape(4, 2)}
    first, second = np.array([9, 2], np.uint64), np.array([7, 1], np.uint64)
    whole = np.concatenate([first, second])

    def overtake() -> None:
        share.keep(second, ring, np.array([2, 3]))
        assert share.find(whole, 1).tolist() == [-1] * 4

    share.keep(first, Interrupted(ring, overtake), np.array([0, 1]))
    assert share.find(whole, 1).tolist() == [-1] * 4
    assert share.find(whole, 2).tolist() == [0, 1, 2, 3]
    share.keep(np.array([4], np.uint64), ring, np.array([0]))
    assert share.find(np.array([4, 7], np.uint64), 3).tolist() == [4, 2]


def test_the_plan_knows_the_buffers() -> None:
    """What a client counts for the reader is what it takes."""
    assert reader_memory.BUFFER_BYTES == reading.BOUNCE_BYTES
    assert reader_memory.LARGE_BYTES == rows.LARGE_BYTES
    assert reader_memory.PARTS == reading.PARTS
    assert reader_memory.WINDOWS == reader.WINDOWS == windows.MAX_IN_FLIGHT
    assert reader_memory.RING_PARTS == windows._SHARE
