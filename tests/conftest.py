"""What all tests share: leak guard, a /dev/shm per worker, daemons, pytest's own tester."""

from __future__ import annotations

from tests.support.daemons import daemon, short_directory, start_daemon
from tests.support.leaks import leaves_nothing, session_leaves_nothing
from tests.support.private_shm import pytest_configure
from tests.support.processes import client, puppets, slow_file

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
