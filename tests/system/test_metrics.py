"""The metrics of a daemon that runs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.daemons import PATIENCE, Daemon


def test_a_file_for_node_exporter(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """It is there soon after the start, and goes with the daemon."""
    daemon = start_daemon("--budget", "16M", "--metrics-textfile", str(tmp_path))
    path, end = tmp_path / "arrayd.prom", time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)
    assert re.search(r"(?m)^arrayd_budget_bytes 1.6777216e\+07$", path.read_text())
    daemon.stop()
    assert list(tmp_path.iterdir()) == []
