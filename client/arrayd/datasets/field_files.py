"""Which files the sources of a dataset mean: paths, globs, lists of files, several of these.

A list of files, where each file is one row, is told from a text of numbers so: ``list=`` says it;
else a file whose suffix is ``.txt``, ``.csv`` or ``.tsv`` is a list if its first entry names a file
that exists and is no number, or if its first line names a column ``path`` (``file``, ``filename``)
and no options of text are given. A ``.lst`` is always one. All else is data.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from arrayd.datasets.file_list import first_entry, read_list
from arrayd.datasets.patterns import is_pattern, matched
from arrayd.errors import SpecMismatch
from arrayd.session.request import SourceLike
from arrayd.source import Source

Array = np.ndarray[Any, Any]

_LISTS = (".txt", ".csv", ".tsv", ".lst")
_ALWAYS_LISTS = (".lst",)

_ELSEWHERE = {
    "rows": "Cut the dataset, ds[a:b].",
    "order": "The order of rows is chosen by stream(order=…).",
    "cast": "Pass it to arrayd.dataset.",
    "overflow": "Pass it to arrayd.dataset.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldFiles:
    """Where the values of a field are.

    Parameters
    ----------
    name
        Of the field.
    source
        How its files are read; the path is that of the first.
    paths
        Absolute, in order.
    whole_files
        Each file is one row.
    columns
        Of the list, by name.
    asked
        The request in canonical form, for the index of what is kept.
    doubt
        First entry of a text that was taken for data, and may have been meant as a list.
    """

    name: str
    source: Source
    paths: Sequence[str]
    whole_files: bool
    columns: Mapping[str, Array]
    asked: Any
    doubt: str | None = None


@dataclass(frozen=True, slots=True)
class _Meant:
    """What one item of a field means."""

    source: Source
    paths: Sequence[str]
    columns: Mapping[str, Array] | None = None  # None: it is no list
    doubt: str | None = None


def fields_of(sources: Any, as_list: bool | None, options: Mapping[str, Any]) -> list[FieldFiles]:
    """Return the fields that the caller of `arrayd.dataset` means, in his order.

    Raises
    ------
    SpecMismatch
        It is none of the forms of a source, or an option is wrong.
    SourceNotFound
        A glob matches no file; there is no such list.
    AccessDenied, BadFile
        A list cannot be read, or is none.
    """
    for key in _ELSEWHERE.keys() & options.keys():
        raise SpecMismatch(f"{key}= means nothing to the files of a dataset. {_ELSEWHERE[key]}")
    if as_list not in (None, True, False):
        raise SpecMismatch(f"list={as_list!r}: it is True, False, or None to find out.")
    named = sources if isinstance(sources, Mapping) else {"x": sources}
    if not named:
        raise SpecMismatch("A dataset has at least one field: {'x': 'train.npy'}.")
    for name in named:
        if not isinstance(name, str) or not name or "\0" in name:
            raise SpecMismatch(f"{name!r}: the name of a field is a text.")
    return [_field(name, what, as_list, options) for name, what in named.items()]


def _field(name: str, what: Any, as_list: bool | None, options: Mapping[str, Any]) -> FieldFiles:
    items = list(_flat(what))
    if not items:
        raise SpecMismatch(f"The field {name!r} has no files: its list of sources is empty.")
    meant = [_meant(item, as_list, options) for item in items]
    first = meant[0]
    for one in meant[1:]:
        if replace(one.source, path=first.source.path) != first.source:
            raise SpecMismatch(
                f"The field {name!r} has sources that are read differently: {first.source} and "
                f"{one.source}. Members and options are the same for all files of a field."
            )
        if (one.columns is None) != (first.columns is None):
            files, listed = (one, first) if one.columns is None else (first, one)
            raise SpecMismatch(
                f"The field {name!r} has both a list, whose files are one row each "
                f"({listed.source.path}), and a file with many ({files.paths[0]}). Use one kind."
            )
    paths = [path for one in meant for path in one.paths]
    return FieldFiles(
        name=name,
        source=replace(first.source, path=paths[0]),
        paths=paths,
        whole_files=first.columns is not None,
        columns=_joined(name, [one.columns or {} for one in meant]),
        asked=[name, as_list, [_canonical(item) for item in items], _how(first.source)],
        doubt=first.doubt,
    )


def _flat(what: Any) -> Iterator[Any]:
    if isinstance(what, (list, tuple)):
        for one in what:
            yield from _flat(one)
    else:
        yield what


def _canonical(item: Any) -> Any:
    if isinstance(item, Source):
        return item.to_wire()
    return os.fsencode(os.path.abspath(os.fspath(item)))


def _how(source: Source) -> dict[str, Any]:
    return replace(source, path="").to_wire()


def _joined(name: str, columns: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return the columns of several lists, one after another."""
    for one in columns[1:]:
        if one.keys() != columns[0].keys():
            raise SpecMismatch(
                f"The lists of the field {name!r} have different columns: "
                f"{', '.join(columns[0]) or 'none'}; {', '.join(one) or 'none'}."
            )
    return {key: _concatenated([one[key] for one in columns]) for key in columns[0]}


