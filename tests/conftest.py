"""What all tests share: the leak guard, daemons, and pytest's own tester for testing it."""

from __future__ import annotations

from tests.fixtures import daemon, short_directory, start_daemon
from tests.guard import leaves_nothing, session_leaves_nothing

__all__ = [
    "daemon",
    "leaves_nothing",
    "session_leaves_nothing",
    "short_directory",
    "start_daemon",
]

pytest_plugins = ("pytester",)
