"""Lists of files, one sample each: a text that people write and other programs make.

Two forms are read, both UTF-8; bytes that are none come out as `os.fsdecode` has them:

- one path per line. All of the line is the path, blanks and commas included; only a line that
  begins and ends with ``"`` is unquoted, as in CSV.
- CSV, with a first line that names the columns, one of them ``path`` (or ``file``, ``filename``):
  separated by tabs, commas or semicolons, quoted as `csv` does. The other columns belong to the
  samples: a label, a group. A column without a name (pandas writes its index so) is left out.

Empty lines are skipped, and those whose first character is ``#``: a file of such a name is written
``./#1``. A relative path is relative to the folder of the list, so a list moves with its files.

A path may stand there twice, on purpose (a rare class counts double) or by mistake (two lists were
joined). Each entry is a row of its own, and a `RepeatedPathWarning` says so, for a split by
row may put one to the training and the other to the test.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from arrayd.errors import AccessDenied, BadFile, SourceNotFound

Array = np.ndarray[Any, Any]

PATH_COLUMNS = ("path", "file", "filename")
"""Names of the column with the paths; the first that there is."""

DELIMITERS = ("\t", ",", ";")
_OF_SUFFIX = {".csv": ",", ".tsv": "\t"}
_PEEK = 64 << 10  # bytes in which the first entry of a list is looked for
_AT_ONCE = 500  # lines: fewer lists than wake the garbage collector, which would look at all names
_SHOWN = 60  # characters of a line in an error


class RepeatedPathWarning(UserWarning):
    """A list names a file more than once."""


@dataclass(frozen=True, slots=True)
class FileList:
    """What a list says.

    Parameters
    ----------
    paths
        Absolute, in the order of the list.
    columns
        Of the other columns, by name: an array each with one entry for each path, int64, float64
        or text. Numbers with leading zeros, and columns with an empty entry, are text.
    """

    paths: list[str]
    columns: dict[str, Array]


@dataclass(frozen=True, slots=True)
class _Form:
    """How a list is written: the delimiter (None: a line is a path) and the names of columns."""

    delimiter: str | None
    header: tuple[str, ...] | None

    @property
    def path_column(self) -> int:
        """Return where the paths are."""
        names = [name.lower() for name in self.header or PATH_COLUMNS[:1]]
        return next(names.index(name) for name in PATH_COLUMNS if name in names)


def read_list(path: str | os.PathLike[str]) -> FileList:
    """Return the paths in the list at `path`, and its columns.

    Raises
    ------
    SourceNotFound, AccessDenied
        The list cannot be read.
    BadFile
        It has no entry, a line with too few or too many columns, two columns of one name.

    Warns
    -----
    RepeatedPathWarning
        A path stands there more than once.
    """
    place = os.path.abspath(os.fspath(path))
    text = _decoded(place, _read(place))
    form = _form(place, text)
    names, columns = _table(place, text, form) if form.delimiter else (_plain(text), {})
    if not names:
        raise BadFile(
            f"{place}: this list names no file. Write one path per line, or make it with "
            "`arrayd list FOLDER -o LIST`."
        )
    folder = os.path.join(os.path.dirname(place), "")
    paths = [name if name[:1] == "/" else folder + name for name in names]
    _warn_of_repeated(place, paths)
    return FileList(paths, {name: _typed(values) for name, values in columns.items()})


def first_entry(path: str) -> tuple[bool, str] | None:
    """Return whether a text has the header of a list, and the absolute path of its first entry.

    It may be no list at all, and the entry no file: then the text is data. None: it has no
    entry, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_PEEK)
        whole = head[: head.rfind(b"\n")] if len(head) == _PEEK else head
        text = _decoded(path, whole)
        form = _form(path, text)
        if form.delimiter is None:
            name = _plain(text)[0]
        else:
            name = next(_rows(text, form))[1][form.path_column]
    except (OSError, BadFile, csv.Error, LookupError, StopIteration):
        return None
    return form.header is not None, os.path.join(os.path.dirname(path), name)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise SourceNotFound(f"{path}: no such list.") from None
    except PermissionError:
        raise AccessDenied(f"{path}: you may not read this list.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadFile(f"{path!r} cannot be read as a list: {reason}.") from None


def _decoded(path: str, data: bytes) -> str:
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise BadFile(
            f"{path}, line {line}: a list is text in UTF-8, and this has zero bytes. It is another "
            "file, or text in UTF-16: save it as UTF-8."
        )
    return data.decode("utf-8-sig", "surrogateescape")


def _form(path: str, text: str) -> _Form:
    """Return how a list is written, by its first line that counts and its suffix."""
    line = next(_counting(io.StringIO(text, newline="\n")), (1, ""))[1].rstrip("\r\n")
    for delimiter in DELIMITERS:
        names = _names(line, delimiter)
        if not {name.lower() for name in names}.isdisjoint(PATH_COLUMNS):
            twice = {name for name in names if name and names.count(name) > 1}
            if twice:
                raise BadFile(
                    f"{path}: its first line names the column {min(twice)!r} twice. Rename one."
                )
            return _Form(delimiter, names)
    return _Form(_OF_SUFFIX.get(os.path.splitext(path)[1].lower()), None)


def _names(line: str, delimiter: str) -> tuple[str, ...]:
    """Return the entries of a first line; none where it is no CSV, and so no header."""
    try:
        return tuple(name.strip() for name in next(csv.reader([line], delimiter=delimiter), ()))
    except csv.Error:
        return ()


def _reader(lines: Iterable[str], delimiter: str) -> Any:
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _counting(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines that count, each with its number; within quotes all do."""
    inside = False
    for number, line in enumerate(lines, 1):
        if inside or not (line[:1] == "#" or line.isspace()):
            yield number, line
            if '"' in line:
                inside ^= line.count('"') % 2 == 1


def _plain(text: str) -> list[str]:
    return [_unquoted(line) if line[0] == '"' else line for line in _single_lines(text)]


def _single_lines(text: str) -> list[str]:
    """Return the lines that count, where no quoted entry goes over several lines."""
    lines = text.replace("\r\n", "\n").split("\n")
    return [line for line in lines if line and line[0] != "#" and not line.isspace()]


def _unquoted(line: str) -> str:
    whole = len(line) > 1 and line[-1] == '"'
    return line[1:-1].replace('""', '"') if whole else line


def _rows(text: str, form: _Form) -> Iterator[tuple[int, list[str]]]:
    """Yield the entries of a table, each with the number of its last line."""
    last = 0

    def lines() -> Iterator[str]:
        nonlocal last
        for number, line in _counting(io.StringIO(text, newline="\n")):
            last = number
            yield line

    assert form.delimiter is not None
    reader = _reader(lines(), form.delimiter)
    if form.header is not None:
        next(reader)
    for row in reader:
        yield last, row


def _quick_rows(text: str, form: _Form) -> Iterator[list[str]]:
    """Return the entries of a table without quotes, five times as fast as `_rows`."""
    lines = _single_lines(text)
    assert form.delimiter is not None
    rows: Iterator[list[str]] = _reader(lines, form.delimiter)
    return itertools.islice(rows, int(form.header is not None), None)


def _table(path: str, text: str, form: _Form) -> tuple[list[str], dict[str, list[str]]]:
    """Return the paths and the other columns of a table, as text."""
    header = form.header or PATH_COLUMNS[:1]
    columns: list[list[str]] = [[] for _ in header]
    rows = _quick_rows(text, form) if '"' not in text else (row for _, row in _rows(text, form))
    try:
        while some := list(itertools.islice(rows, _AT_ONCE)):
            if {len(header)} != set(map(len, some)):
                _refuse_width(path, text, form, len(header))
            for column, entries in zip(columns, zip(*some, strict=True), strict=True):
                column.extend(entries)
    except csv.Error as error:
        raise BadFile(
            f"{path}: it is no CSV ({error}). Is a quote not closed? A name that has quotes is "
            'written "like ""this""".'
        ) from None
    names = columns[form.path_column]
    if "" in names:
        number = next(line for line, row in _rows(text, form) if not row[form.path_column])
        raise BadFile(f"{path}, line {number}: there is no path. Fill it in or remove the line.")
    others = (one for one in enumerate(header) if one[0] != form.path_column and one[1])
    return names, {name: columns[at] for at, name in others}


def _refuse_width(path: str, text: str, form: _Form, width: int) -> NoReturn:
    number, row = next(one for one in _rows(text, form) if len(one[1]) != width)
    words = str(form.delimiter).join(row)[:_SHOWN]
    begin = f"{path}, line {number}: {len(row)} columns ({words!r})"
    if form.header is None:
        raise BadFile(
            f"{begin}, and no first line that names them. Write one, such as `path,label`; or put "
            "quotes around a path that has a comma."
        )
    raise BadFile(
        f"{begin} where the first line names {width}: {', '.join(form.header)}. "
        + ("Add what is missing." if len(row) < width else "Put quotes around what has a comma.")
    )


def _typed(values: Sequence[str]) -> Array:
    """Return a column as int64, float64 or text, whichever all its entries are."""
    entries = list(map(str.strip, values))
    # Python reads 1_000 as a number, nobody else does; and 007 is a name.
    named = re.search(r"_|(?:^|\n)0\d+(?:\n|$)", "\n".join(entries))
    for kind in () if named else (int, float):
        try:
            return np.array(list(map(kind, entries)), np.int64 if kind is int else np.float64)
        except OverflowError:  # a number of 20 digits is a name: a float would round it
            break
        except ValueError:
            continue
    return np.array(entries, np.str_)


def _warn_of_repeated(path: str, paths: Sequence[str]) -> None:
    different = len(set(paths))
    if different == len(paths):
        return
    seen: set[str] = set()
    first = next(one for one in paths if one in seen or seen.add(one))  # type: ignore[func-returns-value]
    words = (
        f"{path}: {len(paths) - different} of its {len(paths)} entries name a file that stands "
        f"there before, the first of them {first}. Each is a row of its own; split(group=…) keeps "
        "equal ones together."
    )
    warnings.warn(words.encode("utf-8", "backslashreplace").decode(), RepeatedPathWarning, 3)
