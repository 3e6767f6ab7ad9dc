"""The file under a `RowWriter`: locked, grown, cut, and never without a valid header.

The file is its header and, behind it, rows: those that the header counts, and perhaps some that are
not counted yet. `RowFile.count` has the rows on the disk (``fdatasync``), and only then writes the
header that counts them, in the place of the old one, by one ``pwrite`` within one page (one sector,
unless the dtype has dozens of fields); then that is on the disk as well. So a process that is
killed (``kill -9``) at any moment leaves a file of the rows that were counted, and so does a power
cut. What lies behind them is cut off by whoever goes on.

Two writers of one file at a time are prevented by a lock (``flock``), which ends with its process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import stat
from collections.abc import Iterator
from typing import Any

import numpy as np

from arrayd.common import failpoints
from arrayd.common.bytesize import format_bytes
from arrayd.common.casts.padding import as_items
from arrayd.datasets import npy_header
from arrayd.datasets.npy_header import GrowingHeader
from arrayd.errors import (
    AccessDenied,
    ArraydError,
    NoRoom,
    SourceBusy,
    SourceNotFound,
    SpecMismatch,
    TargetExists,
)
from arrayd.gather.replace_file import replacing

Array = np.ndarray[Any, Any]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class RowFile:
    """A ``.npy`` file that is open for writing, and locked.

    Parameters
    ----------
    path
        Real path of the file.
    header
        Of a new file of this kind; `header` is then what the file has.
    resume, replace
        What to do with a file that is there; see `arrayd.writer`.
    """

    def __init__(self, path: str, header: GrowingHeader, *, resume: bool, replace: bool) -> None:
        self.path = path
        self.header = header
        self._row_bytes = math.prod(header.row_shape) * header.dtype.itemsize
        with self._explained(header.nbytes):
            self._fd = _locked(path)
            try:
                self._begin(resume, replace)
            except BaseException:
                self._shut()
                raise

    def _begin(self, resume: bool, replace: bool) -> None:
        if os.fstat(self._fd).st_size == 0:
            self._write_header(self.header)
        elif resume:
            self._go_on()
        elif replace:
            self._replace()
        else:
            raise TargetExists(
                f"{self.path} is there already. Pass resume=True to go on with it, "
                "replace=True to begin anew, or another name."
            )

    def _go_on(self) -> None:
        found, new = npy_header.read(self._fd, self.path), self.header
        if (found.dtype, found.row_shape) != (new.dtype, new.row_shape):
            raise SpecMismatch(
                f"{self.path} has rows of shape {found.row_shape} and dtype {found.dtype}, and "
                f"rows of shape {new.row_shape} and dtype {new.dtype} were to be appended. Write "
                "those to another file, or pass replace=True."
            )
        self.header = found
        self.cut(found.rows)

    def _replace(self) -> None:
        """Put a new file in the place of the old one, whose readers keep what they have."""
        with replacing(self.path) as fresh, open(fresh, "r+b") as file:
            file.write(self.header.to_bytes())
        old, self._fd = self._fd, _locked(self.path)
        os.close(old)

    def write(self, row: int, rows: Array) -> None:
        """Write rows from the index `row` on; the header does not count them yet.

        Raises
        ------
        NoRoom, ArraydError
        """
        if rows.nbytes:
            data = np.ascontiguousarray(as_items(rows)).reshape(-1).view(np.uint8).data
            with self._explained(rows.nbytes):
                _pwrite(self._fd, data, self.header.nbytes + row * self._row_bytes)

    def count(self, rows: int) -> None:
        """Have so many rows on the disk, then counted by the header, then that on the disk.

        Raises
        ------
        NoRoom, ArraydError
        """
        with self._explained(0):
            os.fdatasync(self._fd)
            self._write_header(self.header.counting(rows))
            failpoints.hit("client.counted")
            os.fdatasync(self._fd)

    def cut(self, rows: int) -> None:
        """Give back the disk space of what lies behind so many rows."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self.header.nbytes + rows * self._row_bytes)

    def close(self) -> None:
        """Cut off what is not counted, and let others write."""
        self.cut(self.header.rows)
        with contextlib.suppress(OSError):  # forked children have the descriptor, too
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._shut()

    def abandon(self) -> None:
        """Close the descriptor of a forked child; the file is its parent's."""
        self._shut()

    def _shut(self) -> None:
        os.close(self._fd)

    def _write_header(self, header: GrowingHeader) -> None:
        _pwrite(self._fd, memoryview(header.to_bytes()), 0)
        self.header = header

    @contextlib.contextmanager
    def _explained(self, needed: int) -> Iterator[None]:
        """Replace errors of the system by ours."""
        try:
            yield
        except ArraydError:  # some of them are OSErrors as well
            raise
        except OSError as error:
            raise self._error(error, needed) from error

    def _error(self, error: OSError, needed: int) -> ArraydError:
        folder = os.path.dirname(self.path)
        if error.errno in _FULL:
            room = os.statvfs(folder)
            free, total = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
            return NoRoom(
                f"{self.path}: {error.strerror} for {format_bytes(needed)} more; "
                f"{format_bytes(free)} of {format_bytes(total)} are free in {folder}. The file has "
                f"the {self.header.rows} rows of its last flush. Make room, then go on with "
                "resume=True.",
                needed=needed,
                free=free,
                total=total,
                rows=self.header.rows,
            )
        if isinstance(error, FileNotFoundError):
            return SourceNotFound(f"{self.path}: there is no folder {folder}. Make it first.")
        kind = AccessDenied if isinstance(error, PermissionError) else ArraydError
        return kind(f"{self.path} cannot be written: {error.strerror}.")


def _locked(path: str) -> int:
    """Open a regular file, made if need be, and lock it; return the descriptor.

    Raises
    ------
    SourceBusy
        Another writer has it.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SpecMismatch(f"{path} is no regular file: a .npy cannot be written there.")
            _lock(fd, path)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(fd)):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # between the open and the lock another one took its place


def _lock(fd: int, path: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SourceBusy(
            f"{path} is being written, by another process or by a writer of this one that is not "
            "closed. Wait for its end, or write to another file."
        ) from None
    except OSError as error:  # a file system without locks: then one writer is the user's care
        if error.errno not in _NO_LOCKS:
            raise


def _pwrite(fd: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done
