"""The functions of `floats.c`, if it was compiled for this installation: see its head."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from arrayd.common import compiling

Array = np.ndarray[Any, Any]
DType = np.dtype[Any]
Function = Callable[[int, int, int], int]
Functions = Mapping[tuple[DType, DType], Function]
"""By the types of the values, and of what becomes of them."""

LIBRARY = Path(__file__).with_suffix(compiling.SUFFIX)

_NAMES = {
    ("f8", "f4"): "arrayd_double_to_float",
    ("f8", "f2"): "arrayd_double_to_half",
    ("f4", "f2"): "arrayd_float_to_half",
}


def loaded(path: Path) -> Functions:
    """Return the compiled functions; none: they are not there, or not for this machine."""
    if sys.byteorder != "little":
        return {}
    try:
        library = ctypes.CDLL(str(path))
        found = {pair: getattr(library, name) for pair, name in _NAMES.items()}
    except (OSError, AttributeError):
        return {}
    for function in found.values():
        function.restype = ctypes.c_int64
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    return {(np.dtype(origin), np.dtype(to)): found[origin, to] for origin, to in found}


functions = loaded(LIBRARY)  # at once: a loader that is confined cannot open it any more


def narrow(values: Array, target: DType) -> tuple[Array, int] | None:
    """Return floats as a narrower type, and how many are no longer the same; NaN that stays NaN is.

    None: there is no such function, or a finite value is beyond `target`.

    Parameters
    ----------
    values
        Any shape, strides, byte order and alignment.
    """
    origin = values.dtype.newbyteorder("=")
    function = functions.get((origin, target))
    if function is None:
        return None
    plain = np.require(values, origin, ["C", "ALIGNED"])
    result = np.empty(values.shape, target)
    changed = function(plain.ctypes.data, result.ctypes.data, math.prod(values.shape))
    return None if changed < 0 else (result, changed)
