"""Where in ``FILE:MEMBER`` the file ends and the member begins; names of both may have colons.

Keras calls its weights ``dense/kernel:0``, and ``run 12:30.h5`` is a file. So the file
system decides: the longest beginning of the text (or all of it) that exists as a file is the
file, and what follows its colon is the member. If there is none, the error names the beginning
that looks most like a file's name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from arrayd.common.users import absolute_name
from arrayd.errors import SourceNotFound, SpecMismatch

_NAME = "name:"

Place = tuple[str, str | None]
"""Absolute path of a file, and the member in it."""


def locate(what: Any, dataset: str | None) -> tuple[str, str | None, str | None]:
    """Return path, member and published name for what the caller wrote.

    Raises
    ------
    SpecMismatch
        It names no file, or two members.
    SourceNotFound
        It is empty.
    """
    text = _text(what)
    if dataset is not None and (not isinstance(dataset, str) or not dataset):
        raise SpecMismatch(f"dataset={dataset!r}: it is the name of a dataset or member, a str.")
    if not text:
        raise SourceNotFound("The source is an empty path.")
    if not isinstance(what, str):
        return os.path.abspath(text), dataset, None
    if text.startswith(_NAME) and not os.path.exists(text):
        if dataset is not None:
            raise SpecMismatch(f"{text}: a published block has no members: leave out dataset=.")
        return "", None, absolute_name(text.removeprefix(_NAME))
    if dataset is None:
        return *places(text)[0], None
    path, member = places(text)[0]
    if member is not None and os.path.isfile(path):
        raise SpecMismatch(
            f"{text!r} names the member {member!r} already, and dataset={dataset!r} another: "
            "give one of them."
        )
    return os.path.abspath(text), str(dataset), None


def places(text: str) -> list[Place]:
    """Return what ``FILE`` or ``FILE:MEMBER`` may mean, the likeliest first.

    It is one place if such a file exists, or if there is no colon.
    """
    if ":" not in text:
        return [(os.path.abspath(text), None)]
    ways = [(text, None), *cuts(text)]
    for exists in (os.path.isfile, os.path.exists):
        for path, member in ways:
            if exists(path):
                return [(os.path.abspath(path), member)]
    named = [way for way in (*reversed(ways[1:]), ways[0]) if os.path.splitext(way[0])[1]]
    likeliest = (named or ways[1:] or ways)[0]
    likely = [likeliest, *(way for way in ways if way != likeliest)]
    return [(os.path.abspath(path), member) for path, member in likely]


def cuts(text: str) -> Iterator[tuple[str, str]]:
    """Yield head and tail of each colon that has both, the longest head first."""
    at = text.rfind(":")
    while at > 0:
        if at + 1 < len(text):
            yield text[:at], text[at + 1 :]
        at = text.rfind(":", 0, at)


def _text(what: Any) -> str:
    try:
        text = os.fspath(what)
    except TypeError:
        text = None
    if isinstance(text, str):
        return str(text)
    kind = type(what).__name__
    raise SpecMismatch(f"A source is a str or a path, not {kind}: {_advice(what)}.")


def _advice(what: Any) -> str:
    """Say what to do with something that is no path."""
    if hasattr(what, "read_direct") or hasattr(what, "require_dataset"):
        return "of an open HDF5 file or dataset give the file's path and dataset="
    if hasattr(what, "fileno"):
        return "of an open file give the path; the daemon opens it by itself"
    if isinstance(what, (list, tuple, set, frozenset)) or hasattr(what, "__next__"):
        return "for several sources there is arrayd.get_many"
    if hasattr(what, "__array__"):
        return "to share an array that you have, there is arrayd.put"
    if isinstance(what, (bytes, os.PathLike)):
        return "os.fsdecode makes a str of bytes"
    return "give the path of a file, 'FILE:MEMBER' or 'name:NAME'"
