"""Names of many files: globs that no shell has expanded, with or without a member behind."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence

from arrayd.common.locate import places
from arrayd.errors import SourceNotFound
from arrayd.session.request import SourceLike


def expanded(sources: Iterable[SourceLike]) -> list[SourceLike]:
    """Return the sources with each pattern replaced by the files that it matches, sorted.

    ``"shards/*.npy"`` and ``"sat/*.nc:/t2m"`` are patterns, unless there is a file of that very
    name. ``**`` stands for any folders.

    Raises
    ------
    SourceNotFound
        A pattern matches no file.
    """
    found: list[SourceLike] = []
    for source in sources:
        found += _matches(source) if _is_pattern(source) else [source]
    return found


def _is_pattern(source: SourceLike) -> bool:
    if not isinstance(source, str) or not glob.has_magic(source):
        return False
    return not os.path.isfile(places(source)[0][0])


def _matches(pattern: SourceLike) -> Sequence[str]:
    text = str(pattern)
    cuts = [(text, "")]
    at = text.rfind(":")
    while at > 0:  # the longest beginning that matches files is the pattern
        cuts.append((text[:at], text[at:]))
        at = text.rfind(":", 0, at)
    for head, member in cuts:
        paths = sorted(path for path in glob.glob(head, recursive=True) if os.path.isfile(path))
        if paths:
            return [f"{path}{member}" for path in paths]
    raise SourceNotFound(f"{text}: no file matches this pattern.")
