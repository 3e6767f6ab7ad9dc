"""What `arrayd doctor` says of machines that are not this one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arrayd.common.findings import FAIL, OK, WARN
from arrayd_server import doctor
from arrayd_server.kernel import leases, segment_acl
from arrayd_server.kernel.memory_limits import Capacity
from arrayd_server.segments.clean import Remains
from arrayd_server.segments.scope import Scope

GIB = 1 << 30


@pytest.mark.parametrize(
    ("shm", "budget", "state"),
    [(16 * GIB, 16 * GIB, OK), (16 * GIB, 17 * GIB, FAIL), (64 << 20, 32 << 20, WARN)],
)
def test_shared_memory(shm: int, budget: int, state: str) -> None:
    """A budget beyond /dev/shm fails; the 64 MiB of a container are a warning."""
    found = doctor.shared_memory(Capacity(32 * GIB, shm, None), budget)
    assert found.state == state
    assert ("remount,size=1" in found.remedy) == (state != OK)  # 17 or 18 GiB


@pytest.mark.parametrize(
    ("cgroup", "budget", "state", "kind"),
    [
        (None, 16 * GIB, OK, "RAM"),
        (None, 31 * GIB, WARN, "RAM"),
        (8 * GIB, 16 * GIB, FAIL, "the memory cgroup"),
    ],
)
def test_memory(cgroup: int | None, budget: int, state: str, kind: str) -> None:
    """The tighter of RAM and cgroup counts."""
    found = doctor.memory(Capacity(32 * GIB, 32 * GIB, cgroup), budget)
    assert (found.state, kind in found.words) == (state, True)


def test_landlock() -> None:
    """Without it no file is loaded for other users."""
    assert doctor.landlock_check(4).state == OK
    assert "5.13" in doctor.landlock_check(0).remedy


def test_what_this_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases and access lists are tried; what the kernel says is named."""

    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(leases, "alone", refused)
    monkeypatch.setattr(leases, "ignore_sigio", lambda: None)
    monkeypatch.setattr(segment_acl, "write", refused)
    for found in (doctor.lease_check(), doctor.acl_check()):
        assert found.state == WARN
        assert "SUP, Operation not supported)" in found.words


def machine(root: Path, files: dict[str, str]) -> Path:
    """Write the files of a machine."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("mount", "kernel", "state"),
    [
        ("rw,size=8k,huge=within_size", "always [never] deny force", OK),
        ("rw,size=8k", "always [never] deny force", WARN),
        ("rw,size=8k,huge=always", "always never [deny] force", WARN),
        ("rw,size=8k", "always never deny [force]", OK),
        ("rw,size=8k", None, OK),
    ],
)
def test_huge_pages(mount: str, kernel: str | None, state: str, tmp_path: Path) -> None:
    """The mount decides, unless the kernel denies or forces them."""
    files = {"proc/self/mountinfo": f"30 1 0:5 / /dev/shm rw shared:9 - tmpfs tmpfs {mount}\n"}
    if kernel is not None:
        files["sys/kernel/mm/transparent_hugepage/shmem_enabled"] = kernel
    assert doctor.huge_pages(machine(tmp_path, files)).state == state


@pytest.mark.parametrize(("hard", "state"), [(20000, OK), (1024, WARN), (256, FAIL)])
def test_descriptors(hard: int, state: str, tmp_path: Path) -> None:
    """The limit is that of the daemon's process."""
    text = f"Max processes             9   9    processes\nMax open files   64  {hard}   files \n"
    found = doctor.descriptors(7, machine(tmp_path, {"proc/7/limits": text}))
    assert (found.state, found.words.startswith(f"{hard:,}, the daemon may")) == (state, True)


def test_logout(tmp_path: Path) -> None:
    """Only systemd removes memory at log-out, of people, who do not linger, unless told no."""
    uid = 54321
    assert doctor.logout(uid, tmp_path).state == OK
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert doctor.logout(uid, tmp_path).state == WARN
    assert doctor.logout(999, tmp_path).state == OK
    machine(tmp_path, {"etc/systemd/logind.conf": "[Login]\n#RemoveIPC=yes\nRemoveIPC=no\n"})
    assert doctor.logout(uid, tmp_path).state == OK
    machine(tmp_path, {"run/systemd/logind.conf.d/9.conf": "[Login]\nRemoveIPC=yes\n"})
    assert doctor.logout(uid, tmp_path).state == WARN
    machine(tmp_path, {f"var/lib/systemd/linger/{uid}": ""})
    assert doctor.logout(uid, tmp_path).state == OK


def test_other_daemons() -> None:
    """Daemons that live count as others, but for the one at the endpoint; the dead as remains."""
    found = {"a" * 10: Remains(os.getpid(), 2, 4096), "b" * 10: Remains(None, 1, 4096)}
    assert "left 1 segment, 4.0 KiB" in doctor.remains(found).words
    endpoint = "ipc:///tmp/x"
    assert f"pid {os.getpid()}" in doctor.others(found, endpoint, 0).words
    assert doctor.others(found, endpoint, os.getpid()).state == OK
    assert doctor.remains({}).state == OK


def test_a_private_daemon_beside_another_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is meant to be there, beside a daemon that is not of this user; beside one's own not."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp/of-nobody")
    private = Scope("ipc:///tmp/of-nobody/arrayd/sock").id
    found = {private: Remains(7, 2, 4096)}
    assert doctor.others(found, "ipc:///tmp/x", 8).state == OK
    assert doctor.others({**found, "a" * 10: Remains(8, 0, 0)}, "ipc:///tmp/x", 8).state == WARN
    assert doctor.others({**found, "a" * 10: Remains(9, 0, 0)}, "ipc:///tmp/x", 8).state == WARN


def test_bad_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no daemon runs, the options that one would have are looked at."""
    monkeypatch.setenv("ARRAYD_BUDGET", "much")
    first = next(doctor.diagnose("ipc:///tmp/x", 0, 0))
    assert (first.state, first.check) == (FAIL, "options")
    assert "ARRAYD_BUDGET=much" in first.words
