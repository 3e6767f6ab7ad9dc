"""What all tests share: leak guard, a /dev/shm per worker, daemons, pytest's own tester."""

from __future__ import annotations

from tests.support.daemons import daemon_forks, short_directory, start_daemon
from tests.support.leaks import leaves_nothing, session_leaves_nothing
from tests.support.people import ann, bob, people, template
from tests.support.private_shm import pytest_configure
from tests.support.processes import client, puppets, slow_file
from tests.support.shared_daemon import daemon, module_daemon, module_daemon_is_empty

__all__ = [
    "ann",
    "bob",
    "client",
    "daemon",
    "daemon_forks",
    "leaves_nothing",
    "module_daemon",
    "module_daemon_is_empty",
    "people",
    "puppets",
    "pytest_configure",
    "session_leaves_nothing",
    "short_directory",
    "slow_file",
    "start_daemon",
    "template",
]

pytest_plugins = ("pytester",)
