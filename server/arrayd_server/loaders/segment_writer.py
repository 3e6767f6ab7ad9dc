"""From the chunks of a format to the bytes of a segment: cast, place, account.

One call of `write_part` is one job of a loader process. When it returns, and also when it
raises, no descriptor or mapping of the segment is left: the daemon's write lease proves it.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from arrayd.common import failpoints
from arrayd.common.casts.cast import cast_chunk
from arrayd.common.casts.padding import as_items
from arrayd.errors import BadFile, CastError, NoRoom
from arrayd.source import Source
from arrayd_server.loaders import base, piece_writing, straight_copy
from arrayd_server.loaders.base import Chunks, LoadPlan, Part, storage_shape
from arrayd_server.loaders.formats import load_format, recognised
from arrayd_server.loaders.validation import os_errors

Array = np.ndarray[Any, Any]
Cast = tuple[Array, int]


class Cancelled(Exception):
    """Nobody waits for this load any more."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where an array goes.

    Parameters
    ----------
    path
        The segment's file, which exists.
    dtype
        Of the result: the cast's, or the file's.
    order
        ``"C"`` or ``"F"``: the layout of the result.
    data_bytes
        Bytes of the whole array; they begin at offset 0.
    """

    path: str
    dtype: np.dtype[Any]
    order: str
    data_bytes: int


def write_part(
    source: Source,
    plan: LoadPlan,
    part: Part,
    target: Target,
    *,
    on_rows: Callable[[int], None],
    cancelled: Callable[[], bool],
) -> int:
    """Write the rows of `part` to their place in the segment; return how many values changed.

    Parameters
    ----------
    on_rows
        Called after each chunk with the rows of storage that are done of this part.
    cancelled
        Asked before each chunk.

    Raises
    ------
    Cancelled
        `cancelled` said so.
    SourceError
        As the format's `fill`; CastError; BadFile if the file has other rows than planned.
    NoRoom
        The memory for this part cannot be had.
    """
    begin = straight_copy.begin(source, plan, target.dtype) if _is_straight(plan, target) else None
    if begin is not None and _copied(source, plan, part, target, begin, on_rows, cancelled):
        return 0
    per_row = math.prod(plan.storage_shape[1:])
    position, end = part.start * per_row, part.stop * per_row
    changed = 0
    with (
        _sink(source, plan, part, target) as sink,
        closing(_chunks(source, plan, part, target.dtype)) as chunks,
    ):
        for chunk in chunks:
            if cancelled():
                raise Cancelled
            if position + chunk.size > end:
                raise _other_rows(source, part, "more")
            values, count = _cast(source, plan, chunk, position, target.dtype)
            sink.put(position, values)
            _pass_written()
            position += chunk.size
            changed += count
            on_rows(position // per_row - part.start)
    if position < end:
        raise _other_rows(source, part, f"only {position // per_row - part.start}")
    return changed


def _copied(
    source: Source,
    plan: LoadPlan,
    part: Part,
    target: Target,
    begin: int,
    on_rows: Callable[[int], None],
    cancelled: Callable[[], bool],
) -> bool:
    """Let the kernel copy the rows of `part`; False: it cannot, and nothing is written."""
    done = 0
    with (
        _opened(target) as fd,
        _room(fd, source, target, _part_bytes(plan, part, target)),
        closing(straight_copy.copy(source, plan, part, begin, fd)) as steps,
    ):
        while not cancelled():
            with os_errors(source):
                _pass_read()
            if (now := next(steps, None)) is None:
                return bool(done)
            done = now
            _pass_written()
            on_rows(done // base.row_bytes(plan))
    raise Cancelled


def _pass_read() -> None:
    """Pass the point before a chunk is read."""
    failpoints.hit("worker.reading")


def _pass_written() -> None:
    """Pass the point after a chunk is written."""
    failpoints.hit("worker.chunk")


def read_into(
    out: memoryview, source: Source, plan: LoadPlan, parts: Sequence[Part], dtype: np.dtype[Any]
) -> int:
    """Read all `parts` of a plan, cast to `dtype`, into memory; return how many values changed.

    Raises
    ------
    SourceError
        As `write_part`.
    ValueError
        There are more bytes than `out` has.
    """
    per_row = math.prod(plan.storage_shape[1:])
    changed = 0
    for part in parts:
        position = part.start * per_row
        with closing(_chunks(source, plan, part, dtype)) as chunks:
            for chunk in chunks:
                values, count = _cast(source, plan, chunk, position, dtype)
                data = np.ascontiguousarray(as_items(values)).view(np.uint8).data
                begin = position * dtype.itemsize
                out[begin : begin + len(data)] = data
                position += chunk.size
                changed += count
        if position != part.stop * per_row:
            raise _other_rows(source, part, "another number")
    return changed


def _other_rows(source: Source, part: Part, found: str) -> BadFile:
    return BadFile(
        f"{source} changed while it was read: rows {part.start} to {part.stop} should be "
        f"{part.stop - part.start}, it has {found}. Ask again once its writer is done."
    )


def _chunks(source: Source, plan: LoadPlan, part: Part, dtype: np.dtype[Any]) -> Chunks:
    """Yield flat chunks of the file; small ones if they are to be cast, for a cast makes copies."""
    fill = load_format(recognised(source).resolved_format()).fill
    size = max(1, base.CAST_BYTES // plan.dtype.itemsize) if dtype != plan.dtype else sys.maxsize
    with os_errors(source), closing(fill(source, plan, part)) as chunks:
        for chunk in chunks:
            assert chunk.dtype == plan.dtype
            _pass_read()
            values = as_items(chunk).reshape(-1).view(chunk.dtype)
            for start in range(0, values.size, size):
                yield values[start : start + size]


def _cast(
    source: Source, plan: LoadPlan, chunk: Array, position: int, dtype: np.dtype[Any]
) -> Cast:
    try:
        return cast_chunk(chunk, dtype, source.overflow)
    except CastError as error:
        index = _index(plan, position + error.details["at"])
        place = f"{list(index)} of the rows asked for" if source.rows else f"{list(index)}"
        details = {**error.details, "at": index}
        raise CastError(f"{source}, at {place}: {error.message}", **details) from None


def _index(plan: LoadPlan, position: int) -> tuple[int, ...]:
    """Return the index in the result of the value at `position` in storage order."""
    index = np.unravel_index(position, plan.storage_shape)
    values = tuple(map(int, index if plan.order == "C" else index[::-1]))
    return values if plan.shape else ()


class _Sink(Protocol):
    """Takes values to their place in the segment, by position in the plan's storage order."""

    def put(self, position: int, values: Array) -> None: ...


