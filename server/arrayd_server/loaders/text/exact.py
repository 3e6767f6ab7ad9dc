"""A value is what the text says, or an error.

`numpy.loadtxt` cuts a string to its width, makes inf of 1e400 and true of 7, rounds the integer
16777217 in a float32, and takes a date to UTC or to whole seconds, all silently. Here numpy
parses into a *reading dtype* that shows what the dtype asked for would lose (S11 for S10, int64
for bool, the text itself for a date), and `narrow` takes the values from one to the other.
Only values that look suspicious are compared with their text, so this costs little.

Decimal fractions are rounded to the nearest value of a float, down to zero: that is what was
asked for.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from arrayd.common.casts.changes import values_in

Array = np.ndarray[Any, Any]
DType = np.dtype[Any]
TextOf = Callable[[int], list[str]]
"""Return the text of a column (counted among those of the dtype) in all rows."""

_DATE_LENGTH = 64  # characters; no date has more
INTEGER = re.compile(r"[+-]?[0-9]+")
_ZONE = re.compile(r"T.*[0-9](Z|[+-][0-9]{2}(:?[0-9]{2})?)", re.IGNORECASE)
_LONG_YEAR = re.compile(r"[0-9]{5,}")  # ISO 8601 has a sign before such years; 20200131 is a date
_UTC = re.compile(r".*(Z|[+-]00(:?00)?)", re.IGNORECASE)
_NO_DATES = ("now", "today")  # numpy takes them for the moment of the load


class Lost(ValueError):
    """A value that the dtype cannot hold as the text says it.

    Parameters
    ----------
    row, column
        Where, from 0: the row among those of the call, the column among those of the dtype.
    text
        The value.
    why
        What happens to it, after the words "column 1: 'text' ".
    wider
        A dtype that may hold it; None if there is none.
    """

    def __init__(
        self, row: int, column: int, text: str, why: str, wider: DType | None = None
    ) -> None:
        super().__init__(f"column {column + 1}: {text!r} {why}")
        self.row = row
        self.column = column
        self.text = text
        self.why = why
        self.wider = wider


@lru_cache
def reading(dtype: DType, *, integers_as_text: bool = False) -> DType:
    """Return the dtype in which text is parsed so that `narrow` can tell what is lost."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return np.dtype((reading(base, integers_as_text=integers_as_text), shape))
    if dtype.names is not None:
        fields = [(n, reading(dtype[n], integers_as_text=integers_as_text)) for n in dtype.names]
        return np.dtype(fields)
    if dtype.kind in "iub" and integers_as_text:
        return np.dtype(object)
    if dtype.kind in "SU":
        return np.dtype(f"{dtype.kind}{_length(dtype) + 1}")
    if dtype.kind == "M":
        return np.dtype(f"U{_DATE_LENGTH}")
    return np.dtype("i8") if dtype.kind == "b" else dtype


def holds_text(dtype: DType) -> bool:
    """Whether a field is S or U."""
    base = dtype.base
    return base.kind in "SU" or any(holds_text(base[name]) for name in base.names or ())


def narrow(
    wide: Array,
    dtype: DType,
    text_of: TextOf,
    *,
    clip: bool,
    inf: bool = False,
    bytes_: bool = False,
) -> Array:
    """Return `wide`, parsed as `reading` says, as `dtype`.

    Parameters
    ----------
    wide
        (rows, columns), or (rows,) of records.
    text_of
        Gives the text where it is needed.
    clip
        What does not fit becomes the nearest value that does, a longer text its beginning.
    inf
        A number that is beyond a float type is infinity.
    bytes_
        A character of the text is the byte of the file (latin1): S takes all of them.

    Raises
    ------
    Lost
        A value does not fit, or would not be what the text says.
    """
    rows = wide if wide.dtype == dtype else np.zeros(wide.shape, dtype)
    for names, columns in _fields(dtype, wide.shape[1] if wide.ndim > 1 else 1):
        values, out = wide, rows
        for name in names:
            values, out = values[name], out[name]
        if values.dtype.kind == "S" and not bytes_:
            _check_ascii(values, columns, text_of)
        _Column(values, out, columns, text_of, clip, inf).take()
    return rows


@lru_cache
def _fields(dtype: DType, columns: int) -> tuple[tuple[tuple[str, ...], Array], ...]:
    """Return each plain field: the way to it, and the columns that its values of a row are in."""
    if dtype.names is None:
        return (((), np.arange(columns)),)
    return tuple(_leaves(dtype, np.array(0)))


