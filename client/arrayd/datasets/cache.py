"""The folder of what is kept between runs: manifests, selections, decoded rows."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

import numpy as np
from numpy.lib.format import header_data_from_array_1_0, write_array_header_1_0

from arrayd.errors import AccessDenied, ArraydError, NoRoom
from arrayd.gather.replace_file import replacing
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


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Have what fails in the folder be one of the errors of arrayd, which names another folder.

    Raises
    ------
    AccessDenied, NoRoom, ArraydError
        The folder cannot be written to.
    """
    try:
        yield
    except (OSError, ArraydError) as error:
        # `replacing` explains errors as well, but not what can be done about them here.
        reason = error.__cause__ if isinstance(error, ArraydError) else error
        if not isinstance(reason, OSError):
            raise
        raise _unkept(where, reason) from None


def _unkept(where: str, error: OSError) -> ArraydError:
    way = f"Make room, or name another folder in {VARIABLE}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoRoom(f"{where} has no room for what is kept of a dataset. {way}")
    denied = isinstance(error, PermissionError) or error.errno == errno.EROFS
    return (AccessDenied if denied else ArraydError)(
        f"{where}, where datasets are kept, cannot be written to: {error.strerror or error}. {way}"
    )


def ids_path(digest: str) -> str:
    """Return where the row numbers of the selection with this digest are, if they are saved."""
    return os.path.join(folder(), f"{digest}.ids.npy")


def save_ids(rows: Rows) -> str:
    """Save the row numbers of a selection, unless they are saved; return the path.

    The file is a ``.npy`` of increasing unsigned integers. Others see all of it or none.

    Raises
    ------
    AccessDenied, NoRoom, ArraydError
        The folder cannot be written to.
    """
    path = ids_path(rows.digest().hex())
    if os.path.exists(path):
        mark_used(path)
        return path
    ids = rows.ids(0, len(rows)) if rows.array is None else np.ascontiguousarray(rows.array)
    with explained(os.path.dirname(path)), replacing(path) as fresh, open(fresh, "wb") as file:
        # np.save says of a full disk how many values it has written, and no errno.
        write_array_header_1_0(file, header_data_from_array_1_0(ids))
        file.write(ids.data)
    return path
