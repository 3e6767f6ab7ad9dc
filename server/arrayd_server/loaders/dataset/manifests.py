"""Manifests and lists of row ids, loaded once per process: a part must not parse a million names.

And whether the files of a manifest are still those that it was made of.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from arrayd.errors import BadFile, SourceChanged, SourceNotFound
from arrayd.samples.manifest import Field, Files, Manifest, changed, signed
from arrayd_server.loaders.validation import ABSENT, os_errors

Stat = tuple[int, int, int, int, int]
"""dev, ino, size, mtime_ns and ctime_ns, as in `Files.stats`."""

_T = TypeVar("_T")

AGAIN = "make the dataset again"
"""What helps when the files are no longer those of the manifest."""


def stat_of(found: os.stat_result) -> Stat:
    """Return what of a ``stat`` is compared."""
    inode = signed(found.st_ino)
    return (found.st_dev, inode, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class _Kept(Generic[_T]):
    """The last few things loaded, by path and stat."""

    def __init__(self, load: Callable[[str], _T], most: int) -> None:
        self._load = load
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, Stat], _T] = OrderedDict()

    def at(self, path: str) -> _T:
        """Return what lies at `path`."""
        with self._lock, os_errors(path):
            key = (path, stat_of(os.stat(path)))
            if key not in self._kept:
                loaded = self._load(path)
                if stat_of(os.stat(path)) != key[1]:
                    raise SourceChanged(f"{path} changed while it was read. Ask again.")
                self._kept[key] = loaded
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]


def _load_ids(path: str) -> npt.NDArray[Any]:
    try:
        with open(path, "rb") as file:
            ids: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        raise BadFile(f"{path} is no .npy file of row ids: {error}. Pass ids= again.") from None
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise BadFile(f"{path}: row ids are one axis of integers, not {ids.dtype} {ids.shape}.")
    return ids


_manifests = _Kept(Manifest.load, 4)
_ids = _Kept(_load_ids, 4)


def manifest_at(path: str) -> Manifest:
    """Return the manifest saved at `path`; whoever gets it changes nothing in it.

    Raises
    ------
    SourceNotFound, AccessDenied, BadFile, ProtocolMismatch
    """
    return _manifests.at(path)


def ids_at(path: str) -> npt.NDArray[Any]:
    """Return the row ids in a ``.npy`` file: integers, ``(n,)``.

    Raises
    ------
    SourceNotFound, AccessDenied, BadFile
    """
    return _ids.at(path)


def check_file(files: Files, number: int, found: os.stat_result) -> None:
    """Refuse a file that is not the one that was scanned.

    Raises
    ------
    SourceChanged
    """
    stat = stat_of(found)
    if not changed(files, number, stat):
        return
    _, inode, size, mtime, _ = files.stats[number].tolist()
    if stat[2] != size:
        what = f"it had {size} bytes, and has {stat[2]}"
    elif stat[3] != mtime:
        what = "it was written since"
    elif stat[1] != inode:
        what = f"it was inode {inode % (1 << 64)}, and is {found.st_ino}"
    else:
        what = "its owner, its rights, its links or its device are others"
    raise SourceChanged(
        f"{files.path(number)} has changed since the dataset was made of it ({what}): {AGAIN}."
    )


def check_path(files: Files, number: int, one: Field) -> None:
    """Refuse a file that is gone or not the one that was scanned, by its path.

    Raises
    ------
    SourceNotFound, SourceChanged, AccessDenied
    """
    path = files.path(number)
    with os_errors(path):
        try:
            found = os.stat(path)
        except OSError as error:
            raise missing(files, number, one, error) from None
    check_file(files, number, found)


def missing(files: Files, number: int, one: Field, error: OSError) -> Exception:
    """Return the error for a file that cannot be opened: itself, unless the file is not there."""
    if error.errno not in ABSENT:
        return error
    first, rows = int(files.starts[number]), int(files.starts[number + 1] - files.starts[number])
    which = f"row {first}" if rows == 1 else f"rows {first} to {first + rows - 1}"
    return SourceNotFound(
        f"{files.path(number)} is not there: it has {which} of field {one.name!r}. Put it back, "
        f"or {AGAIN} without it."
    )
