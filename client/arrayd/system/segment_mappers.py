"""Which processes map a segment, by /proc: of a block that is mapped though nobody holds it.

The daemon learns from the kernel that somebody does, not who. /proc tells each user of its own
processes, and root of all, so it is read by who wants to know.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection

from arrayd.wire.layout import PREFIX, SHM

_MAPPED = re.compile(rf"(?m)^.* {re.escape(SHM)}/({PREFIX}[0-9a-f-]+)(?: \(deleted\))?$")


def mappers(segments: Collection[str], proc: str = "/proc") -> dict[str, tuple[int, ...]]:
    """Return the pids of the processes that map each of these segments, as far as one may see."""
    found: dict[str, list[int]] = {segment: [] for segment in segments}
    pids = sorted(int(name) for name in os.listdir(proc) if name.isdigit()) if found else ()
    for pid in pids:
        # It may have ended, or be another user's.
        with contextlib.suppress(OSError), open(f"{proc}/{pid}/maps", errors="replace") as file:
            for segment in found.keys() & set(_MAPPED.findall(file.read())):
                found[segment].append(pid)
    return {segment: tuple(pids) for segment, pids in found.items()}
