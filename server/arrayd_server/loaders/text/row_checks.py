"""Which row does not read: the first one against the request, any other when numpy refuses it.

The row is found by its number in the file; `diagnose` then says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from arrayd.common.casts.changes import values_in
from arrayd.errors import ArraydError
from arrayd_server.loaders.text.diagnose import BOM, Row, WrongColumns, diagnose, nul_byte
from arrayd_server.loaders.text.exact import Lost, holds_text
from arrayd_server.loaders.text.opening import Lines
from arrayd_server.loaders.text.parser import RowParser
from arrayd_server.loaders.text.row_scan import line_ends

_QUOTED_LINES = 20  # of one row, at most, that a remedy is tried on


def check_text(parser: RowParser, text: str | bytes, first: int) -> None:
    """Refuse a NUL where a column is text: numpy's strings cannot end with one.

    Parameters
    ----------
    first
        Number of the line at which `text` begins.

    Raises
    ------
    BadFile
    """
    at = text.find("\0") if isinstance(text, str) else text.find(b"\0")
    if at >= 0 and holds_text(parser.dtype):
        before = text[:at].encode() if isinstance(text, str) else text[:at]
        raise nul_byte(parser.path, first + line_ends(before))


def check_first(
    parser: RowParser, lines: list[str], first: int, after: Callable[[], list[str]]
) -> int:
    """Read the first row, in `lines` from number `first` on; return how many columns it gives.

    Parameters
    ----------
    after
        Gives some lines that follow, on which a remedy is tried.

    Raises
    ------
    SpecMismatch
        The columns of the file are not those of the request.
    BadFile
        A value is not of the dtype.
    CastError
        A value does not fit the dtype.
    """
    found = len(parser.fields(lines))
    needed = values_in(parser.dtype) if parser.dtype.names else found
    try:
        _check_columns(parser, found, needed)
        if lines[0].startswith(BOM):
            raise WrongColumns("the text begins with a byte order mark (BOM)")
        parser.parse(lines)
    except ValueError as error:
        row = Row(lines, first + len(lines) - 1, after(), first=True)
        raise diagnose(parser, row, error) from None
    return needed if parser.usecols is None else len(parser.usecols)


def _check_columns(parser: RowParser, found: int, needed: int) -> None:
    """Raise WrongColumns if a row with `found` columns is not what was asked for."""
    if parser.usecols is None and needed != found:
        raise WrongColumns(
            f"{found} columns, but the dtype has {needed}: {_fields(parser.dtype)}",
            f"Give a dtype with {found} fields, or choose the columns with usecols=",
        )
    for column in parser.usecols or ():
        if not -found <= column < found:
            raise WrongColumns(
                f"{found} columns, but usecols= asks for column {column} (columns count from 0)"
            )


def find_error(parser: RowParser, lines: Iterable[str], first: int, columns: int) -> ArraydError:
    """Return the error for `lines`, the first of which is number `first` of the file.

    They are read once more, so that the number of the line is exact whatever comments and
    blank lines are among them.
    """
    again = list(lines)
    taken = Lines(again, first)
    found = len(parser.fields(taken))
    error: ValueError
    if parser.finds_columns and found not in (0, columns):
        error = ValueError(f"the number of columns changed from {columns} to {found}")
        return diagnose(parser, Row(taken.taken[-1:], taken.number, [], first=False), error)
    taken = Lines(again, first)
    try:
        parser.parse(taken)
        error = ValueError("it reads well now: the file changed while it was read")
    except Lost as lost:
        error, taken = lost, Lines(again, first)
        parser.count(taken, lost.row + 1)
    except ValueError as refused:
        error = refused
    row = Row(_last_row(parser, taken.taken), taken.number, [], first=False)
    return diagnose(parser, row, error)


def _last_row(parser: RowParser, lines: list[str]) -> list[str]:
    """Return the lines of the last row: more than one where a quoted value has line ends."""
    for start in range(len(lines) - 1, max(-1, len(lines) - _QUOTED_LINES), -1):
        try:
            if parser.count(lines[start:], 2) == 1:
                return lines[start:]
        except ValueError:
            continue
    return lines[-1:]


def _fields(dtype: np.dtype[Any]) -> str:
    return ", ".join(
        f"{name}:{dtype[name].str if dtype[name].subdtype is None else dtype[name]}"
        for name in dtype.names or ()
    )
