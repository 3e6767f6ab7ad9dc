"""Which segments processes have open or mapped, by /proc: for where a lease cannot be taken.

A lease needs a descriptor, and a file all of whose names were removed cannot be opened. Reading
/proc costs milliseconds, and shows the processes of this user (and of this PID namespace) only;
so it is the last resort.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from arrayd.wire import layout

MAX_AGE = 0.5
"""Seconds for which one reading of /proc is used: it may be asked about thousands at once."""

_NAME = re.compile(rf"(?m)/({layout.PREFIX}[0-9a-f]+-[0-9a-f]+-[0-9]+)(?: \(deleted\))?$")
_PROC = Path("/proc")


class SegmentUsers:
    """The segments that other processes have open or mapped, at most `MAX_AGE` ago."""

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()
        self._until = 0.0

    def is_used(self, segment: str) -> bool:
        """Say whether another process has a segment open or mapped.

        Raises
        ------
        OSError
            /proc cannot be read: descriptors are exhausted.
        """
        if time.monotonic() >= self._until:
            others = (process for process in _processes() if process.name != str(os.getpid()))
            self._names = frozenset(name for process in others for name in segments(process))
            self._until = time.monotonic() + MAX_AGE
        return segment in self._names


def users(segment: str) -> list[Path]:
    """Return the processes, as ``/proc/PID``, that have a segment open or mapped."""
    return [process for process in _processes() if segment in segments(process)]


def segments(process: Path) -> set[str]:
    """Return the names of the segments that a process has open or mapped; none if it is gone."""
    # Descriptors first: what is mapped and closed in between is in the maps, then.
    try:
        words = "\n".join([*_links(process / "fd"), (process / "maps").read_text(errors="replace")])
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return set()
    return set(_NAME.findall(words))


def _links(directory: Path) -> Iterator[str]:
    """Yield the files behind a process's descriptors, without those closed meanwhile."""
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                # Read, not followed: a file behind a link may be on a dead NFS.
                yield os.readlink(entry.path)


def _processes() -> Iterator[Path]:
    # Not `glob`: from Python 3.12 on it hides the error where /proc cannot be read.
    return (_PROC / name for name in os.listdir(_PROC) if name.isdigit())
