"""Processes of the daemon that read users' files: how one is started, and what it does at first.

It is started by exec, never by fork: it must not inherit a descriptor or mapping of a segment (the
lease test would not see it). It dies with the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from arrayd.common import failpoints
from arrayd.wire.codec import pack
from arrayd_server.kernel import leases
from arrayd_server.loading.apart import die_with_parent

MAX_WORDS = 4000
"""Characters of the longest error: a hostile file would fill the log with its names."""

_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""It multiplies no matrices; OpenBLAS would reserve 40 MB for each CPU there is."""


def spawn(
    program: Sequence[str], memory: int
) -> tuple[subprocess.Popen[bytes], int, socket.socket]:
    """Start a process that may use `memory` bytes: ``python PROGRAM... FD PARENT MEMORY``.

    Returns
    -------
    process, pidfd, socket
        The socket does not block; the other end of it is the process's ``FD``.

    Raises
    ------
    OSError
        The system has no process or descriptor for it.
    """
    with contextlib.ExitStack() as stack:
        failpoints.hit("daemon.spawning")
        ours, theirs = map(stack.enter_context, socket.socketpair())
        ours.setblocking(False)
        numbers = (theirs.fileno(), os.getpid(), memory)
        process = subprocess.Popen(
            [sys.executable, *program, *map(str, numbers)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD},
        )
        stack.callback(process.kill)
        pidfd = os.pidfd_open(process.pid)
        stack.pop_all()
        theirs.close()
    return process, pidfd, ours


class Outbox:
    """What such a process is still to be sent: one that is stopped must not block the daemon."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        process: subprocess.Popen[bytes],
        sock: socket.socket,
    ) -> None:
        self._loop = loop
        self._process = process
        self._sock = sock
        self._data = bytearray()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send now, or when the socket has room."""
        self._data += pack(message)
        self._flush()

    def _flush(self) -> None:
        try:
            del self._data[: self._sock.send(self._data)]
        except BlockingIOError:
            pass
        except OSError:  # it has closed its end; reading ours will notice
            self._data.clear()
            self._process.kill()
        if self._data:
            self._loop.add_writer(self._sock, self._flush)
        else:
            self._loop.remove_writer(self._sock)


@contextlib.contextmanager
def connected() -> Iterator[socket.socket]:
    """Begin as `spawn` asks on the command line; yield the socket to the daemon."""
    descriptor, parent, memory = map(int, sys.argv[1:4])
    _begin(parent, memory)
    # A daemon that is killed with an answer unread resets the connection instead of closing it.
    with socket.socket(fileno=descriptor) as sock, contextlib.suppress(ConnectionResetError):
        yield sock


def _begin(parent: int, memory: int) -> None:
    """Do what comes before the first file is read."""
    die_with_parent(parent)
    _limit_memory(memory)
    _clear_hdf5_environment()
    os.chdir("/")  # so that the file system of the old directory can be unmounted
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the daemon
    leases.ignore_sigio()
    np.seterr(all="ignore")


def cause(code: int) -> str:
    """Return in words how a process ended, by its `Popen.returncode`."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _limit_memory(size: int) -> None:
    """Limit what a file can make its loader use, before the machine or the cgroup runs out.

    RLIMIT_DATA counts what is private and writable, whether it was touched or not: the heap, the
    chunks of libhdf5. RLIMIT_AS would also count the segment, which a transposing load maps as a
    whole and which the budget has admitted, and the pages of shared libraries. RLIMIT_RSS
    limits nothing on Linux.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    size = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    # If all loaders together are too much after all, the kernel shall kill one, not the daemon.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("800")


def _clear_hdf5_environment() -> None:
    """Remove what in the daemon's environment would change which files libhdf5 opens.

    ``HDF5_EXT_PREFIX``, ``HDF5_VDS_PREFIX`` and ``HDF5_EXTFILE_PREFIX`` would lead to other files
    than the user's; whether locks count is said by the request. Where plug-ins lie may stay.
    """
    for name in [n for n in os.environ if n.startswith("HDF5_") and "PLUGIN" not in n]:
        del os.environ[name]
