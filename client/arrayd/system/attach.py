"""The functions of `attach.c`, if it was compiled for this installation: see its head."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from arrayd.common import compiling

LIBRARY = os.path.splitext(__file__)[0] + compiling.SUFFIX

Record = ctypes.c_uint64 * 3
"""What was mapped: address, size and inode; all zero: nothing."""


Function = Callable[..., Any]
"""Called with bytes, small ints, a `Record`; without `argtypes`, which cost more than the call."""


class Functions(NamedTuple):
    """Those of the library."""

    attach: Function
    detach: Function
    unchanged: Function


def loaded(path: str) -> Functions | None:
    """Return the compiled functions; None: they are not there, or not for this machine."""
    if sys.byteorder != "little":
        return None
    try:
        compiled = ctypes.CDLL(path)
        found = Functions(compiled.arrayd_attach, compiled.arrayd_detach, compiled.arrayd_unchanged)
    except (OSError, AttributeError):
        return None
    compiled.arrayd_attach.restype = compiled.arrayd_detach.restype = None
    return found


functions = loaded(LIBRARY)
