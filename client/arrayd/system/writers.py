"""Which processes can write to a segment, found out in /proc (proc_pid_smaps(5)).

A process that is forked while a block is written inherits the mapping. The worker of a pool or of
an executor inherits it by accident: its arrays come to it in messages. It cannot drop the mapping,
because copies of its parent's frames refer to it. But one can see whether it ever touched it: a
fork copies no page tables of a shared mapping, so none of the pages is there before that.

After the fork, such a worker marks the mapping as one inherited by accident. The mark is
``MADV_RANDOM``, which has no effect on pages in memory, and which others see in smaps (``rr``).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

_PACKAGES = ("multiprocessing", "multiprocess", "concurrent", "joblib")


class Writer(NamedTuple):
    """A process that can write to a segment; `by_accident`: a worker that never touched it."""

    pid: int
    program: str
    by_accident: bool


def find(segment: str) -> list[Writer]:
    """Return the processes that have a writeable mapping of a segment."""
    found = []
    for name in sorted(filter(str.isdecimal, os.listdir("/proc")), key=int):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            mappings = list(_mappings(f"/proc/{name}", segment))
            if mappings:
                with open(f"/proc/{name}/comm") as file:
                    program = file.read().strip()
                found.append(Writer(int(name), program, all(map(_untouched, mappings))))
    return found


def is_worker() -> bool:
    """Return whether this process was just forked to be a worker that gets its work in messages.

    Only the function that called ``os.fork`` knows what the process is to run: it is on the stack.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == "_launch" and "process_obj" in frame.f_locals:
            target = getattr(frame.f_locals["process_obj"], "_target", None)
            home = str(getattr(target, "__module__", ""))
            return home.partition(".")[0] in _PACKAGES
    return False


def _mappings(process: str, segment: str) -> Iterator[dict[str, str]]:
    """Yield what smaps says of each shared, writeable mapping of a segment in a process."""
    with open(f"{process}/maps") as file:
        if segment not in file.read():
            return
    facts: dict[str, str] | None = None
    with open(f"{process}/smaps") as file:
        for line in file:
            key, _, rest = line.partition(" ")
            if not key.endswith(":"):  # the line of the next mapping: addresses, rights, name
                if facts is not None:
                    yield facts
                path = rest.removesuffix(" (deleted)\n").rstrip("\n")
                ours = path.endswith(f"/{segment}") and rest[1] == "w" and rest[3] == "s"
                facts = {} if ours else None
            elif facts is not None:
                facts[key] = rest.strip()
    if facts is not None:
        yield facts


def _untouched(facts: dict[str, str]) -> bool:
    pages = [facts.get(key, "?") for key in ("Rss:", "Swap:")]
    return pages == ["0 kB", "0 kB"] and "rr" in facts.get("VmFlags:", "").split()