def _concatenated(parts: Sequence[Array]) -> Array:
    """Return parts of a column as one; numbers beside text become text."""
    if len({part.dtype.kind == "U" for part in parts}) > 1:
        return np.concatenate([part.astype(np.str_) for part in parts])
    return np.concatenate(parts)


# ---- one item --------------------------------------------------------------------------------


def _meant(item: Any, as_list: bool | None, options: Mapping[str, Any]) -> _Meant:
    if is_pattern(item):
        return _matched(item, options)
    source = Source.of(item, **options)
    if source.name is not None:
        raise SpecMismatch(f"{source}: a dataset is made of files, not of a published block.")
    if isinstance(item, Source):
        plain = replace(source, rows=None, order=None, cast=None, overflow="error")
        if source != plain:
            raise SpecMismatch(
                f"{source}: of a Source with rows=, order=, cast= or overflow= no dataset is made."
            )
        return _Meant(source, [source.path])
    listed, doubt = (as_list, None) if as_list is not None else _is_list(source)
    if not listed:
        return _Meant(source, [source.path], doubt=doubt)
    found = read_list(source.path)
    return _Meant(source, found.paths, found.columns)


def may_be_list(path: str) -> bool:
    """Say whether a file is called like a list."""
    return path.lower().endswith(_LISTS)


def listed_in(source: SourceLike, options: Mapping[str, Any]) -> list[Source] | None:
    """Return the files of a source that is a list, each one row; None: it is none."""
    if isinstance(source, Source):
        return None
    one = Source.of(source, **options)
    if one.name is not None or not _is_list(one)[0]:
        return None
    return [replace(one, path=path) for path in read_list(one.path).paths]


def _is_list(source: Source) -> tuple[bool, str | None]:
    """Say whether a file is a list of files; if not, name the entry for which it may be one."""
    if source.path.lower().endswith(_ALWAYS_LISTS) and source.format is None:
        return True, None
    entry = first_entry(source.path) if may_be_list(source.path) else None
    if entry is None:
        return False, None
    has_header, path = entry
    if has_header and not source.options:
        return True, None
    with contextlib.suppress(ValueError):
        float(os.path.basename(path))
        return False, None  # a number is data, even if a file is called so
    if os.path.isfile(path):
        return True, None
    return False, path if re.search(r"\.[A-Za-z]\w*$", path) else None


def _matched(text: str, options: Mapping[str, Any]) -> _Meant:
    """Return the files that a pattern matches; a member may follow, unless an option names it."""
    paths, member = matched(text, members=options.get("dataset") is None)
    given = options if member is None else {**options, "dataset": member}
    return _Meant(Source.of(Path(paths[0]), **given), paths)
