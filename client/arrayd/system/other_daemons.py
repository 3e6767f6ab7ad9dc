"""What the daemons of the machine have in /dev/shm: names and sizes of segments, which all may see.

No daemon is asked: whose a segment is the kernel says, and which daemon's its name.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import NamedTuple

from arrayd.wire import layout


class UserSegments(NamedTuple):
    """Number and size in bytes of a user's segments; of one that is being filled what it has."""

    blocks: int
    size: int


def segments_besides(scope: str, folder: str = layout.SHM) -> dict[int, UserSegments]:
    """Return the segments of all daemons but that of a scope, by the uid of their user."""
    found: dict[int, UserSegments] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            name = re.fullmatch(layout.SEGMENT_NAME, entry.name)
            if name is None or name[1] == scope:
                continue
            with contextlib.suppress(OSError):  # it has gone
                info = entry.stat(follow_symlinks=False)
                blocks, size = found.get(info.st_uid, (0, 0))
                found[info.st_uid] = UserSegments(blocks + 1, size + 512 * info.st_blocks)
    return found
