"""What a request for text means to `numpy.loadtxt`.

`RowParser` holds the options of one request, checked by numpy itself before a byte is
read, and parses lines with `numpy.loadtxt`. Where a request may be read by compiled code as well
(`plain_rows`), this is what that must agree with.
"""

from __future__ import annotations

import codecs
import io
import locale
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np

from arrayd.common.casts.padding import clear_padding
from arrayd.errors import SpecMismatch
from arrayd.source import Source
from arrayd_server.loaders.text.exact import narrow, reading
from arrayd_server.loaders.text.opening import Lines
from arrayd_server.loaders.text.plain_rows import PlainRows
from arrayd_server.loaders.text.row_scan import Rule
from arrayd_server.loaders.validation import check_options

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
_BYTE_ENCODINGS = frozenset(("iso8859-1", "cp1252"))  # what numpy takes into S is the byte

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class RowParser:
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
    clip
        A value that does not fit becomes the nearest one that does.
    inf
        A value beyond a float type is infinity, as to `numpy.loadtxt`.
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
    clip: bool
    inf: bool = False

    @classmethod
    def of(cls, source: Source) -> Self:
        """Return the parser for `source`.

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
            clip=source.overflow == "clip",
            inf=source.overflow == "inf",
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

    def plain_rows(self, columns: int) -> PlainRows | None:
        """Return the compiled parser for plain rows that give `columns` columns; None: numpy's."""
        rule = self.rule
        if rule is None:
            return None
        delimiter = self.syntax.get("delimiter")
        return PlainRows.of(
            *(self.dtype, columns),
            delimiter=delimiter,
            comment=rule.comment,
            usecols=self.usecols,
        )

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
            As `numpy.loadtxt`, also if there are rows and not `columns` columns;
            `row_checks.find_error` turns it into an error for people.
        """
        try:
            wide = self._load(lines, reading(self.dtype), max_rows)
        except ValueError:
            if not self.clip:
                raise
            # Perhaps an integer that only Python can hold: once more, and they come as text.
            wide = self._load(_again(lines), reading(self.dtype, integers_as_text=True), max_rows)
        if columns is not None and self.finds_columns and len(wide) and wide.shape[1] != columns:
            raise ValueError("the number of columns changed")

        @cache
        def texts(column: int) -> list[str]:
            place = column if self.usecols is None else self.usecols[column]
            found = _loadtxt(
                _again(lines),
                dtype=object,
                ndmin=1,
                usecols=place,
                max_rows=max_rows,
                **self.syntax,
            )
            values: list[str] = found.tolist()
            return values

        bytes_ = self.encoding in _BYTE_ENCODINGS
        rows = narrow(wide, self.dtype, texts, clip=self.clip, inf=self.inf, bytes_=bytes_)
        return clear_padding(rows)

    def _load(self, lines: Iterable[str], dtype: np.dtype[Any], max_rows: int | None) -> Array:
        return _loadtxt(
            lines,
            dtype=dtype,
            ndmin=1 if dtype.names else 2,
            usecols=self.usecols,
            max_rows=max_rows,
            **self.syntax,
        )

    def count(self, lines: Iterable[str], max_rows: int) -> int:
        """Return how many rows, at most `max_rows`, `numpy.loadtxt` finds in `lines`."""
        # Every row has a column 0, and every text is a U1: nothing can fail but the syntax.
        return len(
            _loadtxt(lines, dtype="U1", ndmin=2, usecols=0, max_rows=max_rows, **self.syntax)
        )

    def fields(self, lines: Iterable[str]) -> list[str]:
        """Return the text of each column of the first row in `lines`; none if there is no row."""
        rows = self.table(lines, 1)
        return rows[0] if rows else []

    def table(self, lines: Iterable[str], max_rows: int | None = None) -> list[list[str]]:
        """Return the text of all columns of `lines`.

        Raises
        ------
        ValueError
            The rows have not equally many columns.
        """
        found = _loadtxt(lines, dtype=object, ndmin=2, max_rows=max_rows, **self.syntax)
        rows: list[list[str]] = found.tolist()
        return rows


def _again(lines: Iterable[str]) -> Iterable[str]:
    """Return lines once more that were read already."""
    return lines.taken if isinstance(lines, Lines) else lines


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
