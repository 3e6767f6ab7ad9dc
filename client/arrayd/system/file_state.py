"""Whether a file is as it was: by its ``stat``, in one call of `attach.c` if there is one."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import partial

from arrayd.system import attach
from arrayd.wire.protocol import Stat

_Record = ctypes.c_uint64 * 5


def unchanged(path: str, stat: Stat) -> Callable[[], object]:
    """Return a function that says whether a file has this ``stat``; not if it cannot be looked at.

    A relative path is one of the current directory at each call.
    """
    if attach.functions is None:
        return partial(_unchanged, path, stat)
    # A number that is negative, or too large for 64 bits, is cut to them on either side.
    return partial(attach.functions.unchanged, os.fsencode(path), _Record(*stat))


def _unchanged(path: str, stat: Stat) -> bool:
    try:
        now = os.stat(path)
    except (OSError, ValueError):
        return False
    return stat == (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
