"""What all formats ask of a request and a file, so that each says it in the same words."""

from __future__ import annotations

import difflib
import errno
import os
import re
import shlex
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from typing import Any

import numpy as np

from arrayd.common import arguments
from arrayd.common.locate import locate
from arrayd.errors import (
    AccessDenied,
    ArraydError,
    BadFile,
    SourceChanged,
    SourceNotFound,
    SpecMismatch,
)
from arrayd.source import Source
from arrayd.wire.codec import pack
from arrayd.wire.dtypes import descr, from_descr

_MAX_DEPTH = 8  # levels of structures in a dtype; each is three in a message
_MAX_DESCR = 256 << 10  # bytes of the description of a dtype: it is remembered with each block

SHOWN = 20
"""Names an error lists before it says how many more there are."""

ABSENT = (errno.ENOENT, errno.ENOTDIR)
"""What the system says of a file that is not there."""

_NO_MEMORY = re.compile(
    r"memory allocation failed|(unable|can.?t) (to )?allocate|out of memory", re.IGNORECASE
)

_OF_A_PATH = (
    *ABSENT,
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO),
)
"""What the system says of what a path leads to, and not of a file that was opened."""

_only: list[str] = []  # the path of the one file that this process may read, if there is just one


def only(path: str | None) -> None:
    """Let this process read one file alone: see `arrayd_server.loading.confinement`; None: any.

    What is under other paths, and whether anything is, its asker may not be able to see. So the
    system is not asked where that can be avoided, and of what it says nothing is passed on.
    """
    _only[:] = [] if path is None else [path]


def reads_one() -> bool:
    """Say whether this process may read one file alone."""
    return bool(_only)


def moved(path: object) -> SourceChanged:
    """Return the answer where a path leads elsewhere than when it was looked at, or nowhere."""
    return SourceChanged(
        f"{path} changed, or was replaced or removed, while it was asked for. Ask again.",
        read=False,
    )


def refers(source: object) -> AccessDenied:
    """Return the answer where a file refers to others, for one who may read that file alone."""
    return AccessDenied(
        f"{source} refers to other files. For other users than the daemon's no file but the one "
        "that is asked for is read: copy what it is made of into one file."
    )


@contextmanager
def os_errors(path: object) -> Iterator[None]:
    """Turn what the system says about `path` into arrayd's errors; the only place that does.

    Raises
    ------
    SourceNotFound, AccessDenied, BadFile
        For what the OSError (of the system or of libhdf5) says.
    MemoryError
        It says that there is no memory, which is not the file's fault.
    """
    try:
        yield
    except ArraydError:
        raise  # some of them are OSErrors too, so that users can catch FileNotFoundError
    except OSError as error:
        blame_memory(error)
        raise _translated(path, error) from None


def blame_memory(error: Exception) -> None:
    """Raise MemoryError for an error of libhdf5 or the system that means it.

    libhdf5 has no code for it that h5py passes on, only the words of its ``H5E_CANTALLOC`` and
    ``H5E_NOSPACE`` messages.
    """
    if getattr(error, "errno", None) == errno.ENOMEM or _NO_MEMORY.search(str(error)):
        raise MemoryError(str(error)) from None


def _translated(path: object, error: OSError) -> ArraydError:
    if _only and error.errno in _OF_A_PATH:
        return moved(path) if str(path).startswith(_only[0]) else refers(path)
    if error.errno in ABSENT:
        return SourceNotFound(f"{path}: no such file.")
    if error.errno == errno.EISDIR:
        return BadFile(f"{path} is a directory: name a file in it.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDenied(
            f"{path}: the daemon's loaders (user {os.geteuid()}) may not read this file. Its owner "
            "can allow that user (chmod, setfacl)."
        )
    # libhdf5's own failures carry no errno, only a text.
    return BadFile(f"{path} cannot be read: {error.strerror or error}.")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def open_regular(path: str) -> FileIO:
    """Open a regular file for reading, unbuffered; a FIFO or a device is refused, not waited for.

    Raises
    ------
    OSError
        As `open`; meant to pass through `os_errors`.
    SourceNotFound
        No file can have this name.
    BadFile
        It is no regular file.
    """
    try:
        file = FileIO(path, opener=_without_waiting)
    except ValueError as error:  # a NUL byte, a lone surrogate
        raise SourceNotFound(f"{path!r}: no file can have this name ({error}).") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise BadFile(f"{path} is no regular file (a pipe, socket or device): copy it to one.")
    return file


