"""A loader that reads for another user than the daemon's gives up all data but that file.

That the user may read the file has been found out by its path, and holds for an inode. Between
then and now the path may lead elsewhere: the user can swap a symbolic link as often as it likes.
And what an HDF5 file refers to, or a plug-in opens, nobody has looked at. So the process, a child
that does this one task, opens the file, sees that it is the inode, and has the kernel refuse it
every other, but for the folders of Python's modules and of libraries: what is imported later lies
there.

Where no library has a part in reading a file (`ALONE`) a child would be for nothing, and to fork
takes ten times as long as to read a small file. The kernel confines threads one by one, so such a
task is done in a thread, which ends with it. To begin one, and to confine it, takes longer than to
read a small file, so those of one request, which lie in one block of their user's, share a thread:
it can open all of them, and which of them a path leads to is seen when it is open (`small`).

The kernel refuses to open a file, but says whether there is one, and what ``stat`` says of it. The
asker may not be able to see that. So whatever a path leads to by then, be it nothing, the answer is
one (`validation.moved`), and so it is for all that a file refers to (`validation.refers`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from arrayd.errors import AccessDenied, BadFile, LoadError, SpecMismatch
from arrayd.source import Source
from arrayd_server.kernel import landlock
from arrayd_server.loaders import formats, validation
from arrayd_server.loaders.validation import os_errors
from arrayd_server.loading.messages import FillTask, InfoTask, ProbeTask, SmallFilesTask

ALONE = frozenset({"npy", "raw"})
"""Formats that arrayd reads without a library that a file could lead astray, or make remember."""

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")

_T = TypeVar("_T")


def needs_child(source: Source) -> bool:
    """Say whether a file of another user is read in a child; else a thread will do."""
    try:
        return source.resolved_format() not in ALONE
    except SpecMismatch:  # only its first bytes say what it is
        return True


def around(*, confined: bool, child: bool) -> Callable[[Callable[[], _T]], _T]:
    """Return what is to do the work of a task: a thread of its own if it enters this in a worker.

    In a `child`, which ends with the task, the process itself may enter it, and is silenced.
    """
    if confined and child:
        _be_silent()
    return _in_thread if confined and not child else lambda work: work()


def _in_thread(work: Callable[[], _T]) -> _T:
    """Do work that enters it in a thread of its own: this one stays as free as it is.

    Raises
    ------
    LoadError
        There is no thread to be had.
    """
    try:
        with ThreadPoolExecutor(1) as threads:
            future = threads.submit(work)
    except RuntimeError as error:
        raise LoadError(f"There is no thread to read the file: {error}. Ask again.") from None
    finally:
        validation.only(None)
    return future.result()


def for_look(task: ProbeTask | InfoTask) -> None:
    """Enter it for a task that looks at a file, if it is for another user."""
    if task.confined:
        enter(task.source.path, (task.stat or (0, 0))[:2])


def recognised(task: ProbeTask | InfoTask, source: Source) -> Source:
    """Return a source with its format; refuse a dataset, if it is looked at for another user.

    Raises
    ------
    AccessDenied
        It is one: it consists of what it says of other files, and of nothing else.
    BadFile
        It is no file of the format for which a thread was enough.
    """
    found = formats.recognised(source)
    if task.confined and found.resolved_format() == "dataset":
        raise validation.refers(source)
    if task.confined and needs_child(found) and not needs_child(source):
        named, kind = source.resolved_format(), found.resolved_format()
        raise BadFile(f"{source} is called .{named} and is {kind}. Ask with format={kind!r}.")
    return found


def refuse_others(task: ProbeTask | InfoTask, files: Sequence[str]) -> None:
    """Refuse a file that refers to others, if it is looked at for another user.

    Raises
    ------
    AccessDenied
        It does.
    """
    if task.confined and files:
        raise validation.refers(task.source)


def for_fill(task: FillTask) -> None:
    """Enter it for a task that loads a part of a file, if it is for another user."""
    if task.confined:
        enter(task.source.path, task.found.identity[1:3], task.path)


def for_small_files(task: SmallFilesTask) -> None:
    """Enter it for a task that loads small files, if they are one other user's: see `enter_all`."""
    if task.confined:
        inodes = [(path, stat[:2]) for path, stat, _, _ in task.files]
        enter_all(inodes, task.path)


