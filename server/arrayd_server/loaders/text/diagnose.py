"""What is wrong with a row of text, and what to do: a remedy is tried before it is given.

`diagnose` looks for the cause in the row, applies the remedy to the request (another delimiter,
another type for a column …) and reads the row, and some that follow, once more. A remedy that
does not help is not given. ``skiprows=`` drops data unless the row is a header, so it is given only
where no value of the row is a number and, without it, the next rows read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from arrayd.common.casts.changes import values_in
from arrayd.errors import ArraydError, BadFile, CastError, SpecMismatch
from arrayd_server.loaders import kinds
from arrayd_server.loaders.text.exact import INTEGER, Lost, integer_for
from arrayd_server.loaders.text.parser import RowParser

DType = np.dtype[Any]

BOM = "\ufeff"
_MOST_HEADERS = 50
_SHOWN = 60
_LISTED = 10
_DELIMITERS = (",", "\t", ";", "|", " ", None)
_MISSING = frozenset(
    ("", "na", "n/a", "#n/a", "<na>", "null", "none", "nil", ".", "-", "--", "?", "*", "nd", "nan")
)
_NO_VALUE = re.compile(r"could not convert string (.*) to (.*) at row \d+, column (\d+)", re.DOTALL)
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}([,'_ \u00a0\u202f]\d{3})+(\.\d*)?")
_HEX = re.compile(r"[+-]?0[xX][0-9a-fA-F]+")
_FORTRAN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[dD][+-]?\d+")
_UNIT = re.compile(r"[$€£]?\s*[+-]?(\d+\.?\d*|\.\d+)\s*[^\d\s,;.]{1,4}|[$€£]\s*[+-]?[\d.,]+")
_BOOLEAN = ("true", "false", "t", "f", "yes", "no")
_LIKE_A_NUMBER = re.compile(r"[\s$€£]*[+-]?[.,]?\d")


@dataclass(frozen=True)
class Row:
    """A row that does not read.

    Parameters
    ----------
    lines
        Its text: more than one line with a quoted line end, or comments before it.
    number
        Of the last of them.
    after
        Lines behind it; empty: unknown, or there are none.
    first
        It is the first row of the file.
    """

    lines: list[str]
    number: int
    after: list[str]
    first: bool


class WrongColumns(ValueError):
    """The row has not the columns that were asked for; `advice` is what to do about it."""

    def __init__(self, words: str, advice: str = "") -> None:
        super().__init__(words)
        self.advice = advice


def diagnose(parser: RowParser, row: Row, error: ValueError) -> ArraydError:
    """Return the error for people: file, line, column, value, the cause, and a remedy that helps.

    Parameters
    ----------
    error
        Of numpy's, or `Lost`, from reading the row.
    """
    if _is_binary(row.lines):
        return _error(parser, row, BadFile, _BINARY)
    markup = kinds.of_text("".join(row.lines + row.after)) if row.first else None
    if markup is not None:
        return _error(parser, row, BadFile, f"it is no table, but {kinds.advise(markup)}")
    words = reason(error)
    if isinstance(error, Lost):
        return _error(parser, row, CastError, words, *_lost(parser, row, error))
    remedy = next(_remedies(parser, row), None)
    found = _NO_VALUE.search(str(error))
    kind = BadFile if found or not row.first else SpecMismatch
    if remedy is not None:
        return _error(parser, row, kind, words, remedy)
    if found is None:
        return _error(parser, row, kind, words, getattr(error, "advice", ""))
    value, column = found.group(1)[1:-1], int(found.group(3)) - 1
    return _error(parser, row, kind, words, *_of_value(parser, row, value.strip(), column))


def reason(error: ValueError) -> str:
    """Return numpy's words without the row, which counts within a piece of the file."""
    if isinstance(error, Lost):
        return f"column {error.column + 1}: {_shown(repr(error.text))} {error.why}"
    found = _NO_VALUE.search(str(error))
    if found is None:
        return re.sub(r" at row \d+", "", str(error)).split("; use `usecols`")[0].rstrip(".")
    text, dtype, column = found.groups()
    return f"column {column}: {_shown(text)} is no {dtype}"


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…{text[0]}"


_BINARY = (
    "it holds bytes that no text has, so this is a binary file. If it holds plain numbers one "
    "after another, read it with format='raw', dtype= and shape="
)


def nul_byte(path: str, line: int) -> BadFile:
    """Return the error for a line with a NUL."""
    return BadFile(f"{path}, line {line}: a NUL: {_BINARY}.", line=line)


def _is_binary(lines: Sequence[str]) -> bool:
    text = "".join(lines)[:4096]
    strange = sum(c < " " and c not in "\t\n\r\f\v\x1a\x1c\x1d\x1e\x1f" for c in text)
    return "\0" in text or strange * 20 > len(text)


def _error(parser: RowParser, row: Row, kind: type[ArraydError], *sentences: str) -> ArraydError:
    first, *more = (sentence.rstrip(".") for sentence in sentences if sentence)
    words = ". ".join([first, *(f"{sentence[0].upper()}{sentence[1:]}" for sentence in more)])
    return kind(f"{parser.path}, line {row.number}: {words}.", line=row.number)


