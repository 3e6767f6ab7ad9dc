r"""Find the rows of a text file in its bytes, at the speed of memory and without parsing.

A line holds a row of data for `numpy.loadtxt` if and only if it has a first
character that is neither white space (where white space separates the columns) nor
the comment character. So one look per line decides, for all lines of a block at
once; what comes later in the line does not matter. That is `Rule`. It follows
numpy's ``textreading/tokenize.cpp``: the tokenizer drops a line's only field if it
is empty, and `rows.c` skips lines without fields.

Lines end as in Python's text mode: ``\n``, ``\r\n`` or a lone ``\r``.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import IO

import numpy as np
import numpy.typing as npt

from arrayd_server.loaders.text import plain_rows

BLOCK_BYTES = 512 << 10
"""How much of the file is remembered as one block; parts begin and end with a block."""

_READ_BYTES = 128 << 10
"""How much of it is read in one go: the memory of larger pieces comes anew from the kernel for
each, which takes longer than to look at them."""

LINE_BYTES = 32 << 20
"""A longer line is a sign that the file is no text: a million columns of `numpy.savetxt` fit."""

_DATA, _SPACE, _BLANK, _UNSURE = range(4)
_NEWLINE, _RETURN = b"\n\r"
_LINE_END = re.compile(rb"\r\n?|\n")
_MAX_INDENT = 64  # beyond so much leading space the line is decoded instead


class LineTooLong(Exception):
    """The file has no line ends where every text has some."""


@dataclass(frozen=True, slots=True)
class LineBlock:
    """Bytes ``start:stop`` of the file: whole lines that hold `rows` rows, from `first` on."""

    start: int
    stop: int
    first: int
    rows: int

    @property
    def end(self) -> int:
        """Number of the first row behind it."""
        return self.first + self.rows


@dataclass(frozen=True)
class Rule:
    """Which lines of a file hold a row.

    Parameters
    ----------
    comment
        The ASCII character that begins a comment; empty if there are none.
    spaced
        White space separates the columns; otherwise a character does.
    encoding
        Of the file; one in which ASCII bytes stand for themselves alone.
    """

    comment: str
    spaced: bool
    encoding: str

    def count_rows(self, block: bytes) -> int:
        """Return how many lines of `block` (whole lines) hold a row."""
        rows = plain_rows.count_rows(block, self.comment)
        return self.data_lines(block).size if rows is None else rows

    def data_lines(self, block: bytes) -> npt.NDArray[np.intp]:
        """Return where in `block` (whole lines) each line starts that holds a row."""
        if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
            # A lone \r ends a line. Same length, so that offsets stay true.
            block = block.replace(b"\r\n", b"\n\n").replace(b"\r", b"\n")
        if not block.endswith(b"\n"):
            block += b"\n"
        text = np.frombuffer(block, np.uint8)
        starts: npt.NDArray[np.intp] = np.flatnonzero(text == _NEWLINE)
        starts = np.concatenate(([0], starts[:-1] + 1))
        kinds = self._kinds(text, starts)
        for i in np.flatnonzero((kinds == _UNSURE) | (kinds == _SPACE)):
            kinds[i] = self._decoded_kind(block, int(starts[i]))
        rows: npt.NDArray[np.intp] = starts[kinds == _DATA]
        return rows

    def _kinds(
        self, text: npt.NDArray[np.uint8], starts: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.uint8]:
        """Return for each line what its first character behind white space says."""
        kinds: npt.NDArray[np.uint8] = self._table[text[starts]]
        for further in range(1, _MAX_INDENT):
            spaces = np.flatnonzero(kinds == _SPACE)
            if not spaces.size:
                break
            kinds[spaces] = self._table[text[starts[spaces] + further]]
        return kinds

    def _decoded_kind(self, block: bytes, start: int) -> int:
        """Return the same for one line by decoding it: the rare and the certain way."""
        line = block[start : block.index(b"\n", start)].decode(self.encoding, "replace").lstrip()
        return _BLANK if not line or (self.comment and line[0] == self.comment) else _DATA

    @cached_property
    def _table(self) -> npt.NDArray[np.uint8]:
        table = np.full(256, _DATA, np.uint8)
        if self.spaced:  # str.isspace is the test that numpy's tokenizer uses
            table[[c for c in range(128) if chr(c).isspace()]] = _SPACE
            table[128:] = _UNSURE
        table[[_NEWLINE, _RETURN]] = _BLANK
        if self.comment:
            table[ord(self.comment)] = _BLANK
        return table


def whole_lines(
    file: IO[bytes], start: int = 0, stop: int = sys.maxsize, size: int = 0
) -> Iterator[tuple[int, bytes]]:
    r"""Yield bytes ``start:stop`` of `file` as (offset, block of whole lines).

    Blocks have about `size` bytes (0: `BLOCK_BYTES`), more where a line is longer; a
    ``\r\n`` is never cut in two. Only the last one may lack its line end.

    Raises
    ------
    LineTooLong
        A line is longer than `LINE_BYTES`.
    """
    file.seek(start)
    left, rest = stop - start, b""
    while new := file.read(min(max(size or BLOCK_BYTES, len(rest)), left)):
        left -= len(new)
        data = rest + new
        cut = data.rfind(b"\n") + 1 or data.rfind(b"\r", 0, -1) + 1
        if cut:
            yield start, data[:cut]
        elif len(data) > LINE_BYTES:
            raise LineTooLong(f"no line end in the {len(data)} bytes behind byte {start}")
        start, rest = start + cut, data[cut:]
    if rest:
        yield start, rest


def after_lines(file: IO[bytes], count: int) -> int:
    """Return the offset at which line `count` (from 0) starts, or the end of the file."""
    end = 0
    for start, block in whole_lines(file) if count else ():
        ends = line_ends(block)
        if count <= ends:
            last = next(itertools.islice(_LINE_END.finditer(block), count - 1, None))
            return start + last.end()
        count, end = count - ends, start + len(block)
    return end


def line_number(file: IO[bytes], offset: int) -> int:
    """Return the number (from 1) of the line that starts at `offset`."""
    return 1 + sum(line_ends(block) for _, block in whole_lines(file, 0, offset))


def first_line(file: IO[bytes], rule: Rule, start: int) -> tuple[int, bytes] | None:
    """Return offset and text of the first line from `start` on that holds a row."""
    for offset, block in whole_lines(file, start):
        found = rule.data_lines(block)
        if found.size:
            at = int(found[0])
            end = _LINE_END.search(block, at)
            return offset + at, block[at : end.start() if end else None]
    return None


def survey(file: IO[bytes], rule: Rule, start: int, limit: int | None) -> Iterator[LineBlock]:
    """Yield the blocks from `start` on that hold rows, at most `limit` rows in all."""
    first, begun, rows = 0, start, 0  # of the block that is being made
    stop = start
    for offset, lines in whole_lines(file, start, size=min(_READ_BYTES, BLOCK_BYTES)):
        more, end = rule.count_rows(lines), offset + len(lines)
        full = limit is not None and first + rows + more >= limit
        if limit is not None and first + rows + more > limit:
            more = limit - first - rows
            end = offset + int(rule.data_lines(lines)[more])
        if rows and end - begun > BLOCK_BYTES:
            yield LineBlock(begun, stop, first, rows)
            first, rows = first + rows, 0
        if more:
            begun = begun if rows else offset
            rows, stop = rows + more, end
        if full:
            break
    if rows:
        yield LineBlock(begun, stop, first, rows)


def text_lines(text: str) -> list[str]:
    """Return the lines of `text`; `str.splitlines` would also split at form feeds and others."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.split("\n")


def line_ends(block: bytes) -> int:
    """Return how many lines end in `block`."""
    return block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")
