"""Rows of one file of a field, whatever its format, in blocks of whole rows in C order.

They come through the format's own `probe` and `fill`. A format that can only be read from its
beginning (text, a compressed member) is planned as a whole, once, and of its parts those are read
that the rows lie in, up to the last row; of the others exactly the rows are asked for, as with
``rows=``. As there, the checksum of a compressed member is compared where its last row is read.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from arrayd.common.casts.padding import as_items
from arrayd.errors import BadFile, SpecMismatch
from arrayd.samples.manifest import Field
from arrayd.source import Source
from arrayd_server.loaders import formats
from arrayd_server.loaders.base import Addressed, Chunks, InUnits, LoadPlan, Part
from arrayd_server.loaders.contiguous import Selection
from arrayd_server.loaders.dataset.manifests import AGAIN, Stat
from arrayd_server.loaders.dataset.runs import Int64
from arrayd_server.loaders.recognise import recognised
from arrayd_server.loaders.text.opening import compressed
from arrayd_server.loaders.validation import os_errors

Array = np.ndarray[Any, Any]

BLOCK_BYTES = 4 << 20
"""Aim for a block of a Fortran-ordered array, which is transposed in memory."""

ONE_AT_A_TIME = threading.Lock()
"""For threads: libhdf5 finds external files by the working directory of the process, and does one
thing at a time; so must they."""

_BY_ROWS = ("npy", "raw", "hdf5")
"""Formats that find a row without reading those before it."""


def check_spec(source: Source, one: Field, plan: LoadPlan) -> None:
    """Refuse a file whose values are not those of the field.

    Raises
    ------
    SpecMismatch
    """
    shape = plan.shape if one.whole_files else plan.shape[1:]
    if (shape == one.row_shape and plan.dtype == one.dtype) and (one.whole_files or plan.shape):
        return
    what = "the file is one row, and is" if one.whole_files else "its rows are"
    raise SpecMismatch(
        f"{source}: {what} {plan.dtype} of shape {shape if plan.shape else '() (a single value)'}; "
        f"those of field {one.name!r} are {one.dtype} of shape {one.row_shape}. Write this file "
        f"like the others, or {AGAIN} without it."
    )


@functools.lru_cache(maxsize=1024)
def whole_plan(source: Source, _: Stat) -> LoadPlan:
    """Return the plan of a whole file in this state; text is counted once."""
    return formats.look(source)


def row_blocks(source: Source, one: Field, stat: Stat, start: int, stop: int) -> Iterator[Array]:
    """Yield the rows from `start` to `stop` of a file, as arrays ``(k, *row_shape)``.

    Parameters
    ----------
    source
        The file, without ``rows=``.
    stat
        Its state; a plan is kept as long as it is the same.

    Raises
    ------
    SpecMismatch
        Its rows are not those of the field.
    BadFile
        It has fewer rows.
    """
    if start == stop:
        return
    source = with_rows(recognised(source), one)
    if _is_sequential(source, stat):
        yield from _of_parts(source, one, whole_plan(source, stat), start, stop)
        return
    step = stop - start
    probe = formats.look(replace(source, rows=(start, start + 1, None)))
    if probe.order == "F":
        step = max(1, BLOCK_BYTES // max(one.row_bytes, 1))
    for low in range(start, stop, step):
        high = min(low + step, stop)
        yield from _rows(replace(source, rows=(low, high, None)), one, high - low)


def with_rows(source: Source, one: Field) -> Source:
    """Return the source that keeps axis 0 also where a text has one row, or one column."""
    if source.resolved_format() != "text":
        return source
    options = {"ndmin": 1 + len(one.row_shape), **source.option}
    return replace(source, options=tuple(sorted(options.items())))


def part_starts(source: Source, one: Field, stat: Stat) -> Int64 | None:
    """Return the first row of each part that is decoded from its beginning; None: rows are found.

    Of an array in Fortran order, which is transposed, all is one part.
    """
    source = with_rows(recognised(source), one)
    if not _is_sequential(source, stat):
        return None
    plan = whole_plan(source, stat)
    starts = [] if plan.order == "F" else [part.start for part in plan.parts]
    return np.array(starts or [0], np.int64)


def unit_rows(source: Source, plan: LoadPlan) -> int:
    """Return how many rows of a file are decoded together; 0: none, each lies there as in memory.

    Parts that are not equally large are taken at their mean.
    """
    module = formats.load_format(source.resolved_format())
    if isinstance(module, InUnits):
        return module.unit(source, plan)
    if isinstance(module, Addressed) and module.address(source, plan) is not None:
        return 0
    zipped = plan.detail and source.resolved_format() == "npz" and Selection(*plan.detail).zipped
    if plan.order == "F" and not zipped:
        return max(1, BLOCK_BYTES // max(1, math.prod(plan.shape[1:]) * plan.dtype.itemsize))
    return max(1, -(-plan.shape[0] // max(1, len(plan.parts))))


def is_one_unit(source: Source, one: Field, stat: Stat) -> bool:
    """Say whether any row costs the decoding of the whole file; no text is read to tell."""
    source = recognised(source)
    if source.resolved_format() == "text":
        return compressed(source.path)
    starts = part_starts(source, one, stat)
    return starts is not None and len(starts) < 2


def _is_sequential(source: Source, stat: Stat) -> bool:
    name = source.resolved_format()
    if name == "npz":
        return bool(Selection(*whole_plan(source, stat).detail).zipped)
    return name not in _BY_ROWS


def _rows(source: Source, one: Field, count: int) -> Iterator[Array]:
    """Yield all rows of a source that is to have `count`."""
    plan = formats.look(source)
    check_spec(source, one, plan)
    if plan.shape[0] != count:
        raise other_rows(source, plan.shape[0], count)
    if plan.order == "F":
        yield _transposed(source, plan)
        return
    for part in plan.parts:
        with closing(_values(source, plan, part)) as values:
            yield from whole_rows(values, one)


def _of_parts(source: Source, one: Field, plan: LoadPlan, start: int, stop: int) -> Iterator[Array]:
    """Yield rows from those parts of a plan of the whole file that have them."""
    check_spec(source, one, plan)
    if plan.shape[0] < stop:
        raise other_rows(source, plan.shape[0], stop)
    if plan.order == "F":
        yield _transposed(source, plan)[start:stop]
        return
    for part in plan.parts:
        if part.stop <= start or part.start >= stop:
            continue
        at = part.start
        with closing(_values(source, plan, part)) as values:
            for block in whole_rows(values, one):
                low, high = max(start - at, 0), min(stop - at, len(block))
                if low < high:
                    yield block[low:high]
                at += len(block)
                if stop <= at < part.stop:
                    return  # at the end of a part its checksum is still to be compared


def other_rows(source: Source, found: int, wanted: int) -> BadFile:
    """Return the error for a file with another number of rows than the manifest says."""
    return BadFile(f"{source} has {found} rows where {wanted} were counted: {AGAIN}.")


def whole_array(source: Source, one: Field) -> Array:
    """Return a file that is one row; ``row_shape``.

    Raises
    ------
    SpecMismatch
        It has another shape or dtype than the field.
    """
    source = recognised(source)
    plan = formats.look(source)
    check_spec(source, one, plan)
    if plan.order == "F":
        return _transposed(source, plan)
    return _gathered(source, plan).reshape(one.row_shape)


def _transposed(source: Source, plan: LoadPlan) -> Array:
    """Return an array that lies in Fortran order in its file, in C order."""
    return np.ascontiguousarray(_gathered(source, plan).reshape(plan.storage_shape).T)


def _gathered(source: Source, plan: LoadPlan) -> Array:
    """Return all values in the order of storage, ``(size,)``."""
    out = np.zeros(math.prod(plan.shape), plan.dtype)
    items, at = as_items(out), 0
    for part in plan.parts:
        with closing(_values(source, plan, part)) as values:
            for chunk in values:
                some = as_items(chunk)
                if at + some.size > out.size:
                    raise other_rows(source, at + some.size, out.size)
                items[at : at + some.size] = some
                at += some.size
    if at < out.size:
        raise other_rows(source, at, out.size)
    return out


def _values(source: Source, plan: LoadPlan, part: Part) -> Chunks:
    """Yield the chunks of a part, each flat."""
    return flat(source, formats.load_format(source.resolved_format()).fill(source, plan, part))


def flat(source: Source, chunks: Chunks) -> Chunks:
    """Yield the chunks of a format, each flat, and say what is wrong in arrayd's errors."""
    with os_errors(source), closing(chunks):
        for chunk in chunks:
            yield as_items(chunk).reshape(-1).view(chunk.dtype)


def whole_rows(values: Iterator[Array], one: Field) -> Iterator[Array]:
    """Cut flat chunks, which may end within a row, into arrays of whole rows."""
    per_row = math.prod(one.row_shape)
    begun, have = np.zeros(per_row, one.dtype), 0
    for chunk in values:
        rest = chunk
        if have:
            some = chunk[: per_row - have]
            as_items(begun)[have : have + some.size] = as_items(some)
            have += some.size
            rest = chunk[some.size :]
            if have < per_row:
                continue
            yield begun.reshape(1, *one.row_shape)
        whole, have = divmod(rest.size, per_row)
        if whole:
            yield rest[: whole * per_row].reshape(whole, *one.row_shape)
        as_items(begun)[:have] = as_items(rest[whole * per_row :])
