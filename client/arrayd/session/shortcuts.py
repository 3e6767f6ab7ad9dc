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
import sys
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from arrayd.array import Held, SharedArray
from arrayd.common.locate import cuts
from arrayd.session.locking import depends_on_variable, said
from arrayd.source import Source
from arrayd.system.file_state import unchanged
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
    still
        Says whether the file is as it was, and what is said of it still means it.
    held, hold
        The block's, or the member's; and the block's.
    base, pages
        The array at the base of its arrays, and their mapping.
    """

    still: Callable[[], object]
    held: Held
    hold: Held
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
        still, held, hold, weak_base, weak_pages = known
        base, pages = weak_base(), weak_pages()
        if base is None or pages is None or self._find(hold.segment) is not hold:
            return None
        if not still():
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
        still = unchanged(ways[meant[0]], stat)
        if longer:
            still = partial(_none_longer, still, longer)
        if depends_on_variable(source):
            still = partial(_same_variable, still, said())
        self._known[wording] = _Shortcut(still, held, held.hold, held.base, held.hold.pages)

    def forget(self, held: Held) -> None:
        """Forget the ways to a block that is held no longer."""
        for wording in held.wordings:
            known = self._known.get(wording)
            if known is not None and known.hold is held:
                self._known.pop(wording, None)


def _none_longer(still: Callable[[], object], longer: tuple[str, ...]) -> bool:
    """Say whether a file is as it was, and none is there that would be meant instead."""
    return bool(still()) and not any(os.access(way, os.F_OK, effective_ids=True) for way in longer)


def _same_variable(still: Callable[[], object], locking: bytes | None) -> bool:
    """Say whether a file is as it was, and so is what the environment says of file locks."""
    return bool(still()) and locking == said()


def _wording(source: object, options: Mapping[str, Any]) -> Any:
    """Return what stands for the arguments; equal values of other types may mean another thing."""
    return (
        _WITH_OPTIONS,
        source,
        *[(key, value.__class__, value) for key, value in options.items()],
    )


def _ways(what: object) -> list[str]:
    """Return the paths that an argument may mean, the longest first; none if it is no path."""
    if type(what) is str:
        return [what, *(head for head, _ in cuts(what))]
    # A path object never changes. Whoever has one has imported pathlib; we need not, it is slow.
    pathlib = sys.modules.get("pathlib")
    return [str(what)] if pathlib is not None and type(what) is pathlib.PosixPath else []
