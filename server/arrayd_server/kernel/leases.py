"""The kernel's reference count: whether a file is open or mapped anywhere but here.

A write lease (``fcntl(fd, F_SETLEASE, F_WRLCK)``) is granted if and only if no other open
file *or mapping* of the file exists in any process, cooperating or not; a read lease if
and only if nobody has it open for writing. Both are taken and given back at once.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
from collections.abc import Callable

_F_SETLEASE, _F_GETLEASE = 1024, 1025  # linux/fcntl.h

# PyDLL keeps the GIL during the call, so that no other thread runs between taking a lease and
# giving it back, while an opener waits for it (fcntl.fcntl releases the GIL: up to 10 ms).
_libc = ctypes.PyDLL(None, use_errno=True)
_fcntl = _libc.fcntl
_fcntl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int)
_fcntl.restype = ctypes.c_int
_unlink = _libc.unlink
_unlink.argtypes = (ctypes.c_char_p,)


def ignore_sigio() -> None:
    """Ignore SIGIO, which an open that meets one of our leases sends: it would kill us."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)


def alone(fd: int) -> bool:
    """Say whether `fd` is the only open file, and no mapping exists, of its inode.

    Raises
    ------
    OSError
        Leases do not work here (``fs.leases-enable``, another owner's file).
    """
    return _try_lease(fd, fcntl.F_WRLCK)


def unlink_if_alone(fd: int, path: str) -> bool:
    """Unlink `path`, a name of the inode of `fd`, if `fd` is `alone`; say whether it is.

    This is one step for those who open it with ``O_NONBLOCK``, as clients do: an earlier open is
    seen here; an open that meets the lease fails, and finds no name when it is tried again.

    Raises
    ------
    OSError
        As `alone`.
    """
    name = os.fsencode(path)
    return _try_lease(fd, fcntl.F_WRLCK, lambda: _unlink(name))


def while_alone(fd: int, steps: Callable[[], object]) -> bool | None:
    """Do some steps under a write lease on the inode of `fd`; say what that came to.

    Returns
    -------
    bool or None
        False: nothing was done, for `fd` is not `alone`. True: all was done, and nobody has come
        meanwhile. None: it was done, but somebody has, and waits for the lease or has been told
        to try again: an opener of the name that the inode had before.

    Raises
    ------
    OSError
        As `alone`, or of a step. The lease has been given back.
    """
    if not _granted(fd, fcntl.F_WRLCK):
        return False
    try:
        steps()
        return True if _fcntl(fd, _F_GETLEASE, 0) == fcntl.F_WRLCK else None
    finally:
        _fcntl(fd, _F_SETLEASE, fcntl.F_UNLCK)


def no_writer(fd: int) -> bool:
    """Say whether nobody can write to the inode of `fd`, itself opened read-only.

    Raises
    ------
    OSError
        As `alone`.
    """
    return _try_lease(fd, fcntl.F_RDLCK)


def available(path: str) -> bool:
    """Say whether leases work on a file of ours; it may be open elsewhere."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        alone(fd)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _try_lease(fd: int, kind: int, meanwhile: Callable[[], object] | None = None) -> bool:
    if not _granted(fd, kind):
        return False
    if meanwhile is not None:
        meanwhile()
    _fcntl(fd, _F_SETLEASE, fcntl.F_UNLCK)
    return True


def _granted(fd: int, kind: int) -> bool:
    if _fcntl(fd, _F_SETLEASE, kind) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EAGAIN:
        return False
    raise OSError(code, os.strerror(code))
