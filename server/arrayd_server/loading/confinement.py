"""A loader that reads for another user than the daemon's gives up all data but that file.

That the user may read the file has been found out by its path, and holds for an inode. Between
then and now the path may lead elsewhere: the user can swap a symbolic link as often as it likes.
And what an HDF5 file refers to, or a plug-in opens, nobody has looked at. So the process, a child
that does this one task, opens the file, sees that it is the inode, and has the kernel refuse it
every other, but for the folders of Python and its packages: what is imported later lies there.

The kernel refuses to open a file, but says whether there is one, and what ``stat`` says of it. The
asker may not be able to see that. So whatever a path leads to by then, be it nothing, the answer is
one (`validation.moved`), and so it is for all that a file refers to (`validation.refers`).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from arrayd.errors import AccessDenied
from arrayd.source import Source
from arrayd_server.kernel import landlock
from arrayd_server.loaders import formats, validation
from arrayd_server.loaders.validation import os_errors
from arrayd_server.loading.messages import FillTask, InfoTask, ProbeTask

_CODE = ("/usr", "/lib", "/lib64")


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
    """
    source = formats.recognised(source)
    if task.confined and source.resolved_format() == "dataset":
        raise validation.refers(source)
    return source


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


def enter(path: str, inode: Sequence[int], segment: str | None = None) -> None:
    """Leave this process, for good, a file, the segment that it fills, and Python's folders.

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
        nowhere = _open(os.devnull, opened, os.O_WRONLY)
        try:
            landlock.restrict(_code(), [file], [] if segment is None else [_open(segment, opened)])
        except OSError as error:
            raise AccessDenied(
                f"{path} is not read for you: a loader that reads other users' files is confined "
                f"to the file by Landlock, and this kernel has none ({error.strerror}). It takes "
                "Linux 5.13 with landlock among its security modules "
                "(`cat /sys/kernel/security/lsm`)."
            ) from None
        validation.only(path)
        # Standard error is the daemon's log, which nobody else is to fill; the asker is told all.
        os.dup2(nowhere, 2)


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


def _code() -> list[str]:
    """Return where Python and its packages lie."""
    places = {os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, *sys.path) if p}
    return [*_CODE, *sorted(places - {"/"})]
