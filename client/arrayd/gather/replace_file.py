"""Replaces a file atomically: by a new one that is complete, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
from collections.abc import Iterator

from arrayd.common import failpoints
from arrayd.errors import AccessDenied, ArraydError

_PART = ".part"  # ends the name of a file that is being written


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Give the path of a new file, which takes the place of `path` only if all goes well.

    It lies in the same folder, for a rename is atomic within a file system only, and is on
    the disk before it is renamed.
    """
    folder, name = os.path.split(path)
    with _explained(path):
        if os.path.isdir(path):
            raise IsADirectoryError(None, "it is a directory")
        _sweep(folder, name)
        with _locked_new(folder, name) as fresh:
            yield fresh
            _sync(fresh)
            failpoints.hit("client.renaming")
            os.replace(fresh, path)
        _sync(folder)


@contextlib.contextmanager
def _locked_new(folder: str, name: str) -> Iterator[str]:
    """Give the path of a new file, which is gone afterwards unless it was renamed.

    It is locked as long as its writer lives, so `_sweep` knows which are left from killed ones.
    """
    fresh = os.path.join(folder, f".{name}.{secrets.token_hex(4)}{_PART}")
    try:
        with open(fresh, "xb") as file:
            with contextlib.suppress(OSError):  # a file system without locks: none is swept
                fcntl.flock(file, fcntl.LOCK_EX)
            yield fresh
    finally:
        with contextlib.suppress(OSError):
            os.unlink(fresh)


def _sweep(folder: str, name: str) -> None:
    """Remove unfinished files that killed processes have left for the same path."""
    for path in glob.glob(f".{glob.escape(name)}.????????{_PART}", root_dir=folder or "."):
        with contextlib.suppress(OSError), open(os.path.join(folder, path), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused: its writer lives
            os.unlink(file.name)


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """Replace errors by one line: which file could not be written, and why; h5py's fill a page."""
    try:
        yield
    except ArraydError:  # some of them are OSErrors as well
        raise
    except (OSError, RuntimeError) as error:  # RuntimeError: h5py, from a close on a full disk
        reason = getattr(error, "strerror", None) or str(error).strip()
        kind = AccessDenied if isinstance(error, PermissionError) else ArraydError
        raise kind(f"{path} cannot be written, and is as it was: {reason}.") from error


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