def install(package: str) -> str:
    """Say how a package comes to where a loader finds it: not always the asker's environment."""
    return (
        f"It is the daemon's Python that needs it: `{shlex.quote(sys.executable)} -m pip install "
        f"{package}`. Or, if the Python that you run has it: `arrayd stop`, and the next get "
        "starts a private daemon of that one."
    )


def check_options(source: Source, known: Sequence[str] = ()) -> None:
    """Refuse options that the format does not have.

    Raises
    ------
    SpecMismatch
    """
    unknown = [key for key, _ in source.options if key not in known]
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise SpecMismatch(
            f"{source}: format {source.resolved_format()} has no option {', '.join(unknown)}; "
            f"{takes}.{arguments.meant(unknown, known)}"
        )


def check_dtype(source: Source, found: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype as which values are shared: the file's, or the claim's for mere bytes.

    Raises
    ------
    SpecMismatch
        The dtype cannot be shared, or is not what ``dtype=`` claims.
    """
    if found.hasobject:
        raise SpecMismatch(
            f"{source} holds Python objects ({found}): they cannot live in shared memory, and "
            "unpickling a file runs its code. Write it again with a fixed-size type, such as "
            "numbers or S10."
        )
    if not travels(found):
        raise SpecMismatch(
            f"{source} holds structures that cannot be described to other processes: names that "
            f"are no text, more than {_MAX_DEPTH} levels, or a description of more than "
            f"{_MAX_DESCR >> 10} KiB. Write it again with a plainer dtype."
        )
    claim = source.dtype
    if claim is None or claim == found:
        return found
    if found.type is np.void and found.names is None and found.itemsize == claim.itemsize:
        return claim  # np.save writes V2 for bfloat16; HDF5 has opaque types
    raise SpecMismatch(
        f"{source} holds {found}, not {claim}. dtype= says what is in the file; "
        f"to convert, pass cast={str(claim)!r} instead."
    )


def travels(dtype: np.dtype[Any]) -> bool:
    """Say whether a dtype is the same at the other end of the wire."""
    try:
        form = descr(dtype)
        return (
            len(pack(form)) <= _MAX_DESCR
            and _depth(dtype) <= _MAX_DEPTH
            and from_descr(form) == dtype
        )
    except (ValueError, TypeError):
        return False


def _depth(dtype: np.dtype[Any]) -> int:
    return 1 + max((_depth(dtype[name].base) for name in dtype.names or ()), default=-1)


def selected(source: Source, shape: tuple[int, ...]) -> range:
    """Return the indices along axis 0 that ``rows=`` selects, in its order; (0,) for 0-d.

    Raises
    ------
    SpecMismatch
        The array has no axis to slice.
    """
    if shape:
        return range(*source.slice.indices(shape[0]))
    if source.rows is not None:
        raise SpecMismatch(f"{source} is a single value (0 dimensions): rows= needs at least 1.")
    return range(1)


def only_member(source: Source, names: Sequence[str], kind: str) -> str:
    """Return the name of the only `kind` (``"member"``, ``"dataset"``) of a file.

    Raises
    ------
    SpecMismatch
        There are several.
    BadFile
        There is none.
    """
    if not names:
        raise BadFile(f"{source.path} holds no {kind} that is an array.")
    if len(names) > 1:
        raise SpecMismatch(
            f"{source.path} holds {len(names)} {kind}s: {listed(names)}. "
            f"Say which: {_spelled(source.path, names[0])}dataset={names[0]!r}."
        )
    return names[0]


def _spelled(path: str, name: str) -> str:
    """Return ``'FILE:MEMBER' or``; nothing where that would mean another file."""
    text = f"{path}:{name}"
    return f"{text!r} or " if name and locate(text, None) == (path, name, None) else ""


def no_member(source: Source, names: Sequence[str], kind: str) -> SourceNotFound:
    """Return the error for a member that is not there, with the names that are near."""
    near = difflib.get_close_matches(str(source.member), names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"It has {listed(names)}."
    return SourceNotFound(f"{source.path} has no {kind} {source.member!r}. {hint}")


def listed(names: Sequence[str]) -> str:
    """Return the first `SHOWN` names as text."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "nothing") + more
