"""The soak, short: no wrong value, no dead daemon, no leaked byte, no growth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.faults import soak
from tests.faults.acts import OF_A_PROCESS, WEIGHTS
from tests.support.daemons import Daemon


def test_nothing_is_lost(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Clients and daemon are killed at random; all values are right and nothing is left."""
    one = soak.Soak(start_daemon(*soak.flags("10M")), tmp_path, seed=2, actors=8)
    try:
        one.run(12, 4)
        one.settle()
    finally:
        one.close()
    assert one.violations == [], str(one)
    assert one.restarts >= 1, str(one)
    assert [kind for kind in WEIGHTS if not one.done[kind]] == [], str(one)
    assert sum(one.done[kind] for kind in OF_A_PROCESS) >= 20, str(one)
