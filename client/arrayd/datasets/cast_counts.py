"""What fewer bits cost: how many values of an array a cast would change, and by how much.

`CastCounts` counts while values pass, in chunks, so it costs no memory, and two reports of parts of
an array are merged into that of the whole. What is *changed* and what is *beyond* the target (an
overflow) is decided by the very cast that the daemon does, `arrayd.common.casts.cast`.

A float of few bits loses in three ways. It *rounds*: the relative error is at most half a step of
its mantissa (2**-11 for float16, 2**-8 for bfloat16). Close to 0 its steps stop shrinking: a value
becomes *subnormal*, with fewer bits still, or 0 (*underflow*). Beyond its largest value there is
only infinity (*overflow*). The last two depend on the scale of the values alone, so a power of 2
that they are multiplied by, which costs no bit, may cure them: `CastCounts.scale`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from arrayd.common.casts.cast import cast_counted, check_cast
from arrayd.common.casts.small_floats import has_nan, is_small, limits_of, wide
from arrayd.errors import SpecMismatch

Array = np.ndarray[Any, Any]
DType = np.dtype[Any]

CHUNK = 1 << 18
"""Values that are looked at together: bounds the temporaries."""

_SUMS = ("count", "nan", "infinite", "overflow", "underflow", "subnormal", "changed", "unheld")


@dataclass(slots=True)
class CastCounts:
    """What a cast of plain values from `origin` to `target` does to them.

    Complex numbers count as two real ones.

    Parameters
    ----------
    origin, target
        Dtypes without fields.
    count
        Values looked at.
    nan, infinite
        How many of them are NaN, or plus or minus infinity, before the cast.
    overflow
        Beyond the target: refused by a cast, unless ``overflow=`` is ``"clip"`` or ``"inf"``. Of
        text: cut.
    underflow
        Not 0, and 0 in the target, which is a float type.
    subnormal
        Subnormal numbers of the target, which is a float type.
    changed
        Not the same after the cast, for whatever reason; NaN that stays NaN is the same.
    unheld
        NaN that the target lacks: refused by every cast.
    minimum, maximum
        Of the finite values; None: there are none.
    least
        The magnitude of the finite value that is nearest to 0, and is not 0; None: there is none.
    max_abs, max_rel
        The largest absolute and relative error of values that are in the target's range; the
        relative error without what becomes 0 or subnormal in a float type.
    """

    origin: DType
    target: DType
    count: int = 0
    nan: int = 0
    infinite: int = 0
    overflow: int = 0
    underflow: int = 0
    subnormal: int = 0
    changed: int = 0
    unheld: int = 0
    minimum: float | None = None
    maximum: float | None = None
    least: float | None = None
    max_abs: float = 0.0
    max_rel: float = 0.0

    def __post_init__(self) -> None:
        check_cast(self.origin, self.target)
        if self.origin.names is not None:
            raise SpecMismatch(f"{self.origin} has fields: each of them has counts of its own.")
        if self.origin.kind == "c" and self.target.kind != "c":
            raise SpecMismatch(
                f"{self.origin} to {self.target}: of complex numbers only the cast to another "
                "complex type is counted. Take the real part, array.real."
            )

    # ---- counting ------------------------------------------------------------------------

    def add(self, values: npt.ArrayLike) -> None:
        """Count the values of an array of `origin`.

        Raises
        ------
        SpecMismatch
            It has another dtype.
        CastError
            Text has characters that the target lacks.
        """
        array = np.asarray(values)
        if array.dtype != self.origin:
            raise SpecMismatch(f"These counts are about {self.origin}, not {array.dtype}.")
        for chunk in _chunks(array):
            if chunk.dtype.kind == "c":
                self._add(chunk.real)
                self._add(chunk.imag)
            else:
                self._add(_widened(chunk))

    def _add(self, values: Array) -> None:
        self.count += values.size
        target = self.part
        if values.dtype.kind not in "biuf":
            done = cast_counted(values, target, "clip")
            self.changed += done.changed
            self.overflow += _number(done.beyond)
            return
        numbers = self._without_nan(values, target)
        done = cast_counted(numbers, target, "clip")
        self.changed += done.changed
        self.overflow += _number(done.beyond)
        finite = np.isfinite(numbers)
        infinite = numbers.size - _number(finite)
        self.infinite += infinite
        self._add_range(numbers[finite] if infinite else numbers)
        if infinite or done.beyond is not None:
            fits = finite if done.beyond is None else finite & ~done.beyond
            self._add_errors(numbers[fits], done.values[fits])
        else:
            self._add_errors(numbers, done.values)

    @property
    def part(self) -> DType:
        """The dtype of the real numbers that the target is made of."""
        return np.finfo(self.target).dtype if self.target.kind == "c" else self.target

    def _without_nan(self, values: Array, target: DType) -> Array:
        if values.dtype.kind != "f":
            return values
        nan = np.isnan(values)
        missing = _number(nan)
        if not missing:
            return values
        self.nan += missing
        if not has_nan(target):
            self.unheld += missing
            self.changed += missing
        return values[~nan]

    def _add_range(self, finite: Array) -> None:
        if not finite.size:
            return
        low, high = finite.min().item(), finite.max().item()
        plain = float if finite.dtype.kind == "f" else int
        self.minimum = _least(self.minimum, plain(low))
        self.maximum = _most(self.maximum, plain(high))
        if finite.dtype.kind == "f":
            sizes = np.abs(finite)
            nearest = np.min(sizes, where=sizes > 0, initial=np.inf).item()
            self.least = _least(self.least, float(nearest) if math.isfinite(nearest) else None)
        else:  # of integers the least has no positive counterpart
            above, below = finite[finite > 0], finite[finite < 0]
            ends = [int(above.min())] if above.size else []
            ends += [-int(below.max())] if below.size else []
            self.least = _least(self.least, min(ends, default=None))

    def _add_errors(self, before: Array, after: Array) -> None:
        """Count what becomes of values that are in range; both 1-d, as they were and are."""
        if not before.size:
            return
        exact = _exact(before.dtype, after.dtype)
        was, now = before.astype(exact), _widened(after).astype(exact)
        with np.errstate(all="ignore"):
            error, size = np.abs(now - was), np.abs(was)
            self.max_abs = max(self.max_abs, float(error.max()))
            related = size > 0
            if is_float(after.dtype):
                gone = related & (now == 0)
                self.underflow += _number(gone)
                small = np.abs(now) < float(limits_of(after.dtype).smallest_normal)
                self.subnormal += _number(small & (now != 0))
                related &= ~small
            if related.any():
                self.max_rel = max(self.max_rel, float((error[related] / size[related]).max()))

    def merge(self, other: Self) -> None:
        """Add what was counted of the same cast elsewhere.

        Raises
        ------
        SpecMismatch
            It was another cast.
        """
        if (self.origin, self.target) != (other.origin, other.target):
            raise SpecMismatch(
                f"Counts of {self.origin} to {self.target} and of {other.origin} to "
                f"{other.target} are two."
            )
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.minimum = _least(self.minimum, other.minimum)
        self.maximum = _most(self.maximum, other.maximum)
        self.least = _least(self.least, other.least)
        self.max_abs = max(self.max_abs, other.max_abs)
        self.max_rel = max(self.max_rel, other.max_rel)

    # ---- what it means -------------------------------------------------------------------

    @property
    def bytes_before(self) -> int:
        """Of the values, as they are."""
        return self.count // self._parts * self.origin.itemsize

    @property
    def bytes_after(self) -> int:
        """Of the values after the cast."""
        return self.count // self._parts * self.target.itemsize

    @property
    def _parts(self) -> int:
        return 2 if self.origin.kind == "c" else 1

    @property
    def same(self) -> float:
        """The fraction of values that the cast does not change: 1 is lossless."""
        return 1.0 if not self.count else 1 - self.changed / self.count

    @property
    def scale(self) -> float | None:
        """A power of 2 by which to multiply the values first, so that none overflows.

        The largest then lies between a quarter and a half of what the target holds, and as few as
        possible come close to 0. None: no scale is needed, none helps, or one so small would turn
        the values nearest to 0 into 0.
        """
        if not is_float(self.part) or not (self.overflow + self.underflow + self.subnormal):
            return None
        if self.minimum is None or self.maximum is None:
            return None
        largest = max(abs(self.minimum), abs(self.maximum))
        if not math.isfinite(largest):  # a long double beyond float64
            return None
        half = float(limits_of(self.part).max) / 2
        exponent = math.frexp(half)[1] - math.frexp(largest)[1]
        exponent -= math.ldexp(largest, exponent) > half
        helps = exponent < 0 if self.overflow else exponent > 0
        least = 0.0 if self.least is None else self.least
        if exponent < 0 and math.ldexp(least, exponent) < limits_of(self.part).smallest_subnormal:
            return None
        return math.ldexp(1.0, exponent) if helps and abs(exponent) < 1000 else None


# ---- arithmetic ------------------------------------------------------------------------------


def _number(mask: Array | None) -> int:
    return 0 if mask is None else int(np.count_nonzero(mask))


def _least(one: float | None, other: float | None) -> float | None:
    return min((n for n in (one, other) if n is not None), default=None)


def _most(one: float | None, other: float | None) -> float | None:
    return max((n for n in (one, other) if n is not None), default=None)


def is_float(dtype: DType) -> bool:
    """Say whether it is a float type, numpy's or of ml_dtypes."""
    return (wide(dtype) if is_small(dtype) else dtype).kind == "f"


def _widened(values: Array) -> Array:
    return values.astype(wide(values.dtype)) if is_small(values.dtype) else values


def _exact(*kinds: DType) -> DType:
    """Return a float type in which differences of values of these types mean something."""
    # A 64-bit integer has more bits than a float64; on x86 a long double has them all.
    large = any(k.itemsize > 8 or (k.itemsize == 8 and k.kind in "iu") for k in kinds)
    return np.dtype(np.longdouble if large else np.float64)


def _chunks(array: Array) -> Iterator[Array]:
    """Yield all values of an array in flat parts, in any order, copying no more than a part."""
    if array.flags.f_contiguous:
        array = array.T
    if array.flags.c_contiguous or array.ndim <= 1:
        flat = array.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            yield np.ascontiguousarray(flat[start : start + CHUNK])
        return
    per_row = array[0].size if len(array) else 1
    if per_row > CHUNK:
        for row in array:
            yield from _chunks(row)
        return
    step = max(1, CHUNK // max(1, per_row))
    for start in range(0, len(array), step):
        yield array[start : start + step].reshape(-1)
