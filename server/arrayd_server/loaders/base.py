"""What every format offers: *probe* (how big is it) and *fill* (read these rows).

A format is a module with two functions::

    def probe(source: Source) -> LoadPlan
    def fill(source: Source, plan: LoadPlan, part: Part) -> Chunks

`probe` reads headers (text: counts rows) and never the values. `fill` yields the
rows of one part in order, in chunks of bounded size, in the file's dtype; the
segment writer casts each chunk and writes it to its place in the segment. So every format
gets parallel parts, progress, casting and cancellation alike, and the memory a
worker needs is one chunk. A chunk may be overwritten after the next is asked for.
Only the order of its values counts, not its shape: a row too big for one chunk comes
in pieces.

Rows here are rows of *storage*: axis 0 of the array as it lies in memory. For a
Fortran-ordered array the storage is the transpose, for a 0-d array it is ``(1,)``.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from arrayd.source import Source

PART_BYTES = 32 << 20
"""Aim for the size of a part, in bytes of the file's dtype."""

MAX_PARTS = 10_000
"""Larger arrays (320 GB) have larger parts: a few bytes must not make a list without end."""

MAX_MEMBERS = 10_000
"""Arrays of a file that are looked for and described."""

Chunks = Generator[np.ndarray[Any, Any], None, None]
"""What `fill` returns: its reader closes it, and with it the file, when it has enough."""

GAP = 16 << 10
"""Bytes it is cheaper to read along than to skip with another system call."""

CHUNK_BYTES = 256 << 10
"""Aim for the size of one chunk from `fill`: it stays in the L2 cache on its way."""

CAST_BYTES = 512 << 10
"""The same of values that are cast, which takes some 60 µs for each chunk, however small."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows ``start:stop`` of storage; `hint` is the format's own (msgpack-able ints)."""

    start: int
    stop: int
    hint: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What a source holds and how its rows divide.

    Parameters
    ----------
    shape
        Of the result, after ``rows=``.
    dtype
        In which `fill` yields (the file's).
    order
        ``"C"`` or ``"F"``: the layout in which `fill` yields.
    parts
        Disjoint, in order, covering all rows of storage; empty for a zero-size array.
    detail
        The format's own findings that `fill` needs: a NamedTuple of ints, strings and tuples.
        On its way to another process it becomes a plain tuple.
    member
        The member's canonical name, however it was asked for; None where there is none.
    target
        The dtype of the result; None: not known yet.
    apart
        Its values are to be read by a process that has read no other file; see `apart.py`.
    files
        Where else, besides in the file of the source, its bytes were looked for: absolute paths.
    locked
        A writer had a lock on one of the files, and the request says to read it all the same.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str
    parts: tuple[Part, ...]
    detail: tuple[Any, ...] = ()
    member: str | None = None
    target: np.dtype[Any] | None = None
    apart: bool = False
    files: tuple[str, ...] = ()
    locked: bool = False

    @property
    def storage_shape(self) -> tuple[int, ...]:
        """Shape of the C-contiguous array whose rows `fill` yields."""
        return storage_shape(self.shape, self.order)


def storage_shape(shape: tuple[int, ...], order: str) -> tuple[int, ...]:
    """Return the shape of storage for an array of `shape` in `order`."""
    return (shape if order == "C" else shape[::-1]) or (1,)


def part_size(nbytes: int) -> int:
    """Return the bytes of a part of an array of `nbytes`; a file can promise any number."""
    return max(PART_BYTES, nbytes // MAX_PARTS)


def even_parts(rows: int, row_bytes: int, part_bytes: int = 0) -> tuple[Part, ...]:
    """Divide `rows` rows into parts of about `part_bytes` (0: `part_size`) each."""
    if rows == 0 or row_bytes == 0:
        return ()
    part_bytes = part_bytes or part_size(rows * row_bytes)
    per_part = max(1, part_bytes // row_bytes)
    return tuple(Part(a, min(a + per_part, rows)) for a in range(0, rows, per_part))


def row_bytes(plan: LoadPlan) -> int:
    """Bytes of one storage row in the file's dtype."""
    return math.prod(plan.storage_shape[1:]) * plan.dtype.itemsize


@dataclass(frozen=True, slots=True)
class FoundMember:
    """One array of a file that may hold several; `shape` and `dtype` as in the file.

    `dtype` is object where numpy has none of fixed size; `problem` says why it cannot be loaded.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    problem: str | None = None


class Format(Protocol):
    """The type of a format module."""

    def probe(self, source: Source) -> LoadPlan:
        """Return what `source` holds, without reading its values."""

    def fill(self, source: Source, plan: LoadPlan, part: Part) -> Chunks:
        """Yield the storage rows of `part`, in order, in bounded chunks."""


@runtime_checkable
class LongText(Format, Protocol):
    """The type of a format module whose text may have no fixed size: the dtype object."""

    def text_dtype(self, source: Source, plan: LoadPlan) -> np.dtype[Any]:
        """Return the type of fixed size that holds all the text of `plan`, by reading it."""


@runtime_checkable
class Container(Format, Protocol):
    """The type of a format module whose files may hold several arrays."""

    def members(self, source: Source) -> list[FoundMember]:
        """Return the arrays in the file of `source`, whichever it names."""


@runtime_checkable
class Described(Format, Protocol):
    """The type of a format module whose arrays have more than values, such as attributes."""

    def header(self, source: Source, plan: LoadPlan) -> tuple[bytes, list[str]]:
        """Return what they have, in the format's own form, and the names of what is left out."""


@runtime_checkable
class Addressed(Format, Protocol):
    """The type of a format module that may know where in the file each row is."""

    def address(self, source: Source, plan: LoadPlan) -> int | None:
        """Return the byte of the file where the rows of `plan` begin, as they are in memory.

        None: they must be decoded, or do not follow each other.
        """


@runtime_checkable
class InUnits(Format, Protocol):
    """The type of a format module whose rows are decoded some at a time: those of a chunk."""

    def unit(self, source: Source, plan: LoadPlan) -> int:
        """Return how many rows are decoded together, from each multiple of it on.

        0: none, for each lies in the file as it is in memory.
        """

    def fill_parts(self, source: Source, plan: LoadPlan, parts: Sequence[Part]) -> Chunks:
        """Yield the rows of several parts, one after another, as `fill` those of one."""
