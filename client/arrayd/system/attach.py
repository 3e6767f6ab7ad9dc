"""The functions of `attach.c`, if it was compiled for this installation: see its head."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arrayd.common.compiling import library

LIBRARY = library(Path(__file__).with_name("attach.c"))

Record = ctypes.c_uint64 * 3
"""What was mapped: address, size and inode; all zero: nothing."""


Function = Callable[..., Any]
"""Called with bytes, small ints, a `Record`; without `argtypes`, which cost more than the call."""


def loaded(path: Path) -> tuple[Function, Function] | None:
    """Return the compiled functions, to attach and to detach; None: there are none for us."""
    if sys.byteorder != "little":
        return None
    try:
        compiled = ctypes.CDLL(str(path))
        attach, detach = compiled.arrayd_attach, compiled.arrayd_detach
    except (OSError, AttributeError):
        return None
    attach.restype = detach.restype = None
    return attach, detach


functions = loaded(LIBRARY)