# ---- trying ------------------------------------------------------------------------------


def _reads(parser: RowParser, lines: list[str], columns: int | None = None) -> bool:
    try:
        return len(parser.parse(lines, columns)) > 0
    except (ValueError, IndexError, TypeError):
        return False


def _reads_all(parser: RowParser, row: Row) -> bool:
    """Whether `parser` reads the row and those behind it."""
    return _reads(parser, row.lines) and (not row.after or _reads(parser, row.lines + row.after))


def _typed(parser: RowParser, column: int, dtype: DType) -> RowParser | None:
    """Return the parser with another type for one column."""
    if parser.dtype.names is None:
        return replace(parser, dtype=dtype)
    fields, at = [], 0
    for name in parser.dtype.names:
        field = parser.dtype[name]
        if at == column and field.names is None and not field.shape:
            field = dtype
        elif at <= column < at + values_in(field):
            return None
        fields.append((name, field))
        at += values_in(parser.dtype[name])
    return replace(parser, dtype=np.dtype(fields))


def _give(parser: RowParser, column: int, dtype: DType) -> str:
    words = dtype.str.lstrip("<|=")
    if parser.dtype.names is None:
        return f"pass dtype={words!r}"
    return f"give column {column + 1} the type {words}"


# ---- remedies for the whole row --------------------------------------------------------------


def _remedies(parser: RowParser, row: Row) -> Iterator[str]:
    """Yield what makes the row, or all behind a header, read: the smallest change first."""
    ways = list(_ways(parser, row))
    for words, changed, lines in ways:
        if words and _reads_all(changed, replace(row, lines=lines)):
            yield f"Pass {words}"
    for words, changed, lines in ways if row.first else ():
        skipped = _headers(changed, replace(row, lines=lines))
        if skipped:
            lead = f"{words} and " if words else ""
            what = "line is a header" if skipped == 1 else f"{skipped} lines are a header"
            yield f"If this {what}, pass {lead}skiprows={row.number + skipped - 1}"


def _ways(parser: RowParser, row: Row) -> Iterator[tuple[str, RowParser, list[str]]]:
    """Yield ways to read the row: in words, as a parser, and the text as that way decodes it."""
    lines, lead = row.lines, ""
    if row.first and lines[0].startswith(BOM):
        lines, lead = [lines[0][1:], *lines[1:]], "encoding='utf-8-sig'"
    text = "".join(lines)
    delimiter = parser.syntax.get("delimiter")
    quotes = [q for q in ('"', "'") if q in text and parser.syntax.get("quotechar") is None]
    for quote in (None, *quotes):
        for other in (delimiter, *_DELIMITERS) if row.first else (delimiter,):
            if other != delimiter and other is not None and other not in text:
                continue
            syntax = parser.syntax | ({"delimiter": other} if other != delimiter else {})
            syntax |= {"quotechar": quote} if quote else {}
            words = [lead] if lead else []
            words += [f"delimiter={other!r}"] if other != delimiter else []
            words += [f"quotechar={quote!r}"] if quote else []
            yield _and(words), replace(parser, syntax=syntax), lines
    width = _trailing(parser, lines) if row.first else 0
    if width:
        kept = tuple(range(width))
        words = [lead] if lead else []
        short = kept if width <= _LISTED else f"tuple(range({width}))"
        words += [f"usecols={short} (the last column is empty)"]
        yield _and(words), replace(parser, usecols=kept), lines


def _trailing(parser: RowParser, lines: list[str]) -> int:
    """Return how many columns there are before an empty last one; 0 if there is none such."""
    if parser.usecols is not None or parser.syntax.get("delimiter") is None:
        return 0
    fields = parser.fields(lines)
    return len(fields) - 1 if fields and not fields[-1].strip() else 0


def _headers(parser: RowParser, row: Row) -> int:
    """Return how many rows, this one included, are a header, behind which all read; 0: none."""
    lines, rows = row.lines, list(row.after)
    for skipped in range(1, _MOST_HEADERS):
        if not rows or not _is_header(parser.fields(lines)):
            return 0
        if _reads(parser, rows):
            return skipped
        lines = [rows.pop(0)]
    return 0


def _is_header(fields: list[str]) -> bool:
    """Whether a row names its columns: no value is, or was to be, a number."""
    texts = [field.strip().strip("\"'") for field in fields]
    return not any(t.lower() in _MISSING - {""} or _LIKE_A_NUMBER.match(t) for t in texts)


def _and(words: Sequence[str]) -> str:
    return " and ".join(words)


# ---- remedies for one value ------------------------------------------------------------------


def _lost(parser: RowParser, row: Row, error: Lost) -> Iterator[str]:
    """Yield how to have a value that does not fit."""
    ways = []
    if error.wider is not None:
        changed = _typed(parser, error.column, error.wider)
        if changed is not None and _reads(changed, row.lines):
            more = " or longer" if error.wider.kind in "SU" else ""
            ways.append(f"{_give(parser, error.column, error.wider)}{more}")
    if _reads(replace(parser, clip=True), row.lines):
        ways.append("pass overflow='clip' to have the nearest value that fits")
    words = ", or ".join(ways)
    yield words[:1].upper() + words[1:]


