"""The start of the fork server, which may be begun before the daemon is imported.

Whoever starts a private daemon is about to ask it for something. The answer waits until both have
imported what they need, which takes each a quarter of a second: so they do it at the same time.
Nothing else is imported here, for that would take its time first.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
from collections.abc import Sequence

from arrayd_server.loading.execute import execute

PROGRAM = ("-m", "arrayd_server.loading.fork_program")

LOADER, READER = "arrayd_server.loading.worker", "arrayd_server.streams.reader"
MODULES = (LOADER, READER)
"""Which the processes of a daemon run: see `fork_server`."""

CLONE = {"x86_64": 56, "aarch64": 220}
"""The number of clone(2) (asm/unistd_64.h, asm-generic/unistd.h), by machine."""

Begun = tuple[subprocess.Popen[bytes], socket.socket]

_begun: list[Begun] = []


def begin() -> None:
    """Start the fork server of the daemon that this process is about to be, if that is possible."""
    if os.uname().machine not in CLONE:
        return
    raise_descriptor_limit()  # it is handed down
    with contextlib.suppress(OSError):  # the daemon tries again, and logs it
        _begun.append(begun(MODULES))


def begun(modules: Sequence[str]) -> Begun:
    """Start a fork server for some modules; return its process and the socket to it.

    Raises
    ------
    OSError
        The system has no process or descriptor for it.
    """
    return execute(PROGRAM, *modules, kind=socket.SOCK_SEQPACKET)


def taken(modules: Sequence[str]) -> Begun | None:
    """Return the fork server that was started early; None: there is none, or for other modules."""
    return _begun.pop() if _begun and tuple(modules) == MODULES else None


def raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard one: each client costs descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
