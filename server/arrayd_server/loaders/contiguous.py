"""Arrays whose bytes lie one after another: in a raw file, a ``.npy``, a zip member.

A selection of axis 0 of such an array is, for each of some *periods*, a range of
equally spaced *items*: in C order one period whose items are rows; in Fortran order
one period per column, whose items are single values. `plan` finds these numbers and
`walk` reads them through any ``read(buffer, position)``, so rows, negative steps and
both orders cost no format a line of its own.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import FileIO
from typing import Any, NamedTuple

import numpy as np

from arrayd.errors import BadFile, SourceChanged
from arrayd.source import Source
from arrayd_server.loaders import base
from arrayd_server.loaders.base import GAP, Chunks, LoadPlan, Part
from arrayd_server.loaders.validation import open_regular, selected

Array = np.ndarray[Any, Any]
Read = Callable[[memoryview, int], None]
"""Fill the whole buffer from this position on, or raise."""


class Selection(NamedTuple):
    """``LoadPlan.detail``: which bytes of the file are the result, in periods of items.

    ``Part.hint`` is (first period, last period, first item, last item).
    """

    offset: int  # of the first period, in bytes
    length: int  # items in a period; 0: there is one period
    item: int  # bytes of an item
    start: int  # of the items of a period, as in a slice
    stop: int
    step: int
    zipped: str = ""  # the compressed zip member it is in; "" for the file itself


def check_size(source: Source, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return the bytes of an array of `shape`.

    Raises
    ------
    BadFile
        No array can have this shape: a negative or an absurd length, or too many axes.
    """
    size = math.prod(n or 1 for n in shape) * max(dtype.itemsize, 1)
    try:
        np.empty(len(shape) * (0,))  # 32 axes or 64, by the version of numpy
    except ValueError:
        size = sys.maxsize
    if min(shape, default=0) < 0 or size >= sys.maxsize:
        raise BadFile(f"{source}: no array of {dtype} can have the shape {shape}.")
    return math.prod(shape) * dtype.itemsize


def plan(
    source: Source,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    order: str = "C",
    offset: int = 0,
    part_bytes: int = 0,
) -> LoadPlan:
    """Return the plan for ``rows=`` of the array of `shape` whose bytes begin at `offset`.

    Raises
    ------
    SpecMismatch
        ``rows=`` of a 0-d array.
    """
    rows = selected(source, shape)
    order = order if len(shape) > 1 else "C"
    result = (len(rows), *shape[1:]) if shape else ()
    storage = base.storage_shape(result, order)
    per_row = math.prod(storage[1:])
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    if rows.step == 1 and (order == "C" or len(rows) == shape[0]):
        detail = Selection(
            offset + rows.start * row_bytes, 0, dtype.itemsize, 0, math.prod(result), 1
        )
        hint = partial(_items_hint, per_row)
    elif order == "C":
        detail = Selection(offset, 0, row_bytes, rows.start, rows.stop, rows.step)
        hint = partial(_items_hint, 1)
    else:
        detail = Selection(offset, shape[0], dtype.itemsize, rows.start, rows.stop, rows.step)
        hint = partial(_periods_hint, math.prod(shape[1:-1]), len(rows))
    parts = base.even_parts(storage[0], per_row * dtype.itemsize, part_bytes)
    return LoadPlan(result, dtype, order, tuple(map(hint, parts)), detail)


def address(_: Source, plan: LoadPlan) -> int | None:
    """Return the byte where the rows of a plan begin; None: they are elsewhere, or not in C order.

    A 0-d array has no rows.
    """
    selection = Selection(*plan.detail)
    if plan.order != "C" or not plan.shape or selection.zipped or selection.step != 1:
        return None
    return selection.offset + selection.start * selection.item


def _items_hint(per_row: int, part: Part) -> Part:
    return Part(part.start, part.stop, (0, 1, part.start * per_row, part.stop * per_row))


def _periods_hint(per_row: int, items: int, part: Part) -> Part:
    return Part(part.start, part.stop, (part.start * per_row, part.stop * per_row, 0, items))


def fill(source: Source, plan: LoadPlan, part: Part) -> Chunks:
    """Yield the values of `part` from the file itself, in 1-d chunks of storage order.

    Raises
    ------
    SourceChanged
        The file has become shorter since `plan` was made.
    """
    with open_regular(source.path) as file:
        size = base.CHUNK_BYTES if source.cast is None else base.CAST_BYTES
        yield from walk(partial(_pread, source, file), plan, part, size)


def fill_rows(source: Source, plan: LoadPlan, parts: Sequence[Part]) -> Chunks:
    """Yield the rows of several parts in C order, as `fill`; they need no hints."""
    selection = Selection(*plan.detail)
    for part in parts:
        yield from fill(source, plan, _items_hint(base.row_bytes(plan) // selection.item, part))


def _pread(source: Source, file: FileIO, buffer: memoryview, position: int) -> None:
    done = 0
    while done < len(buffer):
        got = os.preadv(file.fileno(), [buffer[done:]], position + done)
        if got == 0:
            raise SourceChanged(
                f"{source} became shorter while it was read: it ends before byte "
                f"{position + len(buffer)}. Ask again once its writer is done."
            )
        done += got


def walk(read: Read, plan: LoadPlan, part: Part, chunk_bytes: int) -> Iterator[Array]:
    """Yield the values of `part` as `read` gives them, about `chunk_bytes` at a time."""
    offset, length, item, start, stop, step, _ = Selection(*plan.detail)
    first, last, low, high = part.hint
    items = range(start, stop, step)[low:high]
    buffer = np.empty(max(chunk_bytes, plan.dtype.itemsize), np.uint8)
    if length and length * item <= min(GAP, chunk_bytes):
        yield from _periods(read, offset, range(first, last), length, items, plan.dtype, buffer)
        return
    for period in range(first, last):
        yield from _items(read, offset + period * length * item, items, item, plan.dtype, buffer)


def _periods(
    read: Read,
    offset: int,
    periods: range,
    length: int,
    items: range,
    dtype: np.dtype[Any],
    buffer: Array,
) -> Iterator[Array]:
    """Read whole short periods and take the items of each."""
    size = length * dtype.itemsize
    for some in _groups(periods, buffer.size // size):
        block = buffer[: len(some) * size]
        read(block.data, offset + some.start * size)
        table = block.view(f"V{dtype.itemsize}").reshape(len(some), length)
        # A range that runs down to item 0 stops at -1, which a slice takes for the end.
        end = items.stop if items.stop >= 0 else None
        yield np.ascontiguousarray(table[:, items.start : end : items.step]).view(dtype)


def _items(
    read: Read, offset: int, items: range, size: int, dtype: np.dtype[Any], buffer: Array
) -> Iterator[Array]:
    """Read items of `size` bytes, several with the gaps between them, or the parts of one."""
    stride = size * abs(items.step)
    together = buffer.size // stride if stride - size <= GAP else 0
    if not together and size > dtype.itemsize:
        values = range(size // dtype.itemsize)
        for item in items:
            yield from _items(read, offset + item * size, values, dtype.itemsize, dtype, buffer)
        return
    for some in _groups(items, max(together, 1)):
        block = buffer[: (abs(some[-1] - some[0]) + 1) * size]
        read(block.data, offset + min(some[0], some[-1]) * size)
        if items.step != 1:
            block = np.ascontiguousarray(block.view(f"V{size}")[:: items.step])
        yield block.view(dtype)


def _groups(indices: range, size: int) -> Iterator[range]:
    return (indices[i : i + size] for i in range(0, len(indices), size))
