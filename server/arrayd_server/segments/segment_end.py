"""The end of a segment, where it says what it is; and whether all of it is there."""

from __future__ import annotations

import os
import zlib
from typing import Any

from arrayd.common import failpoints
from arrayd.errors import DaemonError
from arrayd.wire import layout


def check_pages(fd: int, name: str, plan: layout.SegmentPlan) -> None:
    """Refuse a segment that a process with write access has made smaller, or hollow.

    Readers would get SIGBUS where there are no pages.

    Raises
    ------
    DaemonError
        This is one.
    """
    info = os.fstat(fd)
    if info.st_size != plan.size or info.st_blocks * 512 < plan.size:
        raise DaemonError(
            f"{name} has {info.st_size} bytes and pages for {info.st_blocks * 512}, not the "
            f"{plan.size} that were given: whoever wrote it has cut it off. Write it again."
        )


def write_end(
    fd: int, name: str, plan: layout.SegmentPlan, meta: dict[str, Any], *, sealed: bool
) -> None:
    """Write the metadata of the segment at `fd`, and its footer."""
    raw = layout.pack_meta(meta)
    assert len(raw) <= plan.meta_room, "the metadata outgrew its place"
    os.pwrite(fd, raw, plan.meta_offset)
    failpoints.hit("daemon.half_written")
    footer = layout.Footer(
        name, plan.data_bytes, plan.meta_offset, len(raw), zlib.crc32(raw), sealed
    )
    os.pwrite(fd, footer.pack(), plan.size - layout.FOOTER_BYTES)
