"""`arrayd.dataset`: what the caller names becomes a `Dataset`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd import api
from arrayd.client import Client
from arrayd.common import arguments
from arrayd.common.bytesize import parse_bytes
from arrayd.datasets.dataset import Dataset
from arrayd.datasets.planning import ValueTerms
from arrayd.datasets.scan import scan
from arrayd.errors import SpecMismatch
from arrayd.results.progress import ShowProgress
from arrayd.samples.manifest import Manifest
from arrayd.samples.selection import Rows
from arrayd.source import OVERFLOWS
from arrayd.wire import dtypes


def dataset(
    sources: Any,
    *,
    cast: Mapping[str, npt.DTypeLike] | npt.DTypeLike | None = None,
    overflow: str = "error",
    budget: int | str | None = None,
    scratch: str | os.PathLike[str] | None = None,
    progress: ShowProgress = None,
    client: Client | None = None,
    **options: Any,
) -> Dataset:
    """Return the rows of files as one dataset; no value is read or copied yet.

    Parameters
    ----------
    sources
        A dict from the name of each field to where it is, or that alone (the field is ``x``
        then). Where it is: a path as for `get` (``train.h5:/images``), a glob (``shards/*.npy``,
        ``sat/*.nc:/t2m``), a Python list of these, or a text file that lists files:
        ``samples.txt`` with a path in each line, or a CSV with a column ``path`` and others, such
        as ``label``. The rows are those of axis 0 of each file, one file after another, of a
        Python list too (``["a.npy", "b.npy"]``); only of files that a text file lists, each as a
        whole is one row.
    cast
        The type wanted, of all fields or by field: fewer bits, more rows in memory.
    overflow
        What to do with values that do not fit `cast`; as for `get`.
    budget
        Memory that may be used, such as ``"8G"``, at most the daemon's budget; None: 80 % of that.
        What does not fit is read from the files, each row once per epoch.
    scratch
        Folder for decoded rows of files that cannot be read row by row (compressed, text, one
        per sample); None: the cache folder, ``~/.cache/arrayd``.
    progress
        Of looking at the files, which is done once; as for `get`.
    client
        The session to use; None: the default one, as for `get`. Where its daemon is another
        user's, your private daemon reads the rows.
    options
        How the files are read; as for `get`.

    Returns
    -------
    Dataset

    Raises
    ------
    SourceError
        A file is missing, unreadable, or has another dtype or shape than the first; the fields
        have not equally many rows; a list is empty. The error names the file.
    """
    client = api.default_client() if client is None else client
    manifest = scan(client, sources, progress=progress, **options)
    terms = ValueTerms(
        _casts(manifest, cast),
        arguments.one_of("overflow", overflow, OVERFLOWS),
        None if budget is None else _budget(budget),
        None if scratch is None else _folder(scratch),
    )
    return Dataset(manifest, Rows(manifest.rows), terms, client)


def _casts(manifest: Manifest, cast: Any) -> dict[str, np.dtype[Any]]:
    """Return the dtype wanted of each field that is cast."""
    if cast is None:
        return {}
    names = [field.name for field in manifest.fields]
    wanted = cast if isinstance(cast, Mapping) else dict.fromkeys(names, cast)
    if unknown := set(wanted) - set(names):
        raise SpecMismatch(f"cast= of {sorted(unknown)}: the fields are {', '.join(names)}.")
    return {name: dtypes.parsed("cast", value) for name, value in wanted.items()}


def _folder(value: Any) -> str:
    try:
        return os.path.abspath(os.fsdecode(value))
    except TypeError:
        raise SpecMismatch(f"scratch={value!r}: it is the path of a folder.") from None


def _budget(value: int | str) -> int:
    try:
        size = parse_bytes(value) if isinstance(value, str) else int(value)
    except (ValueError, TypeError, OverflowError):  # OverflowError: infinity
        size = 0
    if size <= 0:
        raise SpecMismatch(f"budget={value!r}: a number of bytes, such as '8G'.")
    return size
