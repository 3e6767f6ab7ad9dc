"""Start a process of the daemon's that has a socket to it, and nothing else of it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence

_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""They multiply no matrices; OpenBLAS would reserve 40 MB for each CPU there is."""


def execute(
    program: Sequence[str], *more: object, kind: socket.SocketKind = socket.SOCK_STREAM
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start ``python PROGRAM... FD PARENT MORE...``.

    Returns
    -------
    process, socket
        The socket does not block; the other end of it is the process's ``FD``.

    Raises
    ------
    OSError
        The system has no process or descriptor for it.
    """
    with contextlib.ExitStack() as stack:
        ours, theirs = map(stack.enter_context, socket.socketpair(type=kind))
        ours.setblocking(False)
        process = subprocess.Popen(
            [sys.executable, *program, *map(str, (theirs.fileno(), os.getpid(), *more))],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD},
        )
        stack.pop_all()
        theirs.close()
    return process, ours
