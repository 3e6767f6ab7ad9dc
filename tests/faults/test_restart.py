"""Restart for real, short: clients read and ask while the daemon comes and goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import restart
from tests.support.daemons import Daemon


def test_nobody_minds_a_restart(
    start_daemon: Callable[..., Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held arrays are read all the time, no block is loaded again, requests are answered."""
    monkeypatch.setattr(restart, "READERS", 4)  # their start takes the time
    daemon = start_daemon(*restart.FLAGS)
    with restart.trial(daemon, tmp_path) as one:
        one.run(kills=2, handovers=2)
        one.end()
    assert one.complaints == [], str(one)
    for row in one.rows:
        assert row.restarts == 2, str(one)
        assert (row.errors, row.reloads) == (0, 0), str(one)
        assert row.reads_without >= row.restarts * restart.READERS, str(one)
        assert row.requests >= row.restarts * restart.READERS, str(one)
        assert row.slowest < 10, str(one)
