"""The two names of a segment: which file stands under one, and how one is put back."""

from __future__ import annotations

import contextlib
import os

from arrayd_server.segments.nospace import no_space_error


def inode_of(path: str) -> int | None:
    """Return the inode that stands under a name, itself no link that is followed."""
    try:
        return os.lstat(path).st_ino
    except OSError:
        return None


def changed_at(*directories: str) -> tuple[int, ...]:
    """Return when anything was last made or removed in directories; (): that cannot be told."""
    try:
        return tuple(os.stat(directory).st_mtime_ns for directory in directories)
    except OSError:
        return ()


def link_over(left: str, name: str) -> None:
    """Link a segment under its other name too, where something else may stand.

    Raises
    ------
    NoRoom, DaemonError
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        os.link(left, name, follow_symlinks=False)
    except OSError as error:
        raise no_space_error(f"the name {name} again", 0, error) from None
