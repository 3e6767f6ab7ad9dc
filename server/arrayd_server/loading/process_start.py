"""What a process that reads users' files does at first; how it is started says `own_process`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator

import numpy as np

from arrayd_server.kernel import leases
from arrayd_server.loading.apart import die_with_parent

MAX_WORDS = 4000
"""Characters of the longest error: a hostile file would fill the log with its names."""

_PR_SET_NAME = 15


@contextlib.contextmanager
def connected(name: str) -> Iterator[socket.socket]:
    """Begin as ``FD PARENT MEMORY`` on the command line say; yield the socket to the daemon.

    Parameters
    ----------
    name
        Of the process, for ``ps`` and ``top``, at most 15 characters.
    """
    descriptor, parent, memory = map(int, sys.argv[1:4])
    belong_to(parent, name)
    _limit_memory(memory)
    _clear_hdf5_environment()
    np.seterr(all="ignore")
    # A daemon that is killed with an answer unread resets the connection instead of closing it.
    with socket.socket(fileno=descriptor) as sock, contextlib.suppress(ConnectionResetError):
        yield sock


def belong_to(parent: int, name: str) -> None:
    """Be a process of the daemon `parent`: die with it, and leave to it what is its own."""
    die_with_parent(parent)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())
    os.chdir("/")  # so that the file system of the old directory can be unmounted
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the daemon
    leases.ignore_sigio()


def _limit_memory(size: int) -> None:
    """Limit what a file can make its loader use, before the machine or the cgroup runs out.

    RLIMIT_DATA counts what is private and writable, whether it was touched or not: the heap, that
    of the fork server included, the chunks of libhdf5. RLIMIT_AS would also count the segment,
    which a transposing load maps as a whole and which the budget has admitted, and the pages of
    shared libraries. RLIMIT_RSS limits nothing on Linux.
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
