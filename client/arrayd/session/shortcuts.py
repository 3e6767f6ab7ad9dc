"""The short way to a block that this process holds: from the words of a call to its array.

A training loop asks for the same few arrays again and again. What such a call means is found once,
at length; from then on its words lead straight to the hold, as long as these are as they were:

* the file: its ``stat``, looked at each time;
* the words: of ``run:3.npy`` the longest part that is a file is the file, so that no longer one
  may have appeared; for HDF5, what the environment says of file locks;
* the hold: it counts, and the array at the base of its arrays lives. We keep that alive from the
  first look on, so whatever another thread does comes before this call, or after it.

Nothing is changed here by a call, so a Ctrl-C may come anywhere. Where anything is different, the
answer is None, and the long way finds out what is true now.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from pathlib import PosixPath
from typing import Any, NamedTuple

from arrayd.array import Held, SharedArray
from arrayd.common.locate import cuts
from arrayd.session.locking import depends_on_variable, said
from arrayd.source import Source
from arrayd.system.mapping import SegmentMapping
from arrayd.wire.grant import Grant
from arrayd.wire.protocol import Stat

MAX_WORDINGS = 8
"""Ways to ask for one block that are remembered."""

_WITH_OPTIONS = object()
"""Begins the key of words with options: nothing that a caller gives as a source equals that."""


class _Shortcut(NamedTuple):
    """Where the words of a call lead to.

    Parameters
    ----------
    path
        Of the file, as the caller wrote it.
    stat
        Of it, when it was looked at.
    longer
        Paths that, were they there, would be meant instead.
    locking
        What the environment said of file locks; ``...`` if it does not matter.
    held
        The block.
    base, pages
        The array at the base of its arrays, and their mapping.
    """

    path: str
    stat: Stat
    longer: tuple[str, ...]
    locking: Any
    held: Held
    base: weakref.ref[SharedArray]
    pages: weakref.ref[SegmentMapping]


class Shortcuts:
    """Those of one session.

    Parameters
    ----------
    find
        Returns the hold of a segment, if there is one that counts.
    """

    def __init__(self, find: Callable[[str], Held | None]) -> None:
        self._find = find
        self._known: dict[Any, _Shortcut] = {}

    def follow(self, source: object, options: Mapping[str, Any]) -> SharedArray | None:
        """Return the array that the arguments of a plain `get` mean, if that is sure; else None."""
        try:
            known = self._known.get(_wording(source, options) if options else source)
        except TypeError:  # a slice, a list
            return None
        if known is None:
            return None
        path, stat, longer, locking, held, weak_base, weak_pages = known
        base, pages = weak_base(), weak_pages()
        if base is None or pages is None or self._find(held.segment) is not held.hold:
            return None
        try:
            now = os.stat(path)
        except (OSError, ValueError):
            return None
        if stat != (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns):
            return None
        if longer and any(os.access(way, os.F_OK, effective_ids=True) for way in longer):
            return None
        if locking is not ... and locking != said():
            return None
        array = base.view()
        array._held, array._mapping = held, pages
        return array

    def add(
        self,
        words: tuple[object, Mapping[str, Any]],
        source: Source,
        stat: Stat,
        grant: Grant,
        held: Held,
    ) -> None:
        """Remember that these arguments have led to this block, if they may do so again.

        Not where there is more to do than to return the whole array: to cut rows, to warn.
        """
        what, options = words
        if grant.lost or (source.rows is not None and grant.window):
            return
        try:
            wording = _wording(what, options) if options else what
            hash(wording)
        except TypeError:
            return
        ways = _ways(what)
        meant = [i for i, way in enumerate(ways) if os.path.abspath(way) == source.path]
        if not meant or (wording not in held.wordings and len(held.wordings) >= MAX_WORDINGS):
            return
        if wording not in held.wordings:
            held.wordings.append(wording)
            if held.hold is not held:
                held.hold.wordings.append(wording)
        assert held.base is not None
        assert held.hold.pages is not None
        longer = tuple(ways[: meant[0]])
        locking = said() if depends_on_variable(source) else ...
        path, weak = ways[meant[0]], (held.base, held.hold.pages)
        self._known[wording] = _Shortcut(path, stat, longer, locking, held, *weak)

    def forget(self, held: Held) -> None:
        """Forget the ways to a block that is held no longer."""
        for wording in held.wordings:
            known = self._known.get(wording)
            if known is not None and known.held.hold is held:
                self._known.pop(wording, None)


def _wording(source: object, options: Mapping[str, Any]) -> Any:
    """Return what stands for the arguments; equal values of other types may mean another thing."""
    return (
        _WITH_OPTIONS,
        source,
        *[(key, value.__class__, value) for key, value in options.items()],
    )


def _ways(what: object) -> list[str]:
    """Return the paths that an argument may mean, the longest first; none if it is no path."""
    if type(what) is PosixPath:
        return [str(what)]
    return [what, *(head for head, _ in cuts(what))] if type(what) is str else []
