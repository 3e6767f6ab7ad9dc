"""What a cast has changed, in words: of how many values, and why the target did not have them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from arrayd.common.casts.small_floats import is_small, limits_of, wide

DType = np.dtype[Any]

ANY = "cannot hold all values as they are"
"""True of every cast that changes values."""


def values_in(dtype: DType) -> int:
    """Return how many values an item has: those of all fields, and of fields with a shape."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return math.prod(shape) * values_in(base)
    if dtype.names is None:
        return 1
    return sum(values_in(dtype[name]) for name in dtype.names)


def shortcoming(target: DType) -> str:
    """Return why a cast to this type changes values: ``has too few bits``."""
    if target.names is not None or target.kind in "SUmM":
        return ANY
    kind = (wide(target) if is_small(target) else target).kind
    if kind in "iu":
        limits = limits_of(target)
        return f"holds whole numbers from {int(limits.min)} to {int(limits.max)} only"
    return "has too few bits" if kind in "fc" else ANY
