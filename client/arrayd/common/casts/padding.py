"""Bytes of an item that hold no value: gaps between fields, the end of an 80-bit long double.

numpy casts and copies a structure field by field, into memory that it did not clear, and it
writes 10 of the 16 bytes of a long double. What lies between is what the process had there
before, and must not go to other processes.
"""

from __future__ import annotations

import functools
from itertools import groupby
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_LONG_DOUBLE_BYTES = 10 if np.finfo(np.longdouble).nmant == 63 else np.dtype("g").itemsize
"""Bytes of a long double that numpy writes: on x86 those of an 80-bit register."""


def clear_padding(array: Array) -> Array:
    """Set the bytes of `array` that hold no value to zero, in place, and return it."""
    gaps = _gaps(array.dtype)
    if gaps is not None:
        view = array.view(gaps)
        for name in gaps.names or ():
            view[name] = 0
    return array


def as_items(array: Array) -> Array:
    """Return a view of which numpy copies whole items, with whatever bytes hold no value."""
    whole = array.dtype.names is None and _gaps(array.dtype) is None
    return array if whole else array.view(f"V{array.dtype.itemsize}")


@functools.lru_cache
def _gaps(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return a structure of the bytes that hold no value; None: there are none."""
    offsets, formats, offset = [], [], 0
    for used, run in groupby(_used(dtype)):
        length = len(list(run))
        if not used:
            offsets.append(offset)
            formats.append((np.uint8, (length,)))
        offset += length
    if not offsets:
        return None
    names = [f"gap{n}" for n in range(len(offsets))]
    return np.dtype(
        {"names": names, "formats": formats, "offsets": offsets, "itemsize": dtype.itemsize}
    )


def _used(dtype: np.dtype[Any]) -> Mask:
    """Say for each byte of an item whether it is part of a value."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return np.tile(_used(base), int(np.prod(shape, dtype=int)))
    if dtype.char in "gG":
        half = np.arange(np.dtype("g").itemsize) < _LONG_DOUBLE_BYTES
        half = half if dtype.isnative == np.little_endian else half[::-1]
        return np.tile(half, dtype.itemsize // half.size)
    used = np.full(dtype.itemsize, dtype.names is None)
    for name in dtype.names or ():
        assert dtype.fields is not None
        field, offset = dtype.fields[name][:2]
        used[offset : offset + field.itemsize] |= _used(field)
    return used
