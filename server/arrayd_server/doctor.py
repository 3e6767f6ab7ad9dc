"""``python -m arrayd_server.doctor [ENDPOINT [PID BUDGET]]``: what the machine offers a daemon.

Prints a JSON list of findings (`arrayd.common.findings`); `arrayd doctor` shows them, beside what
a client can tell of the daemon that runs: its endpoint, process and budget in bytes are the
arguments. Nothing is changed: what is tried is tried on a file of no name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pwd
import re
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from arrayd.common import endpoints
from arrayd.common.bytesize import format_bytes
from arrayd.common.findings import FAIL, OK, WARN, Finding
from arrayd.wire import layout
from arrayd_server.config import Config
from arrayd_server.config_file import ConfigError
from arrayd_server.kernel import landlock, leases, memory_limits, segment_acl
from arrayd_server.kernel.memory_limits import Capacity
from arrayd_server.segments import clean
from arrayd_server.segments.scope import Scope

ROOT = Path("/")

DOCKER_SHM = 64 << 20
"""Bytes of /dev/shm in a container that was not told otherwise."""

FEW_DESCRIPTORS = 4096
"""Open files below which a daemon serves fewer than a thousand clients."""

FIRST_USER = 1000
"""The uid from which logind takes users for people, whose shared memory it removes."""


def shared_memory(capacity: Capacity, budget: int) -> Finding:
    """Compare /dev/shm with the budget of the daemon."""
    size, wanted = format_bytes(capacity.shm), format_bytes(budget)
    words = f"{size}, and the budget is {wanted}."
    gib = 1 + max(capacity.ram // 2, budget) // 2**30
    enlarge = (
        f"Enlarge it (`mount -o remount,size={gib}G /dev/shm`; a container: `--shm-size {gib}g`, "
        "or an emptyDir of medium Memory)"
    )
    if budget > capacity.shm:
        return Finding(FAIL, "/dev/shm", words, f"{enlarge}, or give a smaller --budget.")
    if capacity.shm <= DOCKER_SHM:
        return Finding(WARN, "/dev/shm", f"{words} That holds no big array.", f"{enlarge}.")
    return Finding(OK, "/dev/shm", words)


def memory(capacity: Capacity, budget: int) -> Finding:
    """Compare RAM, or the tightest memory cgroup, with the budget."""
    limit = capacity.ram if capacity.cgroup is None else min(capacity.ram, capacity.cgroup)
    kind = "RAM" if limit == capacity.ram else "the memory cgroup"
    words = f"{format_bytes(limit)} of {kind}, and the budget is {format_bytes(budget)}."
    if budget > limit:
        remedy = f"Give a --budget below {format_bytes(limit)}: what is beyond it is swapped, or "
        return Finding(FAIL, "memory", words, f"{remedy}gets a process killed.")
    if budget > limit * 0.9:
        return Finding(
            WARN, "memory", words, "Little is left for programs: give a smaller --budget."
        )
    return Finding(OK, "memory", words)


def lease_check() -> Finding:
    """Try whether the kernel tells who maps a segment."""

    def try_it(fd: int) -> None:
        leases.ignore_sigio()
        leases.alone(fd)

    why = _tried(try_it)
    if why is None:
        return Finding(OK, "leases", "The kernel tells whether anybody maps a block.")
    return Finding(
        WARN,
        "leases",
        f"The kernel does not tell whether anybody maps a block ({why}): only clients that say so "
        "are known to use one, and every get asks the daemon.",
        "`sysctl fs.leases-enable=1`; gVisor has none.",
    )


def acl_check() -> Finding:
    """Try whether a segment can be opened to one other user."""
    why = _tried(lambda fd: segment_acl.write(fd, [os.geteuid() + 1]))
    if why is None:
        return Finding(OK, "access lists", "/dev/shm can let other users in to one block.")
    return Finding(
        WARN,
        "access lists",
        f"/dev/shm has no access control lists ({why}): other users get nothing.",
        "Use a kernel with CONFIG_TMPFS_POSIX_ACL, or let each user have a daemon.",
    )


def landlock_check(version: int) -> Finding:
    """Say whether a loader can be confined to the file of another user."""
    if version:
        return Finding(OK, "Landlock", f"Version {version}: loaders for other users are confined.")
    return Finding(
        WARN,
        "Landlock",
        "The kernel has none, or does not use it: no file is loaded for other users.",
        "Linux 5.13 or later, with landlock in the list of the boot option lsm=.",
    )


def huge_pages(root: Path = ROOT) -> Finding:
    """Say whether /dev/shm uses huge pages: they make loads and first passes faster."""
    options = _mount_options(root)
    chosen = next((word[5:] for word in options if word.startswith("huge=")), "never")
    path = root / "sys/kernel/mm/transparent_hugepage/shmem_enabled"
    forced = re.search(r"\[(\w+)\]", _text(path))
    if forced and forced[1] in ("deny", "force"):
        chosen = "never" if forced[1] == "deny" else "always"
    if chosen in ("always", "within_size"):
        return Finding(OK, "huge pages", f"/dev/shm uses them (huge={chosen}).")
    if not forced:
        return Finding(OK, "huge pages", "The kernel has none for /dev/shm: it works without.")
    return Finding(
        WARN,
        "huge pages",
        f"/dev/shm does not use them (huge={chosen}): first passes over a block are slower.",
        "`mount -o remount,huge=within_size /dev/shm`; for good, in /etc/fstab.",
    )


def descriptors(pid: int = 0, root: Path = ROOT) -> Finding:
    """Say how many files the daemon, or one that we start, may open."""
    line = re.search(r"(?m)^Max open files +\w+ +(\d+)", _text(root / f"proc/{pid}/limits"))
    hard = int(line[1]) if line else resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    whose = "the daemon may" if line else "a daemon started here may"
    if hard == resource.RLIM_INFINITY or hard >= FEW_DESCRIPTORS:
        shown = "any number" if hard == resource.RLIM_INFINITY else f"{hard:,}"
        return Finding(OK, "open files", f"{shown}, {whose} have.")
    remedy = "`ulimit -Hn 65536`, LimitNOFILE= in its unit, or the container's --ulimit nofile."
    return Finding(
        FAIL if hard < 512 else WARN,
        "open files",
        f"{hard:,}, {whose} have; each client takes up to four.",
        remedy,
    )


def logout(uid: int, root: Path = ROOT) -> Finding:
    """Say whether logind removes a user's segments when the user has logged out.

    RemoveIPC= is on unless logind.conf says otherwise (logind.conf(5)); it spares system users, and
    those who linger.
    """
    if not (root / "run/systemd/system").is_dir():
        return Finding(OK, "log-out", "No systemd: nobody's shared memory is removed at log-out.")
    if uid < FIRST_USER:
        return Finding(OK, "log-out", "A system user's shared memory is not removed.")
    user = _user(uid)
    if not _removes_ipc(root):
        return Finding(OK, "log-out", "logind leaves shared memory alone (RemoveIPC=no).")
    if (root / "var/lib/systemd/linger" / user).exists():
        return Finding(OK, "log-out", f"{user} lingers: logind leaves the shared memory alone.")
    return Finding(
        WARN,
        "log-out",
        f"When {user} has logged out, logind ends the user's services and removes what the daemon "
        "has in /dev/shm.",
        f"`loginctl enable-linger {user}`, or RemoveIPC=no in /etc/systemd/logind.conf.",
    )


def remains(found: dict[str, clean.Remains]) -> Finding:
    """Say what daemons that are gone have left."""
    dead = [one for one in found.values() if one.pid is None and one.segments]
    if not dead:
        return Finding(OK, "remains", "No daemon of yours has left anything in /dev/shm.")
    count, size = sum(one.segments for one in dead), sum(one.size for one in dead)
    return Finding(
        WARN,
        "remains",
        f"Daemons that are gone have left {count} segment{'s' * (count > 1)}, "
        f"{format_bytes(size)}.",
        "The next daemon at the same endpoint takes them over; `arrayd clean` removes what nobody "
        "maps.",
    )


def others(found: dict[str, clean.Remains], endpoint: str, pid: int) -> Finding:
    """Say whether this user has more daemons than the one that clients find.

    Beside that of another user there may be the private one, which reads what that may not.
    """
    expected = {Scope(endpoint).id}
    if pid and all(one.pid != pid for one in found.values()):
        expected.add(Scope(endpoints.normalize(endpoints.private_socket())).id)
    alive = {one.pid for name, one in found.items() if one.pid is not None and name not in expected}
    rest = sorted(alive - {pid})
    if not rest:
        return Finding(OK, "second daemon", "No other daemon of yours runs.")
    pids = ", ".join(str(one) if one else "of another container" for one in rest)
    return Finding(
        WARN,
        "second daemon",
        f"Other daemons of yours run as well (pid {pids}): each has a budget and copies of its "
        "own.",
        "`arrayd stop --endpoint ipc://PATH` ends one; let ARRAYD_ENDPOINT name the same one "
        "everywhere.",
    )


def diagnose(endpoint: str, pid: int, budget: int) -> Iterator[Finding]:
    """Yield what was found; `pid` 0: no daemon runs, and its budget would be the options'."""
    capacity = memory_limits.capacity()
    if not pid:
        try:
            budget = Config.load([]).budget
        except ConfigError as error:
            yield Finding(FAIL, "options", str(error), "`arrayd config check` tells all errors.")
            budget = capacity.smallest // 2
    yield shared_memory(capacity, budget)
    yield memory(capacity, budget)
    yield lease_check()
    yield acl_check()
    yield landlock_check(landlock.version())
    yield huge_pages()
    yield descriptors(pid)
    yield logout(_owner(pid))
    found = clean.survey()
    yield remains(found)
    yield others(found, endpoint, pid)


