"""A memory cgroup of one's own, v1 or v2, where this machine lets us make one."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from arrayd_server.kernel import memory_limits
from tests.support.processes import wait_until


class Cgroup:
    """A group with a memory limit in bytes; `wrapper` puts a process into it by exec."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        path.mkdir()
        self._v2 = (path / "memory.max").exists()
        if self._v2 and (path / "memory.swap.max").exists():
            (path / "memory.swap.max").write_text("0")
        self.limit(limit)
        self.wrapper = ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(path))

    def limit(self, nbytes: int) -> None:
        """Set the limit."""
        name = "memory.max" if self._v2 else "memory.limit_in_bytes"
        (self.path / name).write_text(str(nbytes))

    @property
    def used(self) -> int:
        """Return the bytes that are charged."""
        name = "memory.current" if self._v2 else "memory.usage_in_bytes"
        return int((self.path / name).read_text())

    @property
    def kills(self) -> int:
        """Return how many processes the kernel has killed for want of memory."""
        name = "memory.events" if self._v2 else "memory.oom_control"
        words = dict(line.split() for line in (self.path / name).read_text().splitlines())
        return int(words["oom_kill"])

    def remove(self) -> None:
        """Remove it, once its processes are gone."""
        wait_until(lambda: not (self.path / "cgroup.procs").read_text(), "the group is empty")
        with contextlib.suppress(FileNotFoundError):
            self.path.rmdir()


def parent() -> Path | None:
    """Return a directory in which memory groups can be made; None: there is none."""
    if os.geteuid() != 0:
        return None
    own = memory_limits._own_groups(Path("/proc"))
    for fstype, root, mount in memory_limits._cgroup_mounts(Path("/proc")):
        group = own.get(fstype, PurePosixPath("/"))
        inside = mount / group.relative_to(root) if group.is_relative_to(root) else mount
        for place in (inside, mount):
            if _has_memory(place, fstype):
                return place
    return None


def _has_memory(place: Path, fstype: str) -> bool:
    trial = place / f"arrayd-trial-{secrets.token_hex(4)}"
    name = "memory.max" if fstype == "cgroup2" else "memory.limit_in_bytes"
    try:
        trial.mkdir()
        try:
            (trial / name).write_text(str(1 << 30))
        finally:
            trial.rmdir()
    except OSError:
        return False
    return True


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    """Give a group with 1 GiB; its processes must end with the test."""
    place = parent()
    if place is None:
        pytest.skip("no memory cgroup can be made here (not root, or nothing is delegated)")
    made = Cgroup(place / f"arrayd-{secrets.token_hex(4)}", 1 << 30)
    yield made
    made.remove()
