"""Pages that go on under another name: the steps, and why they come in this order.

A client opens a name, asks for the file's size, reads the footer at its end, and takes the segment
only if the footer names it. So it may have looked a name up just before the segment went, and open
what is another's by then. All is done under a write lease, which nobody gets who has the file open:

1. the footer is made invalid: whoever opens the segment from now on does not take it for a block;
2. access is set back to the owner's alone;
3. both links are renamed. The old name leads nowhere, the new one has been told to nobody;
4. the lease must still be whole. Otherwise somebody who has looked up the old name waits at the
   open, or was told to try again: then the segment goes, and nothing is recycled;
5. the lease is given back.

When a load takes the pages the lease is taken again: only while nobody has the file open is its
size changed, what the load does not write cleared, and a footer written that names the segment.
A daemon that is killed at any point leaves a file whose footer does not name it: the next run
removes that.

(Other orders were tried for the design: with them, clients read wrong values.)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from arrayd.wire import layout
from arrayd_server.kernel import segment_acl


def hand_down(fd: int, links: Iterable[tuple[str, str]]) -> None:
    """Do steps 1 to 3 for the segment at `fd`; `links` are the old and new path of each name.

    Raises
    ------
    OSError
        They are not done, or not all of them.
    """
    os.pwrite(fd, bytes(layout.FOOTER_BYTES), os.fstat(fd).st_size - layout.FOOTER_BYTES)
    segment_acl.clear(fd)
    for old, new in links:
        os.rename(old, new)


def take_over(fd: int, plan: layout.SegmentPlan) -> None:
    """Give a spare the size that is planned, and clear all that is not data.

    Raises
    ------
    OSError
        There are no pages for it.
    """
    os.ftruncate(fd, plan.size)
    os.posix_fallocate(fd, plan.meta_offset, plan.size - plan.meta_offset)
    os.pwrite(fd, bytes(plan.size - plan.data_bytes), plan.data_bytes)


def remove(inode: int, paths: Iterable[str]) -> None:
    """Remove those of the paths that lead to an inode."""
    for path in paths:
        with contextlib.suppress(OSError):
            if os.lstat(path).st_ino == inode:
                os.unlink(path)
