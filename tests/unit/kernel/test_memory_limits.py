"""The machine's memory_limits, read from fake and from real kernel files."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from arrayd_server.kernel import memory_limits

GIB = 1 << 30
UNLIMITED_V1 = "9223372036854771712\n"


def fake_proc(root: Path, cgroup: str, mounts: str) -> Path:
    """Return a /proc whose process is in `cgroup`; 64 GiB of RAM, 10 available."""
    proc = root / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(cgroup)
    (proc / "self" / "mountinfo").write_text(mounts)
    (proc / "meminfo").write_text(
        f"MemTotal: {64 << 20} kB\nMemFree: 1 kB\nMemAvailable: {10 << 20} kB\n"
    )
    return proc


def group(path: Path, **files: object) -> None:
    """Create a cgroup directory whose files are ``memory.<name>``."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / f"memory.{name}").write_text(f"{content}\n")


def v2(root: Path) -> Path:
    """Return a /proc with a cgroup v2 mount at ``root/cg`` and the process in /user/app."""
    mounts = (
        f"22 1 0:20 / {root}/sys rw - sysfs sysfs rw\n"
        f"31 22 0:28 / {root}/cg rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    return fake_proc(root, "0::/user/app\n", mounts)


def v1(root: Path, path: str, mount_root: str = "/") -> Path:
    """Return a /proc with v1 hierarchies for cpu and memory, the process in `path`."""
    mounts = (
        f"31 22 0:28 {mount_root} {root}/cpu rw - cgroup cgroup rw,cpu\n"
        f"32 22 0:29 {mount_root} {root}/mem rw - cgroup cgroup rw,memory\n"
    )
    return fake_proc(root, f"5:cpu:/elsewhere\n4:memory:{path}\n0::/\n", mounts)


def test_the_tightest_level_of_v2_counts(tmp_path: Path) -> None:
    """A parent's limit binds its children; so does memory.high below memory.max."""
    proc = v2(tmp_path)
    group(tmp_path / "cg/user/app", max="max", high="max", current=GIB)
    group(tmp_path / "cg/user", max=9 * GIB, high=8 * GIB, current=5 * GIB, stat="anon 3")
    assert memory_limits.capacity(tmp_path, proc).cgroup == 8 * GIB
    assert memory_limits.headroom(tmp_path, proc).cgroup_free == 3 * GIB


def test_page_cache_is_free(tmp_path: Path) -> None:
    """What the kernel drops on demand does not count as used; pages of /dev/shm do."""
    stat = f"anon 7\nfile {3 * GIB}\nshmem {GIB}\ninactive_file {GIB}\nactive_file {GIB}"
    group(tmp_path / "cg/user/app", max=4 * GIB, current=4 * GIB, stat=stat)
    assert memory_limits.headroom(tmp_path, v2(tmp_path)).cgroup_free == 2 * GIB


def test_v1_counts_child_groups_and_knows_its_infinity(tmp_path: Path) -> None:
    """The hierarchical total_ keys are used, and 2**63 less a page is no limit."""
    proc = v1(tmp_path, "/job/step")
    group(tmp_path / "mem/job/step", limit_in_bytes=UNLIMITED_V1, usage_in_bytes=0)
    stat = f"inactive_file 0\nactive_file 0\ntotal_inactive_file {GIB}\ntotal_active_file 0"
    group(tmp_path / "mem/job", limit_in_bytes=4 * GIB, usage_in_bytes=3 * GIB, stat=stat)
    group(tmp_path / "mem", limit_in_bytes=UNLIMITED_V1, usage_in_bytes=40 * GIB)
    assert memory_limits.capacity(tmp_path, proc).cgroup == 4 * GIB
    assert memory_limits.headroom(tmp_path, proc).cgroup_free == 2 * GIB


def test_a_container_that_sees_a_subtree(tmp_path: Path) -> None:
    """Without a cgroup namespace the path is the host's and the mount shows a part of it."""
    proc = v1(tmp_path, "/docker/abc/inner", mount_root="/docker/abc")
    group(tmp_path / "mem/inner", limit_in_bytes=UNLIMITED_V1)
    group(tmp_path / "mem", limit_in_bytes=2 * GIB, usage_in_bytes=GIB)
    assert memory_limits.headroom(tmp_path, proc).cgroup_free == GIB


def test_a_process_outside_its_namespaces_root(tmp_path: Path) -> None:
    """A path with .. is not followed out of the mount; the mount's own limit counts."""
    proc = v1(tmp_path, "/../../other")
    group(tmp_path / "mem", limit_in_bytes=2 * GIB, usage_in_bytes=3 * GIB)
    assert memory_limits.headroom(tmp_path, proc).cgroup_free == 0


def test_without_a_limit_there_is_none(tmp_path: Path) -> None:
    """No cgroup, or none with a limit: only /dev/shm bounds what is free."""
    room = memory_limits.headroom(tmp_path, fake_proc(tmp_path, "", ""))
    assert room.cgroup_free is None
    assert room.free == room.shm_free


def test_the_smallest_of_the_three_bounds_a_budget() -> None:
    """RAM, /dev/shm or the cgroup, whichever is least."""
    assert memory_limits.Capacity(ram=3, shm=2, cgroup=None).smallest == 2
    assert memory_limits.Capacity(ram=3, shm=2, cgroup=1).smallest == 1
    assert memory_limits.Headroom(shm_free=2, cgroup_free=1).free == 1


def test_a_new_limit_is_seen_at_once(tmp_path: Path) -> None:
    """Only the places are remembered; systemctl set-property works on a running daemon."""
    proc = v2(tmp_path)
    group(tmp_path / "cg/user/app", max=4 * GIB, current=0)
    assert memory_limits.headroom(tmp_path, proc).cgroup_free == 4 * GIB
    group(tmp_path / "cg/user/app", max=GIB)
    assert memory_limits.headroom(tmp_path, proc).cgroup_free == GIB


def test_a_tmpfs_without_a_size_is_bounded_by_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For tmpfs with size=0 statvfs says 0 blocks: RAM, and what is available of it, count."""
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_blocks=0))
    proc = fake_proc(tmp_path, "", "")
    assert memory_limits.capacity(tmp_path, proc).shm == 64 * GIB
    assert memory_limits.headroom(tmp_path, proc).shm_free == 10 * GIB


def test_this_machine() -> None:
    """On the real files the numbers are those of statvfs and sysconf."""
    stat = os.statvfs("/dev/shm")
    capacity, room = memory_limits.capacity(), memory_limits.headroom()
    assert capacity.shm == stat.f_blocks * stat.f_frsize
    assert 0 <= room.shm_free <= capacity.shm
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0.5 * pages <= capacity.ram <= pages * 1.01  # lxcfs may show a container less


def press(proc: Path, available: int, stalled: int | None) -> None:
    """Let a machine of 1,000 KiB have so many of them left, and have waited so long."""
    (proc / "meminfo").write_text(f"MemTotal: 1000 kB\nMemAvailable: {available} kB\n")
    (proc / "pressure").mkdir(exist_ok=True)
    if stalled is not None:
        some = f"some avg10=0.00 avg60=0.00 avg300=0.00 total={stalled}"
        (proc / "pressure" / "memory").write_text(f"{some}\n{some.replace('some', 'full')}\n")


def test_pressure(tmp_path: Path) -> None:
    """Memory is short when little is available, or processes have waited since the last look."""
    press(tmp_path, 500, None)
    pressure = memory_limits.Pressure(tmp_path)
    assert not pressure.is_high()
    press(tmp_path, 99, None)
    assert pressure.is_high()
    press(tmp_path, 500, 1_000_000)
    pressure = memory_limits.Pressure(tmp_path)
    assert not pressure.is_high()
    press(tmp_path, 500, 1_000_000 + memory_limits.STALL)
    assert not pressure.is_high()
    press(tmp_path, 500, 1_000_001 + 2 * memory_limits.STALL)
    assert pressure.is_high()
    assert not pressure.is_high()
