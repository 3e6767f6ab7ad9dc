"""Names of many files: globs that no shell has expanded, with or without a member behind."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from typing import TypeGuard

from arrayd.common.locate import cuts, places
from arrayd.errors import SourceNotFound
from arrayd.session.request import SourceLike

_NUMBERS = re.compile(r"(\d+)")


def is_pattern(what: object) -> TypeGuard[str]:
    """Say whether a source is a pattern: a text with ``*``, ``?`` or ``[``, and no file's name."""
    return isinstance(what, str) and glob.has_magic(what) and not os.path.isfile(places(what)[0][0])


def matched(text: str, *, members: bool = True) -> tuple[list[str], str | None]:
    """Return the files that a pattern matches, and the member that follows it.

    ``**`` stands for any folders; a folder itself is no match.

    Parameters
    ----------
    text
        ``"shards/*.npy"``, or ``"sat/*.nc:/t2m"``: the longest beginning that matches files is the
        pattern.
    members
        Whether a member may follow a colon.

    Returns
    -------
    paths
        Absolute, in natural order.
    member
        None: the text names none.

    Raises
    ------
    SourceNotFound
        It matches no file.
    """
    here = glob.escape(os.getcwd())
    for head, member in [(text, None), *(cuts(text) if members else ())]:
        if glob.has_magic(head):
            whole = os.path.normpath(os.path.join(here, head))
            # A link whose file is gone stays: an error names it, and no rows are missing unnoticed.
            found = [path for path in glob.glob(whole, recursive=True) if not os.path.isdir(path)]
            if found:
                return sorted(found, key=natural), member
    raise SourceNotFound(f"{os.path.abspath(text)}: no file matches this pattern.")


def expanded(sources: Iterable[SourceLike]) -> list[SourceLike]:
    """Return the sources with each pattern replaced by the files it matches, in natural order.

    Raises
    ------
    SourceNotFound
        A pattern matches no file.
    """
    found: list[SourceLike] = []
    for source in sources:
        if is_pattern(source):
            paths, member = matched(source)
            found += paths if member is None else [f"{path}:{member}" for path in paths]
        else:
            found.append(source)
    return found


def natural(path: str) -> tuple[list[str | int], str]:
    """Return a key for the order in which people count: ``part2`` before ``part10``."""
    words: list[str | int] = list(_NUMBERS.split(path))
    words[1::2] = [int(word) for word in words[1::2]]
    return words, path