@contextmanager
def _sink(source: Source, plan: LoadPlan, part: Part, target: Target) -> Iterator[_Sink]:
    with _opened(target) as fd:
        if _is_straight(plan, target):
            with _room(fd, source, target, _part_bytes(plan, part, target)):
                yield _Straight(fd, target.dtype.itemsize)
        else:
            _reserve_all(fd, source, target)
            with _Transposed(fd, plan.shape, target) as sink:
                yield sink


@contextmanager
def _opened(target: Target) -> Iterator[int]:
    try:
        fd = os.open(target.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:  # the load was given up before this task reached us
        raise Cancelled from None
    try:
        yield fd
    finally:
        os.close(fd)


def _is_straight(plan: LoadPlan, target: Target) -> bool:
    """Say whether storage and segment have one layout."""
    return target.order == plan.order or len(plan.shape) <= 1


@contextmanager
def _room(fd: int, source: Source, target: Target, length: int) -> Iterator[None]:
    """Let a full /dev/shm be NoRoom for `length` bytes that are to be had meanwhile."""
    try:
        failpoints.hit("worker.reserving")
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        room = os.fstatvfs(fd)
        free, total = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
        where = os.path.dirname(target.path)
        raise NoRoom(
            f"{source}: no room in {where} for {length} of {target.data_bytes} bytes: "
            f"{free} of {total} are free. Release or evict blocks, or enlarge {where}.",
            needed=length,
            free=free,
            total=total,
        ) from None


def _part_bytes(plan: LoadPlan, part: Part, target: Target) -> int:
    per_row = math.prod(plan.storage_shape[1:])
    return (part.stop - part.start) * per_row * target.dtype.itemsize


def _reserve_all(fd: int, source: Source, target: Target) -> None:
    """Reserve the whole segment, once: every part of a transposed array touches all of it.

    In a mapping a full /dev/shm would be a SIGBUS. Where bytes are written by system calls it is
    an error of theirs: there the pages come as they are written, and none is zeroed before.
    """
    stat = os.fstat(fd)
    size = max(stat.st_size, target.data_bytes)
    with _room(fd, source, target, size):
        if stat.st_blocks * 512 < size:
            os.posix_fallocate(fd, 0, size)


def write_bytes(path: str, offset: int, data: memoryview) -> None:
    """Write to the segment's file at `path`.

    Raises
    ------
    Cancelled
        It is gone.
    OSError
        It has no room.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise Cancelled from None
    try:
        piece_writing.put(fd, offset, data)
    finally:
        os.close(fd)


class _Straight:
    """Storage and segment have one layout: each chunk is a piece of the segment."""

    def __init__(self, fd: int, itemsize: int) -> None:
        self._fd = fd
        self._itemsize = itemsize

    def put(self, position: int, values: Array) -> None:
        data = np.ascontiguousarray(as_items(values)).view(np.uint8).data
        piece_writing.put(self._fd, position * self._itemsize, data)


class _Transposed:
    """The segment has the other order: values are scattered through a mapping."""

    def __init__(self, fd: int, shape: tuple[int, ...], target: Target) -> None:
        self._map = mmap.mmap(fd, target.data_bytes)
        # frombuffer, unlike ndarray(buffer=), lets no mapping go that an array still sees.
        flat = as_items(np.frombuffer(self._map, target.dtype, math.prod(shape)))
        self._view: Array | None = flat.reshape(storage_shape(shape, target.order)).T

    def __enter__(self) -> Self:
        return self

    def put(self, position: int, values: Array) -> None:
        assert self._view is not None
        scatter(self._view, position, as_items(values))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The frames of a traceback hold their views of the mapping as long as it lives.
        traceback.clear_frames(trace)
        self._view = None
        self._map.close()


def scatter(view: Array, position: int, values: Array) -> None:
    """Assign ``view.reshape(-1)[position : position + values.size] = values`` without a copy.

    Parameters
    ----------
    view
        At least 1-d, with any strides.
    values
        1-d.
    """
    if view.ndim == 1:
        view[position : position + values.size] = values
        return
    per_row = math.prod(view.shape[1:])
    while values.size:
        row, within = divmod(position, per_row)
        rows = values.size // per_row
        if within or not rows:
            done = min(per_row - within, values.size)
            scatter(view[row], within, values[:done])
        else:
            done = rows * per_row
            view[row : row + rows] = values[:done].reshape(rows, *view.shape[1:])
        position, values = position + done, values[done:]
