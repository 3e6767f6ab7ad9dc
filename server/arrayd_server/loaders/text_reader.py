"""What a request for text means to `numpy.loadtxt`, and its errors told by line.

`Reader` holds the options of one request, checked by numpy itself before a byte is
read, and parses lines with `numpy.loadtxt`: no number is ever parsed by our own code.
"""

from __future__ import annotations

import codecs
import io
import locale
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from arrayd.errors import BadFile, SpecMismatch
from arrayd.source import Source
from arrayd_server.loaders.checks import check_options
from arrayd_server.loaders.padding import clear_padding
from arrayd_server.loaders.text_open import Lines
from arrayd_server.loaders.text_scan import Rule

OPTIONS = (
    "comments",
    "delimiter",
    "encoding",
    "max_rows",
    "ndmin",
    "quotechar",
    "skiprows",
    "unpack",
    "usecols",
)
"""The options of `numpy.loadtxt` that a source may carry (``converters`` cannot travel)."""

_PLAIN_ENCODINGS = frozenset(("ascii", "utf-8", "iso8859-1"))
_NO_VALUE = re.compile(r"could not convert string (.*) to (.*) at row \d+, column (\d+)", re.DOTALL)
_SHOWN = 60

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Reader:
    """One request for a text file.

    Parameters
    ----------
    path, dtype
        As in the source; `dtype` is float64 where it names none.
    syntax
        ``comments``, ``delimiter`` and ``quotechar``, as `numpy.loadtxt` takes them.
    usecols, skiprows, max_rows, ndmin, unpack
        As in `numpy.loadtxt`.
    encoding
        Canonical name of the codec; where none is asked for, that of the locale.
    """

    path: str
    dtype: np.dtype[Any]
    syntax: dict[str, Any]
    usecols: tuple[int, ...] | None
    skiprows: int
    max_rows: int | None
    ndmin: int
    unpack: bool
    encoding: str

    @classmethod
    def of(cls, source: Source) -> Self:
        """Return the reader for `source`.

        Raises
        ------
        SpecMismatch
            An option is unknown or has a value that `numpy.loadtxt` refuses.
        """
        dtype = np.dtype(np.float64) if source.dtype is None else source.dtype
        options = source.option
        _check(source, dtype, options)
        usecols = options.get("usecols")
        return cls(
            path=source.path,
            dtype=dtype,
            syntax={k: options[k] for k in ("comments", "delimiter", "quotechar") if k in options},
            usecols=(usecols,) if isinstance(usecols, int) else usecols,
            skiprows=options.get("skiprows", 0),
            max_rows=options.get("max_rows"),
            ndmin=options.get("ndmin", 0),
            unpack=bool(options.get("unpack")),
            encoding=_codec(source.path, options.get("encoding")),
        )

    @property
    def rule(self) -> Rule | None:
        """Return how to find rows in the bytes; None: only numpy can tell."""
        comments = _strings(self.syntax.get("comments", "#")) or [""]
        if (
            len(comments) > 1
            or len(comments[0]) > 1
            or not comments[0].isascii()
            or self.syntax.get("quotechar") is not None
            or self.encoding not in _PLAIN_ENCODINGS
        ):
            return None
        return Rule(comments[0], self.syntax.get("delimiter") is None, self.encoding)

    @property
    def finds_columns(self) -> bool:
        """Whether the first row decides how many columns there are."""
        return self.dtype.names is None and self.usecols is None

    @property
    def columns_of_nothing(self) -> int:
        """How many columns `numpy.loadtxt` gives an array without rows."""
        return 1 if self.usecols is None else len(self.usecols)

    def parse(
        self, lines: Iterable[str], columns: int | None = None, max_rows: int | None = None
    ) -> Array:
        """Return what `numpy.loadtxt` reads from `lines`: (rows, columns), or (rows,) of records.

        Raises
        ------
        ValueError
            As `numpy.loadtxt`, also if there are rows and not `columns` columns; `blame`
            turns it into an error for people.
        """
        rows = _loadtxt(
            lines,
            dtype=self.dtype,
            ndmin=1 if self.dtype.names else 2,
            usecols=self.usecols,
            max_rows=max_rows,
            **self.syntax,
        )
        if columns is not None and self.finds_columns and len(rows) and rows.shape[1] != columns:
            raise ValueError("the number of columns changed")
        return clear_padding(rows)

    def count(self, lines: Iterable[str], max_rows: int) -> int:
        """Return how many rows, at most `max_rows`, `numpy.loadtxt` finds in `lines`."""
        # Every row has a column 0, and every text is a U1: nothing can fail but the syntax.
        return len(
            _loadtxt(lines, dtype="U1", ndmin=2, usecols=0, max_rows=max_rows, **self.syntax)
        )

    def columns(self, lines: Iterable[str]) -> int:
        """Return how many columns the first row in `lines` has; 0 if there is no row."""
        row = _loadtxt(lines, dtype="U1", ndmin=2, max_rows=1, **self.syntax)
        return row.shape[1] if len(row) else 0

    def check_first(self, lines: list[str], first: int) -> int:
        """Read the first row, in `lines` from number `first` on; return how many columns it gives.

        Raises
        ------
        SpecMismatch
            The columns of the file are not those of the request.
        BadFile
            A value is not of the dtype.
        """
        found = self.columns(lines)
        needed = _flat(self.dtype) if self.dtype.names else found
        line = first + len(lines) - 1
        if self.usecols is None and needed != found:
            raise SpecMismatch(
                f"{self.path}, line {line}: {found} columns, but the dtype has {needed}: "
                f"{_fields(self.dtype)}. Give a dtype with {found} fields, or choose the columns "
                "with usecols=.",
                line=line,
                columns=found,
            )
        for column in self.usecols or ():
            if not -found <= column < found:
                raise SpecMismatch(
                    f"{self.path}, line {line}: {found} columns, but usecols= asks for column "
                    f"{column} (columns count from 0).",
                    line=line,
                    columns=found,
                )
        try:
            self.parse(lines)
        except ValueError as error:
            reason = f"{_reason(error)}. If this line is a header, skip it with skiprows={line}."
            raise BadFile(f"{self.path}, line {line}: {reason}", line=line) from None
        return needed if self.usecols is None else len(self.usecols)

    def blame(self, lines: Iterable[str], first: int, columns: int) -> BadFile:
        """Return the error for `lines`, the first of which is number `first` of the file.

        They are read once more, one by one, so that the number of the line is exact
        whatever comments and blank lines are among them.
        """
        again = list(lines)
        taken = Lines(again, first)
        found = self.columns(taken)
        if self.finds_columns and found not in (0, columns):
            reason = f"the number of columns changed from {columns} to {found}"
        else:
            taken = Lines(again, first)
            try:
                self.parse(taken)
                reason = "it reads well now: the file changed while it was read"
            except ValueError as error:
                reason = _reason(error)
        return BadFile(f"{self.path}, line {taken.number}: {reason}.", line=taken.number)