def enter(path: str, inode: Sequence[int], segment: str | None = None) -> None:
    """Leave this thread, for good, a file, the segment that it fills, and where modules lie.

    Parameters
    ----------
    path
        Of the file.
    inode
        Device and number of the inode that its asker may read.
    segment
        Path of the segment.

    Raises
    ------
    SourceChanged
        The path leads to another inode by now, or nowhere.
    AccessDenied
        The daemon's user may not read the file, or the kernel cannot confine a process.
    """
    with contextlib.ExitStack() as opened:
        file = _opened(path, inode, opened)
        try:
            landlock.restrict(_code(), [file], [] if segment is None else [_open(segment, opened)])
        except OSError as error:
            raise _unconfined(path, error) from None
        validation.only(path)


def enter_all(files: Iterable[tuple[str, Sequence[int]]], segment: str) -> None:
    """Leave this thread, for good, these files and a segment, as `enter` does for one.

    A file that is another by now, or that cannot be opened, is left out: it is not opened later
    either. Which of them a path leads to must be looked at again, when it has been opened.

    Raises
    ------
    AccessDenied
        The kernel cannot confine a thread.
    """
    with contextlib.ExitStack() as opened:
        readable = [fd for path, inode in files if (fd := _inode(path, inode, opened)) is not None]
        try:
            landlock.restrict(_code(), readable, [_open(segment, opened)])
        except OSError as error:
            raise _unconfined(segment, error) from None


def _inode(path: str, inode: Sequence[int], opened: contextlib.ExitStack) -> int | None:
    """Return a descriptor (O_PATH) of an inode, if a path still leads to it."""
    try:
        file = _open(path, opened)
        found = os.fstat(file)
    except (OSError, ValueError):
        return None
    return file if (found.st_dev, found.st_ino) == tuple(inode) else None


def _unconfined(path: str, error: OSError) -> AccessDenied:
    """Return why a file is not read: the kernel has not confined this thread to it."""
    if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
        why = (
            f"and this kernel has none ({error.strerror}). It takes Linux 5.13 with landlock among "
            "its security modules (`cat /sys/kernel/security/lsm`)"
        )
    elif error.errno == errno.EPERM:
        why = (
            "and something forbids the daemon to call it: a filter of system calls, of a container "
            "or a unit (SystemCallFilter=@sandbox allows it)"
        )
    else:
        name = errno.errorcode.get(error.errno or 0, "?")
        why = (
            f"which has failed: {error.strerror} ({name}). Ask again; if that stays so, the "
            "daemon's administrator must know"
        )
    return AccessDenied(
        f"{path} is not read for you: a loader that reads other users' files is confined to the "
        f"file by Landlock, {why}."
    )


def _be_silent() -> None:
    """Let this process write nothing to standard error: it is the daemon's log.

    Nobody else is to fill that, by a library that complains of each chunk. The asker is told all.
    """
    with contextlib.ExitStack() as opened:
        os.dup2(_open(os.devnull, opened, os.O_WRONLY), 2)


def _opened(path: str, inode: Sequence[int], opened: contextlib.ExitStack) -> int:
    """Return a descriptor of the inode that the asker may read, and that the daemon can."""
    try:
        file = _open(path, opened)
        found = os.fstat(file)
    except OSError:
        raise validation.moved(path) from None
    if (found.st_dev, found.st_ino) != tuple(inode):
        raise validation.moved(path)
    with os_errors(path):
        _open(f"/proc/self/fd/{file}", opened, os.O_RDONLY | os.O_NONBLOCK)
    return file


def _open(path: str, opened: contextlib.ExitStack, flags: int = os.O_PATH) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return fd


@cache
def _code() -> list[str]:
    """Return where modules, and the libraries that they are linked with, lie; no programs."""
    libraries = (*_LIBRARIES, f"{sys.prefix}/lib", f"{sys.base_prefix}/lib")
    modules = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    places = {os.path.realpath(path) for path in (*libraries, *modules, *sys.path) if path}
    return sorted(places - {"/"})
