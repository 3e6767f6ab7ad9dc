"""Copy values that lie in the file as they will lie in the segment: within the kernel.

``sendfile`` passes the pages of the file's cache to the segment by reference, so that each byte is
copied once, and neither through memory of this process nor through a mapping, whose pages would
have to be mapped one by one. Of the ways tried, in seconds of CPU per GiB (Linux 6.18):

=================================  ===========  ==============
way                                fresh pages  recycled pages
=================================  ===========  ==============
`sendfile`                         0.52         0.29
`splice` through a pipe of 1 MiB   0.50         0.31
`pwrite` from a mapping of the     0.54         0.33
file
`pread` into a mapping of the      –            0.31
segment, populated first
`pread`, then `pwrite`             0.61         0.41
=================================  ===========  ==============

Readinto a mapping whose pages are all mapped before, as a process has that keeps its segment, takes
0.22; but a loader must leave none behind. Where another loader of the array is at it, `pread` into
a mapping is what is done: see `piece_writing`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from typing import Any

import numpy as np

from arrayd.errors import SourceChanged
from arrayd.source import Source
from arrayd_server.loaders import base, piece_writing
from arrayd_server.loaders.base import Addressed, LoadPlan, Part
from arrayd_server.loaders.formats import load_format, recognised
from arrayd_server.loaders.validation import open_regular, os_errors

CHUNKS = 4
"""How many times `base.CHUNK_BYTES` one call copies: nothing is kept in this process."""

_REFUSALS = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system says that cannot do it: FUSE, overlays and network ones may not."""


def begin(source: Source, plan: LoadPlan, dtype: np.dtype[Any]) -> int | None:
    """Return where in the file the rows of `plan` begin, as they are to be; None: nowhere so.

    Raises
    ------
    SourceError
        As the format's `fill`.
    """
    module = load_format(recognised(source).resolved_format())
    if dtype != plan.dtype or not isinstance(module, Addressed):
        return None
    with os_errors(source):
        return module.address(source, plan)


def copy(
    source: Source, plan: LoadPlan, part: Part, begin: int, fd: int
) -> Generator[int, None, None]:
    """Copy the rows of `part` to the segment at `fd`; yield now and then how many bytes are done.

    It ends early where the file system of the source cannot do it.

    Raises
    ------
    SourceChanged
        The file has become shorter.
    SourceError
        As the format's `fill`.
    OSError
        ENOSPC or EDQUOT: there is no page for the segment.
    """
    size = base.row_bytes(plan)
    start, length = part.start * size, (part.stop - part.start) * size
    done = 0
    with os_errors(source):
        file = open_regular(source.path)
    with file:
        while done < length:
            step = min(CHUNKS * base.CHUNK_BYTES, length - done)
            where = (begin + start + done, fd, start + done, step)
            try:
                got = _step(file.fileno(), *where)
            except OSError as error:
                if done == 0 and error.errno in _REFUSALS:
                    return
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                with os_errors(source):
                    raise
            if got == 0:
                raise SourceChanged(
                    f"{source} became shorter while it was read: it ends before byte "
                    f"{begin + start + done + step}. Ask again once its writer is done."
                )
            done += got
            yield done


def _step(file: int, origin: int, fd: int, start: int, length: int) -> int:
    """Copy some bytes, one at least, unless the file ends here; return how many."""
    refused: OSError | None = None
    with piece_writing.turn(fd) as ours:
        if ours:
            try:
                return _send(file, origin, fd, start, length)
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                refused = error
    with piece_writing.pages(fd, start, length) as there:
        if there is not None:
            return os.preadv(file, [there], origin)
    if refused is not None:
        raise refused
    return _send(file, origin, fd, start, length)


def _send(file: int, origin: int, fd: int, start: int, length: int) -> int:
    os.lseek(fd, start, os.SEEK_SET)
    return os.sendfile(fd, file, origin, length)
