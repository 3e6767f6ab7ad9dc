"""No reader of the index is ever given what is not the file; the hunt is in `index_hunt`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.faults.index_hunt import NAIVE, budget, hunt
from tests.support.daemons import Daemon

SECONDS = 3.0


def test_no_wrong_read(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Files change, blocks go, the daemon dies; each array is of an edition that was there."""
    seen = hunt(start_daemon("--budget", budget(), "--workers", "2"), tmp_path, SECONDS, 2, 1)
    assert seen["wrong"] == 0, seen
    assert min(seen["by_index"], seen["replaced"], seen["killed"], seen["loads"]) > 0, seen


def test_the_hunt_finds_a_stale_read(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Readers that do not look at the file again are caught."""
    flags = ("--budget", budget(), "--workers", "2")
    seen = hunt(start_daemon(*flags), tmp_path, SECONDS / 2, 1, 1, NAIVE)
    assert seen["wrong"] > 0, seen
