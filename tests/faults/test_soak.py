"""The soak, short: no wrong value, no dead daemon, no leaked byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.faults import soak
from tests.fixtures import Daemon


def test_nothing_is_lost(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Clients and daemon are killed at random; all values are right and nothing is left."""
    one = soak.Soak(start_daemon(*soak.FLAGS), tmp_path, seed=2)
    try:
        one.run(12)
        one.settle()
    finally:
        one.close()
    assert one.violations == [], str(one)
    assert one.done["restarts"] >= 1, str(one)
    assert one.done["get"] >= 20, str(one)
