"""A /dev/shm of its own for each process that runs tests.

The leak guard would see the segments of other daemons on this machine, and under
``pytest -n 2`` those of the other worker's tests. Root gives each process a mount namespace
with a tmpfs there, which its tests' processes inherit; for others the guard waits longer for
what may be somebody else's (`tests/support/leaks.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os

import pytest

_CLONE_NEWNS = 0x00020000  # linux/sched.h; os.unshare came with Python 3.12
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18  # linux/mount.h

in_company = False
"""Whether tests of another worker run in this /dev/shm at the same time."""


def pytest_configure(config: pytest.Config) -> None:
    """Seclude this process, pytest-xdist's worker or the only one, if that is possible."""
    global in_company  # noqa: PLW0603 - what pytest calls gets no object of ours
    in_company = hasattr(config, "workerinput")
    with contextlib.suppress(PermissionError):
        seclude()
        in_company = False


def seclude() -> None:
    """Give this thread, and what it starts from now on, an empty /dev/shm as large as before.

    Raises
    ------
    PermissionError
        That takes CAP_SYS_ADMIN.
    """
    facts = os.statvfs("/dev/shm")
    size = f"size={facts.f_blocks * facts.f_frsize}"
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNS))
    _check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    _check(libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, size.encode()))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
