"""Raw binary files: values in C order and nothing else, as `numpy.memmap` reads them."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from arrayd.errors import BadFile, SpecMismatch
from arrayd.source import Source
from arrayd_server.loaders import contiguous
from arrayd_server.loaders.base import LoadPlan
from arrayd_server.loaders.validation import check_dtype, check_options, open_regular

fill = contiguous.fill
address = contiguous.address


def probe(source: Source) -> LoadPlan:
    """Return the plan for ``dtype=``, ``shape=`` (one entry may be -1) and ``offset=`` (bytes).

    With -1 the result has the whole rows that exist: a writer may be appending.

    Raises
    ------
    SpecMismatch
        The request leaves out what the file does not say, or makes no sense.
    BadFile
        The file is shorter than the request.
    """
    check_options(source, ("offset", "shape"))
    dtype = _dtype(source)
    offset = source.option.get("offset", 0)
    if type(offset) is not int or offset < 0:
        raise SpecMismatch(f"{source}: offset={offset!r}: it is a number of bytes, 0 or more.")
    with open_regular(source.path) as file:
        size = os.fstat(file.fileno()).st_size
    shape = _resolved(source, _shape(source), dtype.itemsize, size - offset)
    need = offset + contiguous.check_size(source, shape, dtype)
    if need > size:
        raise BadFile(
            f"{source} is too short: offset {offset} and shape {shape} of {dtype} need {need} "
            f"bytes, it has {size}. Check dtype= and shape=, or pass -1 for the first length."
        )
    return contiguous.plan(source, shape, dtype, offset=offset)


def _dtype(source: Source) -> np.dtype[Any]:
    dtype = source.dtype
    if dtype is None or "shape" not in source.option:
        raise SpecMismatch(
            f"{source}: a raw file does not say what it holds. Pass dtype= and shape=, "
            "such as dtype='f4', shape=(-1, 3)."
        )
    if dtype.itemsize == 0 or dtype.subdtype is not None:
        raise SpecMismatch(f"{source}: dtype={dtype} has no fixed size of its own; use shape=.")
    return check_dtype(source, dtype)


def _shape(source: Source) -> tuple[int, ...]:
    given = source.option["shape"]
    shape = given if isinstance(given, tuple) else (given,)
    if not all(type(n) is int and n >= -1 for n in shape) or shape.count(-1) > 1:
        raise SpecMismatch(
            f"{source}: shape={given!r}: it is lengths of 0 or more, one of which may be -1."
        )
    return shape


def _resolved(
    source: Source, shape: tuple[int, ...], itemsize: int, available: int
) -> tuple[int, ...]:
    """Return `shape` with -1 replaced by the length that exists."""
    if -1 not in shape:
        return shape
    unit = math.prod(n for n in shape if n != -1) * itemsize
    if unit == 0:
        raise SpecMismatch(f"{source}: shape={shape}: beside a length of 0, -1 can be anything.")
    return tuple(max(available, 0) // unit if n == -1 else n for n in shape)
