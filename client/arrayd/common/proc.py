"""Facts about processes, from /proc."""

from __future__ import annotations

import os
import sys

from arrayd.wire.layout import SHM


def start_time(pid: int) -> int:
    """Return when a process began, in clock ticks since boot; 0 if that is unknown.

    Together with the pid this names one process: field 22 of ``/proc/<pid>/stat`` (proc(5)),
    counted from the end of the program's name, which may hold anything.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def shared_memory() -> list[int]:
    """Return device and inode of /dev/shm: whether two processes see the same one."""
    info = os.stat(SHM)
    return [info.st_dev, info.st_ino]


def program() -> str:
    """Return a short name for what this process runs: the script, or the module."""
    name = os.path.basename(sys.argv[0] if sys.argv else "")
    if name in ("", "-c", "-m"):
        return "python"
    if name == "__main__.py":
        return os.path.basename(os.path.dirname(sys.argv[0])) or "python"
    return name