def _tried(attempt: Callable[[int], object]) -> str | None:
    """Do it to a file of /dev/shm that has no name; return why that failed."""
    try:
        fd = os.open(layout.SHM, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            attempt(fd)
        finally:
            os.close(fd)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?") + f", {error.strerror}"
    return None


def _mount_options(root: Path) -> list[str]:
    """Return the options of /dev/shm as it is mounted; the last mount is the one that is seen."""
    options: list[str] = []
    for line in _text(root / "proc/self/mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        if mount.split(" ")[4] == layout.SHM:
            options = system.split(" ")[2].split(",")
    return options


def _removes_ipc(root: Path) -> bool:
    """Say whether logind does; a later file overrules, and a drop-in the file itself."""
    removes = True
    folders = [root / "usr/lib/systemd", root / "run/systemd", root / "etc/systemd"]
    files = [folder / "logind.conf" for folder in folders]
    dropped = (path for folder in folders for path in (folder / "logind.conf.d").glob("*.conf"))
    for path in [*files, *sorted(dropped, key=lambda path: path.name)]:
        for value in re.findall(r"(?m)^\s*RemoveIPC\s*=\s*(\w*)", _text(path)):
            removes = value.lower() in ("yes", "true", "1", "on", "")
    return removes


def _owner(pid: int) -> int:
    """Return the user of the daemon's process, or of this one."""
    with contextlib.suppress(OSError):
        return os.stat(f"/proc/{pid}").st_uid
    return os.geteuid()


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def main() -> int:
    """Print what was found."""
    endpoint, pid, budget, *_ = [*sys.argv[1:], *("", "0", "0")[len(sys.argv) - 1 :]]
    endpoint = endpoint or f"ipc://{endpoints.private_socket()}"
    found = diagnose(endpoint, int(pid), int(budget))
    json.dump([dataclasses.asdict(finding) for finding in found], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