def _of_value(parser: RowParser, row: Row, value: str, column: int) -> Iterator[str]:
    """Yield what a value is, and how it is read; nothing that was not tried."""
    leaf = _leaf(parser.dtype, column)
    integer = integer_for(value)
    if integer is not None and leaf.kind in "iu":
        yield from _retyped(parser, row, column, integer, f"It does not fit {leaf}")
    elif value.lower() in _MISSING:
        yield "It stands for a missing value" if value else "The value is missing"
        yield from _missing(parser, row, column, leaf)
    elif leaf.kind in "iub" and _is_float(value):
        why = f"It does not fit {leaf}" if INTEGER.fullmatch(value) else "It is no integer"
        yield from _retyped(parser, row, column, np.dtype("f8"), why)
    elif leaf.kind in "iufc" and (what := _kind_of_number(value)):
        yield what
        yield from _as_text(parser, row, column)
    elif leaf.kind == "b" and value.lower() in _BOOLEAN:
        yield "Text has 0 and 1 for bool"
        yield from _as_text(parser, row, column)
    elif row.first:
        yield from _guessed(parser, row)


def _leaf(dtype: DType, column: int) -> DType:
    """Return the plain type of a column."""
    if dtype.subdtype is not None:
        base = dtype.subdtype[0]
        return _leaf(base, column % values_in(base))
    for name in dtype.names or ():
        if column < values_in(dtype[name]):
            return _leaf(dtype[name], column)
        column -= values_in(dtype[name])
    return dtype


def _kind_of_number(value: str) -> str:
    """Return in words how a number is written that numpy does not read; "" if it is none."""
    if _HEX.fullmatch(value):
        return "It is a hexadecimal number"
    if _FORTRAN.fullmatch(value):
        return "It has Fortran's exponent, D for E"
    if _THOUSANDS.fullmatch(value) and not _COMMA.fullmatch(value):
        return "It has separators of thousands"
    if _COMMA.fullmatch(value):
        return "It has a comma in the number: a decimal comma, or one between thousands"
    return "It is a number with a unit" if _UNIT.fullmatch(value) else ""


def _is_float(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _retyped(parser: RowParser, row: Row, column: int, dtype: DType, why: str) -> Iterator[str]:
    changed = _typed(parser, column, dtype)
    yield why
    if changed is not None and _reads(changed, row.lines):
        yield _give(parser, column, dtype)


def _missing(parser: RowParser, row: Row, column: int, leaf: DType) -> Iterator[str]:
    if leaf.kind in "iub":
        yield f"No {leaf} can say that"
    elif leaf.kind in "fc":
        yield "The text for that is nan"
    yield from _as_text(parser, row, column)


def _as_text(parser: RowParser, row: Row, column: int) -> Iterator[str]:
    """Yield how to have the column as text, which loses nothing."""
    texts = _texts(parser, row, column)
    letter = "S" if all(map(str.isascii, texts)) else "U"
    dtype = np.dtype(f"{letter}{max(8, *map(len, texts))}")
    changed = _typed(parser, column, dtype)
    if changed is None or not _reads(changed, row.lines):
        return
    if parser.dtype.names is None:
        yield f"{_give(parser, column, dtype)} to have the text, and convert that"
    else:
        yield f"{_give(parser, column, dtype)}, which keeps the text, and convert that"


def _texts(parser: RowParser, row: Row, column: int) -> list[str]:
    place = column if parser.usecols is None else parser.usecols[column]
    for lines in (row.lines + row.after, row.lines):
        try:
            return [fields[place] for fields in parser.table(lines)]
        except (ValueError, IndexError):
            continue
    return [""]


def _guessed(parser: RowParser, row: Row) -> Iterator[str]:
    """Yield a dtype of records for rows of words and numbers, where none was asked for."""
    if parser.dtype != np.dtype(np.float64) or parser.usecols is not None:
        return
    try:
        rows = parser.table(row.lines + row.after)
    except ValueError:
        return
    types, below = _types(rows), _types(rows[1:])
    skip = 0
    if _is_header(rows[0]) and below != types and set(below) & {"i8", "f8"}:
        types, skip = below, row.number
    lines = row.after if skip else row.lines + row.after
    dtype = np.dtype(",".join([*types, ""]))
    if 1 < len(types) <= 30 and _reads(replace(parser, dtype=dtype), lines):
        header = f", and, if this line is a header, skiprows={skip}" if skip else ""
        yield f"Say what the columns are: pass dtype={','.join(types)!r}{header}"


def _types(rows: list[list[str]]) -> list[str]:
    return [_type_of([text.strip() for text in column]) for column in zip(*rows, strict=True)]


def _type_of(texts: list[str]) -> str:
    """Return the type of a column; one of text has room for more."""
    if all(integer_for(text) for text in texts):
        return "i8"
    if all(map(_is_float, texts)):
        return "f8"
    return f"{'S' if all(map(str.isascii, texts)) else 'U'}{max(16, 2 * max(map(len, texts)))}"
