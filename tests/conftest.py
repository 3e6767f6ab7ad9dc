"""What all tests share: the leak guard, daemons, and pytest's own tester for testing it."""

from __future__ import annotations

from tests.fixtures import daemon, short_directory, start_daemon
from tests.guard import leaves_nothing, session_leaves_nothing
from tests.helpers import client, puppets, slow_file

__all__ = [
    "client",
    "daemon",
    "leaves_nothing",
    "puppets",
    "session_leaves_nothing",
    "short_directory",
    "slow_file",
    "start_daemon",
]

pytest_plugins = ("pytester",)