def _leaves(dtype: DType, first: Array) -> Iterator[tuple[tuple[str, ...], Array]]:
    """Yield the plain fields of records that begin at the columns `first`."""
    at = 0
    for name in dtype.names or ():
        field = dtype[name]
        steps = values_in(field.base) * np.arange(math.prod(field.shape))
        columns = (first[..., None] + at + steps).reshape(first.shape + field.shape)
        if field.base.names is None:
            yield (name,), columns
        for names, inner in _leaves(field.base, columns):
            yield (name, *names), inner
        at += values_in(field)


def _check_ascii(values: Array, columns: Array, text_of: TextOf) -> None:
    """Refuse characters that numpy would store in S as latin1, whatever the file's encoding."""
    flat = np.ascontiguousarray(values).view(np.uint8)
    if flat.size and flat.max() > 127:
        codes = flat.reshape(*values.shape, -1)
        row, *rest = np.argwhere((codes > 127).any(axis=-1))[0].tolist()
        column = int(columns[tuple(rest)])
        value = text_of(column)[row]
        why = "is not ASCII, and S holds bytes, not characters"
        raise Lost(row, column, value, why, np.dtype(f"U{len(value)}"))


class _Column:
    """One plain field on its way from the reading dtype to its own."""

    def __init__(
        self,
        values: Array,
        out: Array,
        columns: Array,
        text_of: TextOf,
        clip: bool,
        inf: bool,
    ) -> None:
        self._values = values
        self._out = out
        self._columns = columns
        self._text_of = text_of
        self._clip = clip
        self._inf = inf

    def take(self) -> None:
        kind = self._out.dtype.kind
        if self._values.dtype.kind == "O":
            self._take_long_integers()
        elif kind in "SU":
            self._take_text()
        elif kind in "fc":
            self._take_floats()
        elif kind == "b":
            self._take_flags()
        elif kind == "m":
            self._take_durations()
        elif kind == "M":
            self._take_dates()
        elif self._out is not self._values:
            self._out[...] = self._values

    def _take_text(self) -> None:
        length, unit = _length(self._out.dtype), 4 if self._out.dtype.kind == "U" else 1
        further = self._values.getfield(f"u{unit}", length * unit)
        if not self._clip:
            for at, text in self._texts(further != 0):
                words = f"does not fit {_words(self._out.dtype)}, which would cut it"
                self._lose(at, text, words, np.dtype(f"{self._out.dtype.kind}{len(text)}"))
        self._out[...] = self._values

    def _take_floats(self) -> None:
        if self._out is not self._values:
            self._out[...] = self._values
        parts = [self._out.real, self._out.imag] if self._out.dtype.kind == "c" else [self._out]
        for part in parts:
            self._judge_floats(
                np.abs(part) >= np.ldexp(part.dtype.type(1), np.finfo(part.dtype).nmant + 1), part
            )

    def _judge_floats(self, suspects: Array, out: Array) -> None:
        """Compare with their text the floats beyond which not every integer is one."""
        limits = np.finfo(out.dtype)
        for at, text in self._texts(suspects):
            value = out[at]
            if np.isinf(value):
                if self._inf or "inf" in text.lower():
                    continue
                if not self._clip:
                    words = f"does not fit {_words(self._out.dtype)} (up to {limits.max})"
                    self._lose(at, text, words, _wider_float(self._out.dtype))
                out[at] = np.copysign(limits.max, value)
            elif not self._clip and INTEGER.fullmatch(text) and int(text) != int(value):
                words = f"is an integer that {_words(self._out.dtype)} holds as {int(value)}"
                self._lose(at, text, words, integer_for(text) or _wider_float(self._out.dtype))

    def _take_flags(self) -> None:
        if not self._clip:
            for at, text in self._texts((self._values != 0) & (self._values != 1)):
                self._lose(at, text, "is no bool (0 or 1)", integer_for(text))
        self._out[...] = self._values > 0

    def _take_durations(self) -> None:
        values, most = self._values, np.iinfo(np.int64).max
        for at, text in self._texts(np.isnat(values) | (values.astype(np.int64) == most)):
            if not INTEGER.fullmatch(text) or int(text) == most:
                continue
            if not self._clip:
                self._lose(at, text, f"does not fit {_words(self._out.dtype)} (64 bits)")
            nearest = -most if text.startswith("-") else most
            values[at] = np.int64(nearest).view(values.dtype)
        if self._out is not values:
            self._out[...] = values

    def _take_long_integers(self) -> None:
        """Take integers as text, of which some may be beyond the 64 bits that numpy reads."""
        kind = self._out.dtype
        low, high = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
        for at, text in self._texts(np.ones(self._values.shape, np.bool_)):
            if not INTEGER.fullmatch(text):
                self._lose(at, text, f"is no {_words(kind)}")
            self._out[at] = min(max(int(text), low), high)

    def _take_dates(self) -> None:
        unlike: dict[DType, list[tuple[tuple[int, ...], str, np.datetime64]]] = {}
        for at, text in self._texts(np.ones(self._values.shape, np.bool_)):
            date = self._date(at, text)
            if np.isnat(date):
                self._out[at] = date
                continue
            unlike.setdefault(date.dtype, []).append((at, text, date))
        for unit, many in unlike.items():
            dates = np.array([date for _, _, date in many], unit)
            found = _as_dates(dates, self._out.dtype)
            back = _as_dates(found, unit)
            for i in np.flatnonzero(dates != back):
                at, text, date = many[i]
                finer = np.can_cast(self._out.dtype, unit, "safe")
                if not self._clip:
                    words = f"does not fit {_words(self._out.dtype)}"
                    words += ", which would cut it" if finer else ": beyond its 64 bits"
                    self._lose(at, text, words, unit)
                if not finer:
                    most = np.iinfo(np.int64).max
                    late = date > np.datetime64(0, "s")
                    found[i] = np.int64(most if late else -most).view(found.dtype)
            for (at, _, _), value in zip(many, found, strict=True):
                self._out[at] = value

    def _date(self, at: tuple[int, ...], text: str) -> np.datetime64:
        """Return the date in the unit of its text; numpy reads it."""
        if _ZONE.search(text) and not _UTC.fullmatch(text):
            self._lose(at, text, "has a time zone, which datetime64 has not (all is UTC)")
        if _LONG_YEAR.fullmatch(text):
            self._lose(at, text, f"is the year {int(text)} to numpy; a date is written 2020-01-31")
        if len(text) >= _DATE_LENGTH or text.lower() in _NO_DATES:
            self._lose(at, text, f"is no {_words(self._out.dtype)}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that Z is no word of numpy's
                return np.datetime64(text)
        except ValueError:
            self._lose(at, text, f"is no {_words(self._out.dtype)}")

    def _texts(self, which: Array) -> Iterator[tuple[tuple[int, ...], str]]:
        """Yield index and text of the values that `which` chooses."""
        if not which.any():
            return
        blanks = "" if self._out.dtype.kind in "SU" else None  # which are part of a text
        for index in np.argwhere(which).tolist():
            row, *rest = index
            yield tuple(index), self._text_of(int(self._columns[tuple(rest)]))[row].strip(blanks)

    def _lose(
        self, at: tuple[int, ...], text: str, why: str, wider: DType | None = None
    ) -> NoReturn:
        raise Lost(at[0], int(self._columns[at[1:]]), text, why, wider)


def integer_for(text: str) -> DType | None:
    """Return the integer type of 64 bits, or less, that holds what `text` says; None: none."""
    if not INTEGER.fullmatch(text):
        return None
    for name in ("i4", "i8", "u8"):
        limits = np.iinfo(name)
        if limits.min <= int(text) <= limits.max:
            return np.dtype(name)
    return None


def _wider_float(dtype: DType) -> DType | None:
    wide = np.dtype("f8" if dtype.kind == "f" else "c16")
    return wide if dtype.itemsize < wide.itemsize else None


def _as_dates(dates: Array, dtype: DType) -> Array:
    """Convert between units; what 64 bits cannot hold becomes another date, or NaT."""
    try:
        return dates.astype(dtype)
    except (OverflowError, ValueError):  # newer numpy says it
        return np.array([_as_date(date, dtype) for date in dates], dtype)


def _as_date(date: np.datetime64, dtype: DType) -> np.datetime64:
    try:
        return date.astype(dtype)
    except (OverflowError, ValueError):
        missing: np.datetime64 = np.array(["NaT"], dtype)[0]  # with its unit, as numpy 2.5 wants
        return missing


def _length(dtype: DType) -> int:
    return dtype.itemsize // (4 if dtype.kind == "U" else 1)


def _words(dtype: DType) -> str:
    return dtype.str.lstrip("<|=") if dtype.kind in "SU" else str(dtype)
