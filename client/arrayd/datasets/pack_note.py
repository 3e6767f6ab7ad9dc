"""The note beside an unfinished pack: what it was begun with, and how far it is.

A file of lines of JSON. The first tells the sources and what is made of them; it is written to
a file of its own that is renamed, so it is whole or not there. Each further line is added when
rows are on the disk, and counts them; a line that a kill has cut off is none. The last one holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arrayd.datasets.slices import Sliced
from arrayd.errors import BadFile, SourceChanged, SpecMismatch
from arrayd.gather.replace_file import replacing
from arrayd.wire import dtypes
from arrayd.wire.codec import pack as packed

_VERSION = 1

_WAYS = (
    "Run it as it was begun to go on; with restart=True (--restart) to begin anew; or write to "
    "another file."
)


@dataclass(frozen=True, slots=True)
class Noted:
    """How far a pack is: rows that are on the disk, and the report about them as plain data."""

    rows: int = 0
    report: dict[str, Any] | None = None


class PackNote:
    """The note of one pack.

    Parameters
    ----------
    path
        Of the note.
    inputs
        The sources, as they are now.
    dtype, overflow
        What their values become.
    """

    def __init__(
        self, path: str, inputs: Sequence[Sliced], dtype: np.dtype[Any], overflow: str
    ) -> None:
        self._path = path
        self._inputs = inputs
        self._dtype = repr(dtypes.descr(dtype))
        self._overflow = overflow

    def check(self) -> None:
        """Refuse to go on with what was begun with something else; without a note all is well.

        Raises
        ------
        SpecMismatch
            Other sources, another dtype or `overflow`.
        SourceChanged
            One of the files is another one now.
        BadFile
            The note is none.
        """
        found = self._lines()
        if found:
            self._compare(found[0])

    def take(self, rows: int) -> Noted:
        """Return where to go on, in a file that has so many rows; a new note where there is none.

        Raises
        ------
        SpecMismatch
            The file has rows, and there is no note.
        """
        found = self._lines() if rows else []
        if rows and not found:
            raise SpecMismatch(
                f"There is an unfinished file, and no {self._path} that tells what is in it. "
                f"{_WAYS}"
            )
        if found:
            self._compare(found[0])
            last = Noted(found[-1]["rows"], found[-1].get("report")) if found[1:] else Noted()
            if last.rows <= rows:
                return last
        self._create()
        return Noted()

    def add(self, rows: int, report: dict[str, Any] | None) -> None:
        """Note that so many rows are on the disk."""
        line = json.dumps({"rows": rows, "report": report})
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(f"\n{line}")  # the line before may have been cut off
            file.flush()
            os.fdatasync(file.fileno())

    def remove(self) -> None:
        """Forget it: the pack is done."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    # ---- the file ------------------------------------------------------------------------

    def _create(self) -> None:
        first = {
            "version": _VERSION,
            "dtype": self._dtype,
            "overflow": self._overflow,
            "sources": self._marks(),
        }
        with replacing(self._path) as fresh, open(fresh, "w", encoding="utf-8") as file:
            json.dump(first, file)

    def _marks(self) -> list[list[str]]:
        """Return name and fingerprint of each source: its options, and the state of its file."""
        marks = []
        for one in self._inputs:
            how = ["row"] if one.is_row else []
            what = packed([one.source.without_hints(), one.stat, *how])
            marks.append([str(one.source), hashlib.blake2b(what, digest_size=16).hexdigest()])
        return marks

    def _lines(self) -> list[dict[str, Any]]:
        """Return the first line, and those that count rows; none where there is no note."""
        try:
            with open(self._path, encoding="utf-8") as file:
                head, *rest = file.read().split("\n")
            first = json.loads(head)
            whole = first["version"] == _VERSION and first.keys() >= {"dtype", "sources"}
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, KeyError):
            whole = False
        if not whole:
            raise BadFile(f"{self._path} is no note of this version of arrayd. {_WAYS}")
        lines = [first]
        for line in rest:
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines

    def _compare(self, first: dict[str, Any]) -> None:
        before, now = first["sources"], self._marks()
        if [name for name, _ in before] != [name for name, _ in now]:
            was, is_ = _first_difference([n for n, _ in before], [n for n, _ in now])
            raise SpecMismatch(
                f"The unfinished pack of {self._path} was begun with {len(before)} sources, and "
                f"now there are {len(now)}: {was} then, {is_} now. {_WAYS}"
            )
        changed = [name for (name, a), (_, b) in zip(before, now, strict=True) if a != b]
        if changed:
            more = f", and so have {len(changed) - 1} more," if changed[1:] else ""
            raise SourceChanged(
                f"{changed[0]} has changed{more} since the unfinished pack of {self._path} was "
                f"begun, or is read with other options. {_WAYS}"
            )
        same = first["overflow"] in ("error", self._overflow)  # so far nothing was beyond
        if first["dtype"] != self._dtype or not same:
            raise SpecMismatch(
                f"The unfinished pack of {self._path} was begun with dtype {first['dtype']} and "
                f"overflow={first['overflow']!r}, and now it is {self._dtype} and "
                f"{self._overflow!r}. {_WAYS}"
            )


def _first_difference(before: list[str], now: list[str]) -> tuple[str, str]:
    for was, is_ in zip(before, now, strict=False):
        if was != is_:
            return was, is_
    at = min(len(before), len(now))
    return next(iter(before[at:]), "no more"), next(iter(now[at:]), "no more")
