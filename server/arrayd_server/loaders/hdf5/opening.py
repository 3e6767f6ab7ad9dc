"""HDF5 files are opened here: safely, and not while somebody is writing them.

libhdf5 says that a file is being written in two ways. A writer holds an exclusive ``flock``;
and in the newer file format (superblock version 3) it sets flags in the file, which stay when it
dies. Both are looked at before libhdf5 opens the file, because what libhdf5 says of the flags is
to run ``h5clear``, which damages a file that is being written. A lock is tried and given up at
once: an open reader must not make the user's writer fail.
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from io import FileIO
from typing import Any

import h5py

from arrayd.errors import ArraydError, BadFile, SourceBusy, SpecMismatch
from arrayd.source import Source
from arrayd_server.kernel import leases
from arrayd_server.loaders.validation import open_regular

OPTIONS = ("locking", "swmr")
"""The format's options."""

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_WRITING, _SWMR = 1, 4  # the flags of a superblock of version 3
_LOCKING: dict[Any, bool | None] = {
    **dict.fromkeys((True, "true", "TRUE"), True),
    **dict.fromkeys((False, "false", "FALSE"), False),
    **dict.fromkeys((None, "best-effort", "BEST_EFFORT")),
}


@dataclass(frozen=True, slots=True)
class Access:
    """How to open files that somebody may be writing.

    Parameters
    ----------
    locking
        Whether to refuse a file whose lock a writer holds; None: where the file system has locks.
    swmr
        Read what a writer in SWMR mode is writing.
    """

    locking: bool | None = None
    swmr: bool = False

    @classmethod
    def of(cls, source: Source) -> Access:
        """Return what the options of a source say.

        Raises
        ------
        SpecMismatch
            An option has a value that means nothing.
        """
        option = source.option
        locking, swmr = option.get("locking"), option.get("swmr", False)
        if locking not in _LOCKING:
            raise SpecMismatch(f"locking={locking!r}: it can be True, False or 'best-effort'.")
        if not isinstance(swmr, bool):
            raise SpecMismatch(f"swmr={swmr!r}: it can be True or False.")
        return cls(_LOCKING[locking], swmr)


def open_file(path: str, access: Access) -> Any:
    """Return an open `h5py.File`; whoever asked closes it.

    Raises
    ------
    OSError
        As libhdf5 and the system say it.
    SourceNotFound, BadFile
        It is no regular file, or its writer has not closed it and is no more.
    SourceBusy
        A writer has it open.
    """
    with open_regular(path) as file:  # libhdf5 would wait for the writer of a FIFO
        _check_flags(path, file, access)
    created = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    created.set_file_locking(False, True)  # tried by `locked`, not kept
    # As libhdf5 opens what a file refers to; it does not open one file in two ways.
    created.set_fclose_degree(h5py.h5f.CLOSE_WEAK)
    flags = h5py.h5f.ACC_RDONLY | (h5py.h5f.ACC_SWMR_READ if access.swmr else 0)
    try:
        return h5py.File(h5py.h5f.open(os.fsencode(path), flags, created))
    except OSError as error:
        if "h5clear" in str(error) or "SWMR" in str(error):  # it was opened just now
            raise SourceBusy(f"{path}: {_OPEN} Ask again when it is closed.") from None
        raise


_OPEN = "a program has this HDF5 file open for writing, and may have written half of it."


def locked(path: str, access: Access) -> bool:
    """Say whether a writer holds the lock of a file that may be read all the same.

    Raises
    ------
    OSError, SourceNotFound, BadFile
        It cannot be opened.
    SourceBusy
        A writer holds the lock, or there are no locks and `access` insists.
    """
    with open_regular(path) as file:
        held = _is_locked(path, file, access)
        if not held or access.locking is False:
            return held
        marked = _flags(file) & _WRITING
    # What a file's own flags say stays said, whatever the lock: then the remedy is none.
    remedy = "" if marked else " locking=False (HDF5_USE_FILE_LOCKING=FALSE) reads it as it is."
    raise SourceBusy(f"{path}: {_OPEN} It holds the lock; ask again when it is closed.{remedy}")


def _is_locked(path: str, file: FileIO, access: Access) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return True
        # libhdf5's "best effort" means no more than this.
        if access.locking is False or (access.locking is None and error.errno == errno.ENOSYS):
            return False
        raise SourceBusy(
            f"{path}: whether a writer has it open cannot be told, for its file system has no "
            f"locks ({error.strerror}); h5py refuses it too. If nobody is writing it, read it "
            "with locking=False (HDF5_USE_FILE_LOCKING=FALSE)."
        ) from None
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _check_flags(path: str, file: FileIO, access: Access) -> None:
    """Refuse a file that libhdf5 would refuse for its flags, in words that help."""
    flags = _flags(file)
    if not flags & _WRITING or (access.swmr and flags & _SWMR):
        return
    writer = _has_writer(file)
    if flags & _SWMR:
        raise _swmr_error(path, writer)
    if writer is False:
        raise BadFile(
            f"{path}: the program that wrote this HDF5 file ended without closing it, so the end "
            "may be missing. Write it again; or take a copy and mark that as closed, with "
            "`h5clear -s COPY` of the HDF5 tools."
        )
    unsure = "" if writer else " (or, where that cannot be seen from here, had it when it crashed)"
    raise SourceBusy(f"{path}: {_OPEN[:-1]}{unsure}. Ask again when it is closed.")


def _swmr_error(path: str, writer: bool | None) -> ArraydError:
    if writer is False:
        return BadFile(
            f"{path}: the program that wrote this HDF5 file in SWMR mode ended without closing "
            "it. swmr=True reads what it had written."
        )
    return SourceBusy(
        f"{path}: a program has this HDF5 file open for writing in SWMR mode. swmr=True reads it "
        "meanwhile; or ask again when it is closed."
    )


def _has_writer(file: FileIO) -> bool | None:
    """Say whether a process of this machine can write to a file; None: the kernel does not say."""
    try:
        return not leases.no_writer(file.fileno())
    except OSError:
        return None


def _flags(file: FileIO) -> int:
    """Return the consistency flags of the superblock; 0 where there are none."""
    fd, offset = file.fileno(), 0
    size = os.fstat(fd).st_size
    while offset < size:  # a user block may come first
        head = os.pread(fd, 12, offset)
        if head.startswith(_SIGNATURE):
            return head[11] if len(head) == 12 and head[8] >= 3 else 0
        offset = max(512, 2 * offset)
    return 0
