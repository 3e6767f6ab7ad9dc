"""What all tests share: leak guard, a /dev/shm per worker, daemons, pytest's own tester."""

from __future__ import annotations

from tests.fixtures import daemon, short_directory, start_daemon
from tests.guard import leaves_nothing, session_leaves_nothing
from tests.helpers import client, puppets, slow_file
from tests.seclusion import pytest_configure

__all__ = [
    "client",
    "daemon",
    "leaves_nothing",
    "puppets",
    "pytest_configure",
    "session_leaves_nothing",
    "short_directory",
    "slow_file",
    "start_daemon",
]

pytest_plugins = ("pytester",)
