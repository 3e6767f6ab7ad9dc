"""Text, with the semantics of `numpy.loadtxt`, in parallel where rows can be seen in the bytes.

`probe` finds the rows at the speed of memory (`row_scan`); `fill` gives pieces of
whole lines to the compiled parser of plain rows (`plain_rows`), if there is one, and what is
not plain to it to `numpy.loadtxt` (`parser`). So the values are numpy's own, or the same to
the bit, and every error comes from numpy's. Three ways, by what the options allow:

- plain file, at most one comment character, no quotes, an ASCII-based encoding: byte
  ranges, read by as many workers as there are;
- the same, compressed: one part, decompressed as a stream;
- anything else (quotes, long or several comment markers, UTF-16 …): numpy counts the
  rows in `probe` and reads them in `fill`, in one part, from an iterator of lines.

A bad line is found where it is read: with ``rows=`` other parts of the file are not
looked at; with a negative step the chosen rows of a whole part are held at once.
Strings without a width (``dtype="U"``) are refused.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import partial
from itertools import groupby, islice
from typing import IO, NamedTuple

import numpy as np

from arrayd.errors import SourceChanged
from arrayd.source import Source
from arrayd_server.loaders.base import LoadPlan, Part
from arrayd_server.loaders.text.opening import (
    Lines,
    compressed,
    open_bytes,
    open_lines,
    refuse_other_kinds,
    undecodable,
)
from arrayd_server.loaders.text.parser import Array, RowParser
from arrayd_server.loaders.text.row_checks import check_first, check_text, find_error
from arrayd_server.loaders.text.row_scan import (
    LineBlock,
    Rule,
    after_lines,
    first_line,
    line_number,
    survey,
    text_lines,
    whole_lines,
)
from arrayd_server.loaders.validation import selected

PIECE_BYTES = 128 << 10
"""How much text goes to a parser at once; the memory of larger pieces is fetched anew for each."""

PART_BYTES = 4 << 20
"""How much text is a part: to parse it takes numpy a twentieth of a second. Of parts as large as
those of other formats a file of 50 MiB would have two, and one of two workers most of the work."""

_STEP = 10_000
"""Rows that numpy counts in one go at most."""

_AFTER, _AFTER_BYTES = 50, 64 << 10
"""Lines behind a first row that does not read, at most, on which a remedy is tried."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of the file make the array.

    Parameters
    ----------
    shape
        Of the result of `numpy.loadtxt`.
    lone
        There is one row, and its columns became axis 0 (or it became 0-d).
    order
        ``"F"`` for ``unpack=True``, which is the transpose: rows of storage are rows
        of the file either way.
    """

    shape: tuple[int, ...]
    lone: bool
    order: str

    @classmethod
    def of(cls, parser: RowParser, rows: int, columns: int) -> Layout:
        """Return the layout of `rows` rows, squeezed as `numpy.loadtxt` does."""
        raw = (rows,) if parser.dtype.names else (rows, columns)
        view = np.broadcast_to(np.int8(0), raw)
        if view.ndim > parser.ndmin:
            view = view.squeeze()
        if view.ndim < parser.ndmin:
            view = np.atleast_1d(view) if parser.ndmin == 1 else np.atleast_2d(view).T
        shape = view.T.shape if parser.unpack else view.shape
        return cls(
            shape=shape,
            lone=rows == 1 and len(shape) < 2,
            order="F" if parser.unpack and len(shape) == 2 else "C",
        )

    def cut(self, source: Source) -> tuple[int, ...]:
        """Return the shape after ``rows=``."""
        rows = selected(source, self.shape)
        return (len(rows), *self.shape[1:]) if self.shape else ()

    def wanted(self, source: Source, rows: int) -> range:
        """Return which of the `rows` rows of the file are in the result."""
        return range(rows)[slice(None) if self.lone or self.order == "F" else source.slice]

    def arrange(self, source: Source, chunk: Array) -> Array:
        """Return rows of the file as rows of storage."""
        if self.lone:
            return chunk.reshape(-1)[source.slice]
        if self.order == "F":
            return chunk[:, source.slice]
        return chunk.reshape(-1, *self.shape[1:])


class TableSize(NamedTuple):
    """``LoadPlan.detail``: of the whole file, of which ``rows=`` may be a part."""

    rows: int
    columns: int


def probe(source: Source) -> LoadPlan:
    """Return shape, dtype and byte ranges of the text file `source`.

    The first row is read, so that a header line, a wrong dtype or delimiter is an error at
    once; then the whole file is scanned for its rows.

    Raises
    ------
    SpecMismatch
        An option is unknown or refused by `numpy.loadtxt`, or the columns of the first
        row are not those of the dtype or of ``usecols``.
    BadFile, SourceNotFound, AccessDenied
        The file cannot be read as text; line and column are named.
    """
    parser = RowParser.of(source)
    rule = parser.rule
    refuse_other_kinds(parser.path)
    columns, blocks = _count(parser) if rule is None else _survey(parser, rule)
    rows = blocks[-1].end if blocks else 0
    layout = Layout.of(parser, rows, columns)
    shape = layout.cut(source)
    whole = rule is None or compressed(parser.path)
    parts = _parts(blocks, layout.wanted(source, rows), math.inf if whole else PART_BYTES)
    if layout.lone and parts:
        parts = (Part(0, math.prod(shape), parts[0].hint),)
    return LoadPlan(
        shape=shape,
        dtype=parser.dtype,
        order=layout.order,
        parts=parts if math.prod(shape) else (),
        detail=TableSize(rows, columns),
    )


def fill(source: Source, plan: LoadPlan, part: Part) -> Iterator[Array]:
    """Yield the storage rows of `part`.

    Raises
    ------
    BadFile
        A line cannot be parsed; line, column and text are named.
    SourceChanged
        The file has not the rows that `probe` found.
    """
    parser = RowParser.of(source)
    rows, columns = TableSize(*plan.detail)
    layout = Layout.of(parser, rows, columns)
    block = LineBlock(*part.hint)
    chunks = (_streamed if parser.rule is None else _ranged)(parser, block, columns)
    checked = _checked(parser, block, chunks)
    for chunk in _chosen(checked, block.first, layout.wanted(source, rows)):
        yield layout.arrange(source, chunk)


def _survey(parser: RowParser, rule: Rule) -> tuple[int, tuple[LineBlock, ...]]:
    """Return columns and blocks of a file whose rows can be seen in its bytes."""
    with open_bytes(parser.path) as file:
        start = after_lines(file, parser.skiprows)
        first = None if parser.max_rows == 0 else first_line(file, rule, start)
        if first is None:
            return parser.columns_of_nothing, ()
        offset, line = first
        number = line_number(file, offset)
        try:
            text = line.decode(parser.encoding)
            after = partial(_following, parser, file, offset + len(line))
            columns = check_first(parser, [text], number, after)
        except UnicodeDecodeError as error:
            raise undecodable(parser.path, error, number) from None
        return columns, tuple(survey(file, rule, offset, parser.max_rows))


def _count(parser: RowParser) -> tuple[int, tuple[LineBlock, ...]]:
    """Return columns and rows (as one block) of a file that only numpy can divide."""
    limit = sys.maxsize if parser.max_rows is None else parser.max_rows
    with open_lines(parser.path, parser.encoding, parser.skiprows) as lines:
        first = lines.number + 1
        rows = parser.count(lines, min(1, limit))
        if not rows:
            return parser.columns_of_nothing, ()
        row = list(lines.taken)
        columns = check_first(parser, row, first, lambda: list(islice(lines, _AFTER)))
        more, step = rows, _STEP
        while more:
            step = _next_step(step, more, lines)
            more = parser.count(lines, min(step, limit - rows))
            rows += more
    return columns, (LineBlock(0, 0, 0, rows),)


def _following(parser: RowParser, file: IO[bytes], end: int) -> list[str]:
    """Return some whole lines behind the one that ends at `end`, to try a remedy on."""
    file.seek(end)
    data = file.read(_AFTER_BYTES)
    lines = text_lines(data.decode(parser.encoding, "replace"))[1:]
    return (lines if len(data) < _AFTER_BYTES else lines[:-1])[:_AFTER]


def _parts(blocks: tuple[LineBlock, ...], wanted: range, size: float) -> tuple[Part, ...]:
    """Return the parts that hold the rows `wanted`, each of about `size` bytes of text."""
    upward = wanted if wanted.step > 0 else wanted[::-1]
    parts = []
    for _, group in groupby(blocks, lambda block: (block.start - blocks[0].start) // size):
        needed = [block for block in group if len(_within(upward, block))]
        if needed:
            block = LineBlock(
                needed[0].start,
                needed[-1].stop,
                needed[0].first,
                needed[-1].end - needed[0].first,
            )
            start, rows = bisect_left(upward, block.first), len(_within(upward, block))
            if wanted.step < 0:
                start = len(wanted) - start - rows
            parts.append(Part(start, start + rows, astuple(block)))
    return tuple(parts if wanted.step > 0 else reversed(parts))


def _within(upward: range, block: LineBlock) -> range:
    """Return the members of `upward`, an ascending range, that are rows of `block`."""
    return upward[bisect_left(upward, block.first) : bisect_left(upward, block.end)]


def _row_bytes(parser: RowParser, columns: int) -> int:
    return parser.dtype.itemsize * (1 if parser.dtype.names else columns)


def _ranged(parser: RowParser, block: LineBlock, columns: int) -> Iterator[Array]:
    """Yield the rows of a byte range, parsed piece by piece."""
    text, stored = block.stop - block.start, block.rows * _row_bytes(parser, columns)
    size = max(1, PIECE_BYTES * text // max(text, stored))  # a piece is small on both sides
    plain = parser.plain_rows(columns)
    with open_bytes(parser.path) as file:
        for offset, piece in whole_lines(file, block.start, block.stop, size):
            plainly = None if plain is None else plain.parse(piece)
            if plainly is not None:
                yield plainly
                continue
            if b"\0" in piece:
                check_text(parser, piece, line_number(file, offset))
            try:
                lines = text_lines(piece.decode(parser.encoding))
            except UnicodeDecodeError as error:
                raise undecodable(parser.path, error, line_number(file, offset)) from None
            try:
                rows = parser.parse(lines, columns)
            except ValueError:
                raise find_error(parser, lines, line_number(file, offset), columns) from None
            yield rows


def _streamed(parser: RowParser, block: LineBlock, columns: int) -> Iterator[Array]:
    """Yield the rows of a file that only numpy can divide, a bounded number at a time."""
    most = max(1, PIECE_BYTES // max(1, _row_bytes(parser, columns)))
    step, left = 1, block.rows
    with open_lines(parser.path, parser.encoding, parser.skiprows) as lines:
        while left:
            first = lines.number + 1
            try:
                rows = parser.parse(lines, columns, min(step, most, left))
            except UnicodeDecodeError:
                raise
            except ValueError:
                raise find_error(parser, lines.taken, first, columns) from None
            if not len(rows):
                return
            check_text(parser, "".join(lines.taken), first)
            step = _next_step(most, len(rows), lines)
            left -= len(rows)
            yield rows


def _next_step(most: int, rows: int, lines: Lines) -> int:
    """Forget the lines of the last `rows` rows; return of how many the text is a small piece."""
    step = PIECE_BYTES * rows // max(lines.size, 1)
    lines.clear()
    return max(1, min(step, most))


def _checked(parser: RowParser, block: LineBlock, chunks: Iterator[Array]) -> Iterator[Array]:
    """Yield `chunks` while they hold no more, and in the end no fewer rows than `block`."""
    rows = 0
    for chunk in chunks:
        rows += len(chunk)
        if rows > block.rows:
            break
        yield chunk
    if rows != block.rows:
        raise SourceChanged(
            f"{parser.path}: the file changed while it was read: {rows} rows from row "
            f"{block.first} on, where {block.rows} had been counted. Ask again."
        )


def _chosen(chunks: Iterator[Array], first: int, wanted: range) -> Iterator[Array]:
    """Yield of `chunks`, which begin with row `first`, the rows `wanted`, in its order."""
    if wanted.step < 0:
        upward = list(_chosen(chunks, first, wanted[::-1]))
        yield from (chunk[::-1] for chunk in reversed(upward))
        return
    for chunk in chunks:
        rows = _within(wanted, LineBlock(0, 0, first, len(chunk)))
        if rows:
            yield chunk[rows.start - first : rows.stop - first : rows.step]
        first += len(chunk)
