"""The functions of `attach.c`, if it was compiled for this installation: see its head."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from arrayd.common.compiling import library

LIBRARY = library(Path(__file__).with_name("attach.c"))

Record = ctypes.c_uint64 * 3
"""What was mapped: address, size and inode; all zero: nothing."""


def loaded(path: Path) -> ctypes.CDLL | None:
    """Return the compiled functions; None: they are not there, or not for this machine."""
    if sys.byteorder != "little":
        return None
    try:
        functions = ctypes.CDLL(str(path))
        functions.arrayd_attach.restype = functions.arrayd_detach.restype = None
    except (OSError, AttributeError):
        return None
    return functions


functions = loaded(LIBRARY)
"""Called with bytes, small ints, a `Record`; without `argtypes`, which cost more than the call."""
