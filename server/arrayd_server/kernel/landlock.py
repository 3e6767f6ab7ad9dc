"""Landlock: a process gives up all files but those that it names, for good.

The kernel holds each later open against the list, by what is opened and not by how it is called:
no symbolic link, no file that was put in its place, and no library that opens files of its own
leads anywhere else. What is open already stays so. See landlock(7); there is no wrapper in the C
library.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH, _PR_SET_NO_NEW_PRIVS = 1, 1, 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_ALL_OF_FILES = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many rights an ABI has, from the lowest bit on; from 5 on 16."""

_TCP, _SCOPES = 3, 3  # bind and connect; abstract sockets and signals

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Return the version of the kernel's interface; 0: it has no Landlock, or does not use it."""
    found: int = _libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    return max(0, found)


def restrict(code: Iterable[str], readable: Iterable[int], writable: Iterable[int]) -> None:
    """Leave this process, and its children, nothing else than these files, and no network.

    Parameters
    ----------
    code
        Directories in which all may be read and executed; those that are not there are left out.
    readable, writable
        Descriptors (O_PATH will do) of the files that may be opened for reading, or for both.

    Raises
    ------
    OSError
        It was not done: ENOSYS, EOPNOTSUPP where the kernel has no Landlock.
    """
    abi = version()
    files = (1 << _ALL_OF_FILES.get(abi, 16)) - 1
    attributes = struct.pack("<QQQ", files, _TCP, _SCOPES)[
        : 8 if abi < 4 else 16 if abi < 6 else 24
    ]
    ruleset = _called(_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for path in code:
            _allow_folder(ruleset, path)
        for fd in readable:
            _allow(ruleset, fd, _READ_FILE)
        for fd in writable:
            _allow(ruleset, fd, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & files)
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise _failure()
        _called(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow_folder(ruleset: int, path: str) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        _allow(ruleset, fd, _EXECUTE | _READ_FILE | _READ_DIR)
    finally:
        os.close(fd)


def _allow(ruleset: int, fd: int, rights: int) -> None:
    rule = struct.pack("<Qi", rights, fd)
    _called(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))


def _called(number: int, *arguments: object) -> int:
    found: int = _libc.syscall(number, *arguments)
    if found < 0:
        raise _failure()
    return found


def _failure() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
