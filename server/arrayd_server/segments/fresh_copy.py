"""A segment that another user has written goes on as a copy, in a file that user never could write.

Whoever has mapped pages for writing can keep a hold of them that no lease sees: a pipe that they
were spliced into, a buffer registered with io_uring. So what is sealed for others to read is not
the file that was written, but a copy; the writer keeps what it has, and reaches nobody with it.
"""

from __future__ import annotations

import contextlib
import os

from arrayd_server.segments.nospace import no_space_error

_STEP = 64 << 20


def replace(path: str, public: str, size: int, nbytes: int) -> int:
    """Put a copy of the first bytes of a segment in its place, under both its names.

    Parameters
    ----------
    path, public
        Its names; the folder of `path` is the daemon's alone.
    size, nbytes
        Of the segment, and of its data. What comes behind them is zero.

    Returns
    -------
    int
        The inode of the copy.

    Raises
    ------
    NoRoom, DaemonError
        It cannot be made.
    """
    fresh = f"{path}.copy"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    try:
        inode = _copied(path, fresh, size, nbytes)
        os.link(fresh, f"{fresh}.public")
        os.rename(fresh, path)
        os.rename(f"{fresh}.public", public)
    except OSError as error:
        for left in (fresh, f"{fresh}.public"):
            with contextlib.suppress(OSError):
                os.unlink(left)
        raise no_space_error("a copy of what another user has written", size, error) from None
    return inode


def _copied(source: str, target: str, size: int, nbytes: int) -> int:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    read = os.open(source, os.O_RDONLY | flags)
    try:
        write = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o600)
        try:
            os.ftruncate(write, size)
            for start in range(0, size, _STEP):
                os.posix_fallocate(write, start, min(_STEP, size - start))
            done = 0
            while done < nbytes:
                copied = os.copy_file_range(read, write, min(_STEP, nbytes - done), done, done)
                if not copied:
                    raise OSError(5, "it has become shorter")
                done += copied
            return os.fstat(write).st_ino
        finally:
            os.close(write)
    finally:
        os.close(read)
