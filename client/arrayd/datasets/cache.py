"""The folder of what is kept between runs: manifests, selections, decoded rows."""

from __future__ import annotations

import contextlib
import os
import tempfile

import numpy as np

from arrayd.errors import AccessDenied
from arrayd.samples.selection import Rows

VARIABLE = "ARRAYD_CACHE"

USED = ".used"


def folder() -> str:
    """Return the folder; make it, for this user alone, if it is not there.

    It is ``$ARRAYD_CACHE``, else ``$XDG_CACHE_HOME/arrayd``, else ``~/.cache/arrayd``.

    Raises
    ------
    AccessDenied
        It cannot be made.
    """
    given = os.environ.get(VARIABLE)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.path.abspath(given or os.path.join(home, "arrayd"))
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise AccessDenied(
            f"{path}, where datasets are kept, cannot be made: {error.strerror}. Name another "
            f"folder in {VARIABLE}."
        ) from None
    return path


def mark_used(path: str) -> None:
    """Note that a kept file was used now, in a file of that name and ``.used``.

    The file itself stays as it is: its times tell which blocks were made of it.
    """
    with contextlib.suppress(OSError), open(path + USED, "ab"):
        os.utime(path + USED)


def last_used(path: str) -> float:
    """Return when a kept file was last used, or else made, in seconds since the epoch.

    Raises
    ------
    OSError
        It is gone.
    """
    made = os.stat(path).st_mtime
    with contextlib.suppress(OSError):
        return max(made, os.stat(path + USED).st_mtime)
    return made


def save_ids(rows: Rows) -> str:
    """Save the row numbers of a selection, unless they are saved; return the path.

    The file is a ``.npy`` of increasing unsigned integers. Others see all of it or none.

    Raises
    ------
    AccessDenied
        The folder cannot be written to.
    """
    where = folder()
    path = os.path.join(where, f"{rows.digest().hex()}.ids.npy")
    if os.path.exists(path):
        mark_used(path)
        return path
    try:
        with tempfile.NamedTemporaryFile(dir=where, suffix=".tmp", delete=False) as file:
            try:
                np.save(file, rows.ids(0, len(rows)) if rows.array is None else rows.array)
                file.flush()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise AccessDenied(f"{where} cannot be written to: {error.strerror}.") from None
    return path