def _loadtxt(lines: Iterable[str], **options: Any) -> Array:
    with warnings.catch_warnings():
        # No data, blank lines among max_rows, integers by way of floats (older numpy): each is
        # news to somebody at a prompt, here a fact of a piece of the file.
        warnings.simplefilter("ignore")
        return np.loadtxt(lines, **options)


def _check(source: Source, dtype: np.dtype[Any], options: dict[str, Any]) -> None:
    """Refuse what `numpy.loadtxt` refuses, and the little that cannot be one array in memory."""
    check_options(source, OPTIONS)
    if source.member is not None:
        raise SpecMismatch(f"{source.path}: a text file has no members ({source.member!r}).")
    if dtype.hasobject:
        raise SpecMismatch(f"{source.path}: dtype {dtype} holds Python objects.")
    if dtype.names is None and (dtype.str[1:] in ("S0", "U0", "M8")):
        raise SpecMismatch(
            f"{source.path}: dtype {dtype.str[1:]!r} has no size: text is read in pieces, so give "
            "it: S12, U12 or M8[s], for instance."
        )
    if dtype.names and options.get("unpack"):
        raise SpecMismatch(
            f"{source.path}: unpack=True gives one array per field. Load the records "
            "and take the fields: a['name'] is a view."
        )
    try:
        _strings(options.get("comments"))
        _loadtxt([], dtype=dtype, **{k: v for k, v in options.items() if k != "encoding"})
    except (TypeError, ValueError, OverflowError) as error:
        raise SpecMismatch(f"{source.path}: np.loadtxt refuses this: {error}") from None


def _strings(comments: Any) -> list[str]:
    """Return the comment markers as `numpy.loadtxt` sees them."""
    if comments is None:
        return []
    many = [comments] if isinstance(comments, (str, bytes)) else list(comments)
    found = [c.decode("latin1") if isinstance(c, bytes) else c for c in many]
    if not all(isinstance(c, str) for c in found):
        raise TypeError(f"comments must be strings, not {comments!r}")
    return found


def _codec(path: str, encoding: Any) -> str:
    """Return the name of the codec; ``"bytes"`` is numpy's old word for the default."""
    if encoding in (None, "bytes", "locale"):
        encoding = locale.getpreferredencoding(False)
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)  # refuses the codecs that are not for text
        return codecs.lookup(encoding).name
    except (LookupError, TypeError, ValueError):
        raise SpecMismatch(f"{path}: encoding={encoding!r} is no text encoding.") from None


def _flat(dtype: np.dtype[Any]) -> int:
    """Return how many columns `dtype` takes: records and subarrays count by their leaves."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return int(np.prod(shape, dtype=int)) * _flat(base)
    if dtype.names is None:
        return 1
    return sum(_flat(dtype[name]) for name in dtype.names)


def _fields(dtype: np.dtype[Any]) -> str:
    return ", ".join(
        f"{name}:{dtype[name].str if dtype[name].subdtype is None else dtype[name]}"
        for name in dtype.names or ()
    )


def _reason(error: ValueError) -> str:
    """Return numpy's words without the row, which counts within a piece of the file."""
    found = _NO_VALUE.search(str(error))
    if found is None:
        return re.sub(r" at row \d+", "", str(error)).rstrip(".")
    text, dtype, column = found.groups()
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…{text[0]}"
    return f"column {column}: {text} is no {dtype}"
