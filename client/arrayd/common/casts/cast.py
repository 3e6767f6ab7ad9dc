"""Casts that say what they lose: every value fits, is clipped on request, or is an error.

`numpy.ndarray.astype` silently wraps 300 to 44, and a far date to the past. Here a
value that the new dtype cannot hold is an error (or, on request, becomes the nearest one
that it can hold, or infinity), and values that merely lose digits are counted.

The daemon's loaders, `arrayd.writer` and the reports of `arrayd.datasets.report` all cast here, so
"lost" means one thing: a value is *changed* if it does not compare equal to what became of it, and
is *beyond* the target if there was no neighbour to round it to.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from arrayd.common.casts import floats
from arrayd.common.casts.limit import Limit, refuse
from arrayd.common.casts.long_text import fixed
from arrayd.common.casts.padding import clear_padding
from arrayd.common.casts.small_floats import (
    has_infinity,
    is_foreign,
    is_small,
    narrow,
    wide,
)
from arrayd.common.casts.times import rescale
from arrayd.errors import CastError, SpecMismatch

Array = np.ndarray[Any, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
DType = np.dtype[Any]

_NUMBER = "biufc"
_TEXT = "SU"
_TIME = "mM"
_HALF_INFINITY, _HALF_INFINITY_MASK = np.uint16(0x7C00), np.uint16(0x7FFF)


class Counted(NamedTuple):
    """Values after a cast, and what it did to them.

    Parameters
    ----------
    values
        Of the target's dtype.
    changed
        How many of them are no longer the same; NaN that stays NaN is.
    beyond
        Which of them the target cannot hold; None: it holds all. (Of a structure: None.)
    """

    values: Array
    changed: int
    beyond: Mask | None = None


def check_cast(origin: DType, target: DType, overflow: str = "error") -> None:
    """Refuse a cast that cannot work whatever the values are.

    Numbers go to numbers, text to text, times to times of the same kind, and structures to
    structures with fields of the same names. ``overflow="inf"`` is for types that have infinity.

    Raises
    ------
    SpecMismatch
    """
    reason = _obstacle(origin, target)
    if reason:
        raise SpecMismatch(f"{origin} cannot be cast to {target}: {reason}.")
    finite = _finite(origin, target) if overflow == "inf" else None
    if finite is not None:
        raise SpecMismatch(
            f"overflow='inf' needs a type that has infinity, and {finite} has none. Pass "
            "overflow='clip' for the nearest value that fits, or cast to a float type."
        )


def _finite(origin: DType, target: DType) -> DType | None:
    """Return the first type of `target` that values may be beyond, and that has no infinity."""
    if origin.names is not None and target.names is not None:
        found = (_finite(origin[name].base, target[name].base) for name in target.names)
        return next((one for one in found if one is not None), None)
    return None if has_infinity(target) or _holds_all(origin, target) else target


def resolved(origin: DType, target: DType) -> DType:
    """Return `target`; for text of no length (S, U), with as many characters as `origin` has."""
    if target.itemsize or target.kind not in _TEXT or origin.kind not in _TEXT:
        return target
    return np.dtype(f"{target.kind}{max(_length(origin), 1)}")


def _obstacle(origin: DType, target: DType) -> str:
    """Return why the cast cannot work, or ""."""
    if target.hasobject or target.subdtype is not None:
        return "the target must be a type of fixed size without a shape of its own"
    if origin.names is not None or target.names is not None:
        return _structure_obstacle(origin, target)
    if origin == target:
        return ""
    if origin.hasobject:
        return "" if target.kind in _TEXT else "variable-length text goes to text, such as S10"
    for one in (origin, target):
        if is_foreign(one) and not is_small(one):
            return f"{one} has no cast here; load it as it is, and call .astype()"
    pair = tuple("f" if is_small(one) else one.kind for one in (origin, target))
    if all(kind in _NUMBER for kind in pair):
        return ""
    if all(kind in _TEXT for kind in pair):
        return "" if target.itemsize else "say the length, such as S10"
    if origin.kind == target.kind and origin.kind in _TIME:
        return _time_obstacle(origin, target)
    return "numbers go to numbers, text to text, times to times, structures to structures"


def _time_obstacle(origin: DType, target: DType) -> str:
    if "generic" in (np.datetime_data(origin)[0], np.datetime_data(target)[0]):
        return "say the unit, such as M8[s]"
    possible = np.can_cast(origin, target, "same_kind") or np.can_cast(target, origin, "same_kind")
    return "" if possible else "a month has no fixed number of days"


def _structure_obstacle(origin: DType, target: DType) -> str:
    if origin.names is None or target.names is None:
        return "only one of them is a structure"
    if set(origin.names) != set(target.names):
        return f"the fields must have the same names ({', '.join(origin.names)})"
    for name in target.names:
        before, after = origin[name], target[name]
        if before.shape != after.shape:
            return f"field {name!r} has shape {before.shape}, not {after.shape}"
        reason = _obstacle(before.base, after.base)
        if reason:
            return f"field {name!r}: {reason}"
    return ""


def cast_chunk(chunk: Array, target: DType, overflow: str) -> tuple[Array, int]:
    """Return `chunk` as `target`, and how many values are no longer the same.

    Parameters
    ----------
    chunk
        Any shape; a dtype that `check_cast` lets pass.
    target
        The dtype of the result, which has the shape of `chunk`.
    overflow
        ``"error"``; ``"clip"`` for the nearest value that `target` can hold: its limits, the
        text cut to length, the real part of a complex number; or ``"inf"`` for infinity, as
        `astype` has it, where `target` is a float.

    Notes
    -----
    Fractions are cut towards zero, as `astype` does; bool counts as an integer from 0 to 1.
    NaN has no integer and non-ASCII text no S: errors even with ``"clip"``.
    Temporaries are a few times the size of `chunk`. Bytes of the result that hold no value are
    zero, unless nothing is cast.

    Raises
    ------
    CastError
        With the index of the first such value in the flat `chunk` as ``details["at"]``.
    """
    return cast_counted(chunk, target, overflow)[:2]


def cast_counted(chunk: Array, target: DType, overflow: str) -> Counted:
    """Do what `cast_chunk` says, and tell which values were beyond the target."""
    if chunk.dtype == target:
        return Counted(chunk, 0)
    result = _convert(chunk, target, overflow)
    return result._replace(values=clear_padding(result.values))


def _convert(chunk: Array, target: DType, overflow: str) -> Counted:
    """Do what `cast_counted` says, but for the bytes that hold no value."""
    if is_small(chunk.dtype) and chunk.dtype != target:
        chunk = chunk.astype(wide(chunk.dtype))
    if _holds_all(chunk.dtype, target):
        return Counted(chunk.astype(target, copy=False), 0)
    if target.names is not None:
        return _fields(chunk, target, overflow)
    if (narrowed := floats.narrow(chunk, target)) is not None:
        return Counted(*narrowed)
    limit = Limit(overflow, infinite=has_infinity(target))
    if chunk.dtype.hasobject:
        result, changed = fixed(chunk, target, limit.clips)
        return Counted(result, int(np.count_nonzero(changed)))
    convert = {"S": _text, "U": _text, "m": _time, "M": _time, "c": _complex}.get(
        target.kind, _real
    )
    with np.errstate(all="ignore"):
        result, changed = convert(chunk, target, limit)
        return Counted(result, int(np.count_nonzero(changed)), limit.beyond)


@functools.lru_cache  # numpy takes as long for the dtypes as for some thousand values
def _holds_all(origin: DType, target: DType) -> bool:
    """Whether each value of `origin` has its equal in `target`, so that no look is needed."""
    if origin == target or origin.newbyteorder("=") == target.newbyteorder("="):
        return True
    if is_small(target):
        return False
    if origin.kind in _NUMBER and target.kind in _NUMBER:
        # numpy calls int64 -> float64 safe, but 2**53 + 1 is lost.
        wide = origin.kind in "iu" and origin.itemsize == 8 and target.kind in "fc"
        return np.can_cast(origin, target, "safe") and not (wide and np.finfo(target).nmant < 63)
    return origin.kind == target.kind and origin.kind in _TEXT and target.itemsize > origin.itemsize


def _fields(chunk: Array, target: DType, overflow: str) -> Counted:
    result = np.empty(chunk.shape, target)
    changed = 0
    for name in target.names or ():
        try:
            field = _convert(chunk[name], target[name].base, overflow)
        except CastError as error:
            per_record = math.prod(target[name].shape)
            details = {**error.details, "at": error.details["at"] // per_record}
            raise CastError(f"Field {name!r}: {error.message}", **details) from None
        result[name] = field.values
        changed += field.changed
    return Counted(result, changed)


def _range(target: DType) -> str:
    if target.kind in _TEXT:
        return f"{_length(target)} characters"
    if target.kind in _TIME:
        unit, _ = np.datetime_data(target)
        return f"64 bits of unit {unit}"
    low, high = _limits(target)
    return f"{low} to {high}"


def _length(dtype: DType) -> int:
    return dtype.itemsize // (4 if dtype.kind == "U" else 1)


def _limits(target: DType) -> tuple[Any, Any]:
    """Return the least and the greatest finite value of a real dtype."""
    if target.kind == "b":
        return 0, 1
    if target.kind in "iu":
        integers = np.iinfo(target)
        return integers.min, integers.max
    floats = np.finfo(target)
    return floats.min, floats.max


def _real(values: Array, target: DType, limit: Limit) -> tuple[Array, Mask]:
    """Convert numbers to a real dtype; complex ones only if they are real, or clipped."""
    if values.dtype.kind == "c":
        off_axis = values.imag != 0
        if not limit.clips:
            refuse(
                values,
                off_axis,
                f"is not real, and {target} is. Cast to a complex type, or pass overflow='clip' to "
                "have the real part.",
            )
        limit.note(off_axis)
        result, changed = _real(values.real, target, limit)
        return result, changed | off_axis
    if _holds_all(values.dtype, target):
        return values.astype(target), np.zeros(values.shape, np.bool_)
    if is_small(target):
        return narrow(values, target, limit)
    if target.kind == "f":
        convert = _float_to_float if values.dtype.kind == "f" else _int_to_float
    else:
        convert = _float_to_int if values.dtype.kind == "f" else _int_to_int
    return convert(values, target, limit)


def _complex(values: Array, target: DType, limit: Limit) -> tuple[Array, Mask]:
    part = np.finfo(target).dtype
    result = np.zeros(values.shape, target)
    result.real, changed = _real(values.real, part, limit)
    if values.dtype.kind == "c":
        result.imag, imaginary = _real(values.imag, part, limit)
        changed = changed | imaginary
    return result, changed


def _int_to_int(values: Array, target: DType, limit: Limit) -> tuple[Array, Mask]:
    low, high = _limits(target)
    bad = (values < low) | (values > high)
    if bad.any():
        limit.meet(values, bad, str(target), _range(target))
        own = np.iinfo(values.dtype)
        values = np.clip(values, max(low, own.min), min(high, own.max))
    return values.astype(target), bad


def _float_to_int(values: Array, target: DType, limit: Limit) -> tuple[Array, Mask]:
    refuse(values, np.isnan(values), f"has no counterpart in {target}. Cast to a float type.")
    low, high = _limits(target)
    whole = np.trunc(values)
    # 2**n, unlike 2**n - 1, is a float exactly (or, in a narrow type, inf).
    as_float = values.dtype.type
    bad = np.isinf(values) | (whole < as_float(low)) | (whole >= as_float(high + 1))
    changed = bad | (whole != values)
    if not bad.any():
        return whole.astype(target), changed
    limit.meet(values, bad, str(target), _range(target))
    result = np.where(bad, 0, whole).astype(target)
    result[bad & (values < 0)] = low
    result[bad & (values > 0)] = high
    return result, changed


def _int_to_float(values: Array, target: DType, limit: Limit) -> tuple[Array, Mask]:
    result = values.astype(target)
    result = _bounded(values, result, limit)
    # Rounded up to 2**63, say, it is no int64 to compare with; but then it surely changed.
    beyond = result >= target.type(np.iinfo(values.dtype).max + 1)
    back = np.where(beyond, 0, result).astype(values.dtype)
    return result, beyond | (back != values)


def _float_to_float(values: Array, target: DType, limit: Limit) -> tuple[Array, Mask]:
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    result = values.astype(target)
    if _all_finite(result):  # so all values are: none is beyond, and none is NaN
        return result, result != values
    result = _bounded(values, result, limit)
    return result, (result.astype(values.dtype) != values) & ~np.isnan(values)


def _all_finite(values: Array) -> bool:
    """Say whether all are; `np.isfinite` of halves, which it widens, takes 6 times as long."""
    if values.dtype == np.float16 and values.size:
        return bool((values.view(np.uint16) & _HALF_INFINITY_MASK).max() < _HALF_INFINITY)
    return bool(np.isfinite(values).all())


def _bounded(values: Array, result: Array, limit: Limit) -> Array:
    """Refuse, clip or leave the finite values that became infinite in the float array `result`."""
    bad = np.isinf(result) & np.isfinite(values)
    limit.meet(values, bad, str(result.dtype), _range(result.dtype))
    if limit.clips and bad.any():
        result[bad] = np.copysign(np.finfo(result.dtype).max, result[bad])
    return result


def _text(values: Array, target: DType, limit: Limit) -> tuple[Array, Mask]:
    if values.dtype.kind != target.kind:
        refuse(values, _not_ascii(values), f"is not ASCII, so it has no counterpart in {target}.")
    result = values.astype(target)
    cut = result.astype(values.dtype) != values
    limit.meet(values, cut, str(target), _range(target))
    return result, cut


def _not_ascii(values: Array) -> Mask:
    native = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    unit = np.dtype(np.uint32 if native.dtype.kind == "U" else np.uint8)
    codes = native.reshape(-1).view(unit).reshape(*values.shape, -1)
    return np.asarray((codes > 127).any(axis=-1))


def _time(values: Array, target: DType, limit: Limit) -> tuple[Array, Mask]:
    """Convert between units. NaT stays NaT."""
    missing = np.isnat(values)
    counts = np.where(missing, 0, values.astype(np.int64)).reshape(-1)
    exact = rescale(counts, values.dtype, target)
    most = np.iinfo(np.int64).max  # the least is NaT
    beyond = np.asarray((exact > most) | (exact < -most))
    beyond = beyond.reshape(values.shape)
    limit.meet(values, beyond, str(target), _range(target))
    changed = np.asarray(rescale(exact, target, values.dtype) != counts).reshape(values.shape)
    fitting = np.clip(exact, -most, most).astype(np.int64)
    result = fitting.view(target.newbyteorder("=")).astype(target).reshape(values.shape)
    result[missing] = "NaT"
    return result, changed | beyond
