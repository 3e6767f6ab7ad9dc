"""How much memory there is, and how much is left: RAM, /dev/shm and the memory cgroups.

Reserving more than is free in /dev/shm is an error, more than a cgroup's limit gets a process
killed; so `headroom` is measured before every reservation. Limits of cgroups v1 and
v2 are read alike, at every level from this process's own group to the root: the
tightest counts.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from arrayd.wire import layout
from arrayd_server.core import bounds
from arrayd_server.core.bounds import Bound

SHORT = 10
"""Memory is short when less than this part of it is left."""

STALL = 50_000
"""Microseconds of waiting for memory, between two looks, that mean that it is short."""

_CHUNK = 16 << 10

SHM = Path(layout.SHM)
PROC = Path("/proc")

# cgroup v1 writes "no limit" as the largest multiple of the page size in an int64.
_UNLIMITED = 1 << 62
# Past memory.high the kernel does not kill, it stalls the writer: a limit too.
_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")
_USAGES = ("memory.current", "memory.usage_in_bytes")


@dataclass(frozen=True, slots=True)
class Headroom:
    """Bytes of segments that can be reserved now.

    Parameters
    ----------
    shm_free
        Until /dev/shm is full.
    cgroup_free
        Until the tightest memory cgroup is full; page cache counts as free, since the
        kernel takes it back first. None: no cgroup sets a limit.
    """

    shm_free: int
    cgroup_free: int | None

    @property
    def free(self) -> int:
        """The smaller of the two."""
        return self.shm_free if self.cgroup_free is None else min(self.shm_free, self.cgroup_free)

    @property
    def tightest(self) -> Bound:
        """Which of the two it is."""
        return bounds.SHM if self.free == self.shm_free else bounds.CGROUP


@dataclass(frozen=True, slots=True)
class Capacity:
    """Bytes that fit at most: RAM, /dev/shm, the tightest memory cgroup (None: no limit)."""

    ram: int
    shm: int
    cgroup: int | None

    @property
    def smallest(self) -> int:
        """The smallest of them."""
        sizes = (self.ram, self.shm)
        return min(sizes) if self.cgroup is None else min(*sizes, self.cgroup)

    @property
    def tightest(self) -> Bound:
        """Which one that is."""
        if self.smallest == self.shm:
            return bounds.SHM
        return bounds.CGROUP if self.smallest == self.cgroup else bounds.RAM


def headroom(shm: Path = SHM, proc: Path = PROC) -> Headroom:
    """Return what can be reserved now."""
    free = [_free(group, limit) for group, limit in _limited_groups(proc)]
    return Headroom(_shm(shm, proc)[1], min(free, default=None))


def capacity(shm: Path = SHM, proc: Path = PROC) -> Capacity:
    """Return the sizes that bound every budget."""
    limits = [limit for _, limit in _limited_groups(proc)]
    return Capacity(_meminfo(proc, "MemTotal"), _shm(shm, proc)[0], min(limits, default=None))


class Pressure:
    """Tells when memory is short for whoever needs some.

    That is: less than a `SHORT` part of RAM is available, or of the tightest cgroup free; or
    processes have waited for memory since the last look (pressure stall information, PSI).
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._stalled = _stalled(proc)

    def is_high(self) -> bool:
        """Say whether memory is short now, or was since the last call."""
        before, self._stalled = self._stalled, _stalled(self._proc)
        available, total = (_meminfo(self._proc, key) for key in ("MemAvailable", "MemTotal"))
        groups = _limited_groups(self._proc)
        short = any(_free(group, limit) < limit // SHORT for group, limit in groups)
        return short or available < total // SHORT or self._stalled - before > STALL


def _stalled(proc: Path) -> int:
    """Return for how many microseconds, all told, any process has waited for memory."""
    _, _, total = _read(proc / "pressure" / "memory").partition("total=")
    return int(total.split()[0]) if total else 0


def _shm(shm: Path, proc: Path) -> tuple[int, int]:
    """Return total and free bytes of the file system at `shm`."""
    stat = os.statvfs(shm)
    if stat.f_blocks == 0:  # a tmpfs mounted with size=0: bounded by memory alone
        return _meminfo(proc, "MemTotal"), _meminfo(proc, "MemAvailable")
    return stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize


def _meminfo(proc: Path, key: str) -> int:
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise KeyError(f"{proc}/meminfo has no {key}")


def _limited_groups(proc: Path) -> Iterator[tuple[Path, int]]:
    """Yield each memory cgroup above this process that sets a limit, and the limit."""
    for group, files in _groups(proc):
        limits = [value for file in files if (value := _number(file)) is not None]
        if limits and min(limits) < _UNLIMITED:
            yield group, min(limits)


@functools.cache  # a service stays in its cgroup; what the files say may change
def _groups(proc: Path) -> tuple[tuple[Path, tuple[Path, ...]], ...]:
    """Return this process's memory cgroups, from its own to the root, with their limit files."""
    files = ((group, tuple(group / name for name in _LIMITS)) for group in _levels(proc))
    return tuple((group, tuple(file for file in paths if file.exists())) for group, paths in files)


def _levels(proc: Path) -> Iterator[Path]:
    own = _own_groups(proc)
    for fstype, root, mount in _cgroup_mounts(proc):
        path = own.get(fstype)
        if path is None:
            continue
        # In a container without a cgroup namespace the mount shows a subtree of the path.
        visible = path.is_relative_to(root) and ".." not in path.parts
        leaf = mount / path.relative_to(root) if visible else mount
        yield leaf
        yield from (parent for parent in leaf.parents if parent.is_relative_to(mount))


def _own_groups(proc: Path) -> dict[str, PurePosixPath]:
    """Return this process's path in the v2 and in the v1 memory hierarchy."""
    own = {}
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            own["cgroup2"] = PurePosixPath(path)
        elif "memory" in controllers.split(","):
            own["cgroup"] = PurePosixPath(path)
    return own


def _cgroup_mounts(proc: Path) -> Iterator[tuple[str, PurePosixPath, Path]]:
    """Yield type, root and mount point of the cgroup file systems that can limit memory."""
    for line in _read(proc / "self" / "mountinfo").splitlines():
        mount, _, filesystem = line.partition(" - ")
        fstype, _, options = filesystem.split(" ", 2)
        if fstype == "cgroup2" or (fstype == "cgroup" and "memory" in options.split(",")):
            root, point = mount.split(" ")[3:5]
            yield fstype, PurePosixPath(root), Path(point)


def _free(group: Path, limit: int) -> int:
    used = next((n for name in _USAGES if (n := _number(group / name)) is not None), 0)
    stat = dict(line.split(" ", 1) for line in _read(group / "memory.stat").splitlines())
    # v1's plain keys leave out the child groups; its total_ keys are v2's plain ones.
    # Pages of /dev/shm are not in these lists: the kernel keeps them among the anonymous.
    cache = (stat.get(f"total_{key}", stat.get(key, 0)) for key in ("inactive_file", "active_file"))
    return max(0, limit - used + sum(map(int, cache)))


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    """Return the file's text; empty where the kernel, or this level, does not have it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:  # several for each load: a file object takes twice as long
        return b"".join(iter(lambda: os.read(fd, _CHUNK), b"")).decode()
    except OSError:
        return ""
    finally:
        os.close(fd)
