"""Casts to and from the small numbers of ml_dtypes: bfloat16, float8_*, int4 and their like.

Each of these types is a part of float32, or of int8 and uint8, so its values go on from there as
any others do. To such a type the package itself rounds; what is beyond its range, which the package
makes infinity, NaN or the largest value, by the type, is seen to here.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from arrayd.common.casts.limit import Limit, refuse

Array = np.ndarray[Any, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
DType = np.dtype[Any]

_OWN = 256  # from this number on (NPY_USERDEF), a type is a package's, not numpy's


def is_foreign(dtype: DType) -> bool:
    """Say whether it is a type of a package."""
    return dtype.num >= _OWN


def is_small(dtype: DType) -> bool:
    """Say whether it is a real number of ml_dtypes."""
    return is_foreign(dtype) and "complex" not in dtype.type.__name__


def has_infinity(dtype: DType) -> bool:
    """Say whether infinity is one of its values."""
    if is_small(dtype):
        return bool(_kept(np.array(np.inf), dtype))
    return dtype.kind in "fc"


def has_nan(dtype: DType) -> bool:
    """Say whether NaN is one of its values."""
    if is_small(dtype):
        return bool(_kept(np.array(np.nan), dtype))
    return dtype.kind in "fc"


def limits_of(dtype: DType) -> Any:
    """Return the `finfo` or `iinfo` of a real number's type: its limits, its smallest normal."""
    if is_small(dtype):
        package: Any = importlib.import_module("ml_dtypes")
        return package.iinfo(dtype) if wide(dtype).kind in "iu" else package.finfo(dtype)
    return np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)


def wide(dtype: DType) -> DType:
    """Return numpy's type that has all the values of a small one."""
    name = dtype.type.__name__
    if "int" not in name:
        return np.dtype(np.float32)
    return np.dtype(np.uint8 if name.startswith("u") else np.int8)


def narrow(values: Array, target: DType, limit: Limit) -> tuple[Array, Mask]:
    """Return real numbers of numpy's as a small type, and which are no longer the same.

    Raises
    ------
    CastError
        With the index of the value in the flat array as ``details["at"]``.
    """
    real = values.astype(np.float64)
    integral = wide(target).kind in "iu"
    limits = limits_of(target)
    low, high = float(limits.min), float(limits.max)
    whole = np.trunc(real) if integral else real
    nan = np.isnan(real)
    refuse(values, nan & (not has_nan(target)), f"has no counterpart in {target}.")
    bad = ~nan & ~_kept(whole, target) & ((whole < low) | (whole > high))
    limit.meet(values, bad, str(target), f"{low:g} to {high:g}")
    if limit.clips:
        whole[bad] = np.clip(whole[bad], low, high)
    elif bad.any():
        whole[bad] = np.copysign(np.inf, whole[bad])
    result = _small(whole, target)
    same = (result.astype(wide(target)) == real) & (real.astype(values.dtype) == values)
    return result, ~same & ~nan


def _small(real: Array, target: DType) -> Array:
    between = wide(target)
    return (real.astype(between) if between.kind in "iu" else real).astype(target)


def _kept(real: Array, target: DType) -> Mask:
    """Say whether infinities and NaN are themselves in `target`."""
    if wide(target).kind in "iu":
        return np.zeros(real.shape, np.bool_)
    back = _small(real, target).astype(np.float64)
    kept: Mask = ~np.isfinite(real) & ((back == real) | (np.isnan(real) & np.isnan(back)))
    return kept
