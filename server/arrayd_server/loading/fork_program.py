"""The fork server's program: ``python -m arrayd_server.loading.fork_program FD PARENT MODULE…``.

For each request that it gets over the socket it forks a process, which first writes its own number
to the socket that came with the request, and then runs as if it had been started by exec: see
`fork_server` for the theory. Only the first module is imported at once, for the daemon may have
been started for one load; the others when they are asked for, or when nothing has been asked for
`IDLE`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Iterable
from typing import NoReturn

from arrayd.wire import protocol
from arrayd_server.loading.early_start import CLONE
from arrayd_server.loading.process_start import belong_to

ALSO = ("numpy.ma", "encodings.cp437", "arrayd_server.loaders.npy")
"""What modules of ours, `numpy.unique` and `zipfile` import when they need it, as most do."""

IDLE = 1.0
"""Seconds without a request after which all is imported that may be needed."""

PID_BYTES = 8
"""Of the number that a new process writes first: little endian."""

MAX_REQUEST = 256
"""Bytes of a request: ``MODULE MEMORY``."""

_CLONE_PARENT = 0x8000  # linux/sched.h
_libc = ctypes.PyDLL(None, use_errno=True)  # it keeps the GIL, as a fork must
_libc.syscall.restype = ctypes.c_long


def serve(requests: socket.socket, parent: int, later: Iterable[str]) -> None:
    """Fork a process for each request, until there are no more.

    Parameters
    ----------
    later
        Modules that are not imported yet.
    """
    ours = _installed()
    while True:
        if later and not select.select([requests], [], [], IDLE)[0]:
            _import(later)
            later = ()
        data, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST, 1)
        if not data or _installed() != ours:
            return  # processes of the arrayd that is installed now are the daemon's to start
        (descriptor,) = descriptors
        module, memory = data.decode().split()
        _import([module])
        with contextlib.suppress(OSError):  # the daemon sees that nothing was written
            if fork_for_parent() == 0:
                requests.close()
                _become(module, descriptor, parent, memory)
        os.close(descriptor)


def fork_for_parent() -> int:
    """Fork; the new process is a child of this one's parent. Return its number, and 0 to itself.

    `os.fork` knows no flags, so this does what it does. libc does more in a process with several
    threads; this one has one.

    Raises
    ------
    OSError
        The system has no process for it, or does not allow it.
    """
    ctypes.pythonapi.PyOS_BeforeFork()
    # A pointer to no stack: the child goes on with its copy of ours.
    zero = ctypes.c_long(0)
    number = ctypes.c_long(CLONE[os.uname().machine])
    flags = ctypes.c_long(_CLONE_PARENT | signal.SIGCHLD)
    pid = int(_libc.syscall(number, flags, zero, zero, zero, zero))
    code = ctypes.get_errno()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, os.strerror(code))
    return pid


def _become(module: str, descriptor: int, parent: int, memory: str) -> NoReturn:
    """Be the process that was asked for, and end with it."""
    try:
        os.write(descriptor, os.getpid().to_bytes(PID_BYTES, "little"))
    except OSError:  # the daemon has ended, or given up
        os._exit(1)
    code = 1
    try:
        sys.argv = [module, str(descriptor), str(parent), memory]
        gc.enable()
        sys.modules[module].main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _import(modules: Iterable[str]) -> None:
    """Import modules, those that are not there yet."""
    new = [module for module in modules if module not in sys.modules]
    for module in new:
        importlib.import_module(module)
    if new:
        gc.collect()
        gc.freeze()  # a collection in a new process would copy the pages of all objects


def _installed() -> tuple[int, int]:
    """Return what changes when another arrayd is installed: no process shall have parts of two."""
    try:
        stat = os.stat(protocol.__file__)
    except OSError:
        return 0, errno.ENOENT
    return stat.st_ino, stat.st_mtime_ns


def main() -> None:
    """Run on the descriptor, for the parent, with the modules named on the command line."""
    descriptor, parent = map(int, sys.argv[1:3])
    belong_to(parent, "arrayd-forks")
    gc.disable()
    first, *later = sys.argv[3:]
    _import([first])
    with socket.socket(fileno=descriptor) as requests:
        serve(requests, parent, [*later, *ALSO])


if __name__ == "__main__":
    main()
