"""Work in a child process, which takes with it all that it read.

Where a chunk of a corrupt file decodes to fewer bytes than it should have, libhdf5 (2.0) passes
on what its heap holds behind them, whatever the filter: gzip and LZF, shuffle, scale-offset,
n-bit, szip. The process must not have read another file before. A fork of one that has read
none is such a process; it takes some 5 ms, where a new loader would have to import libhdf5.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from itertools import islice

CHILD_MODULES = ("arrayd_server.loaders.", "hdf5plugin")
"""Beginnings of the names of modules that the parent imports after a child has."""

_PR_SET_PDEATHSIG = 1


def apart(work: Callable[[], None]) -> None:
    """Do `work` in a child, and wait for its end. If a signal kills it, this process dies alike.

    The modules that it imports are imported here too: the next child has them from the start.

    Raises
    ------
    OSError
        The system has no process for it, or no descriptors.
    SystemExit
        It failed.
    """
    parent, known, (ours, theirs) = os.getpid(), len(sys.modules), os.pipe()
    with open(ours) as reader, open(theirs, "w") as writer:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                die_with_parent(parent)
                work()
                # Only the new ones: to look at a module copies the page it lies in, after a fork.
                new = list(islice(reversed(sys.modules), len(sys.modules) - known))[::-1]
                writer.write("\n".join(name for name in new if name.startswith(CHILD_MODULES)))
                writer.flush()
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        writer.close()
        names = reader.read().split()
    _, status = os.waitpid(child, 0)
    _end_as(os.waitstatus_to_exitcode(status))
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _end_as(code: int) -> None:
    """End as the child did, by a signal or with an error; go on if it did its work."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the child has left its own
        os.kill(os.getpid(), -code)
    if code:
        raise SystemExit(1)


def die_with_parent(parent: int) -> None:
    """See to it that this process is killed when its parent ends; end now if it has."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(0)
