"""A real systemd as process 1 of namespaces of its own, for tests of the units.

It sees this machine's files through an overlay, so what it and its services write is gone with it;
it has /run, /tmp and /dev/shm of its own, and a cgroup of its own. It boots a target that has no
units but those that a test starts. One folder of the test is shared: `SHARED` inside.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]

_UNSHARED = ("unshare", "--pid", "--fork", "--mount", "--uts", "--ipc", "--cgroup")

SYSTEMD = Path("/lib/systemd/systemd")

SHARED = Path("/mnt")
"""Where the test's folder is inside."""

_BOOT = r"""
set -eu
place=$1; shared=$2; shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs "$place"
over() { # lower directory, mount point, name
    mkdir -p "$place/$3/upper" "$place/$3/work" "$2"
    mount -t overlay -o "lowerdir=$1,upperdir=$place/$3/upper,workdir=$place/$3/work" overlay "$2"
}
root=$place/root
over / "$root" base
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for name in run tmp var/tmp; do mount -t tmpfs tmpfs "$root/$name"; done
chmod 1777 "$root/tmp" "$root/var/tmp"
# What runs there, and is on another file system, or hidden by those just mounted.
number=0
for path; do
    number=$((number + 1))
    [ -x "$root$path" ] && [ "$(stat -c %d "$path")" = "$(stat -c %d /)" ] ||
        over "$path" "$root$path" "more$number"
    while [ "$path" != / ]; do chmod a+rx "$root$path"; path=$(dirname "$path"); done
done
mount --bind "$shared" "$root/mnt"
mkdir -p "$root/run/systemd/system"
printf '[Unit]\nDescription=tests\nAllowIsolate=yes\n' >"$root/run/systemd/system/tests.target"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=unshare chroot "$root" \
    /lib/systemd/systemd --system --unit=tests.target --log-target=console --show-status=no
"""

_TRIAL = r"""
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root" "$1/groups"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
mount -t cgroup2 cgroup2 "$1/groups"
"""


_READER = """
import json, sys, arrayd
space = {"arrayd": arrayd}
for line in sys.stdin:
    code, kind = json.loads(line)
    value = eval(code, space) if kind == "eval" else exec(code, space)
    print(json.dumps(value), flush=True)
"""


@dataclass
class RealSystemd:
    """One that runs.

    Parameters
    ----------
    pid
        Of its process 1, as we see it.
    shared
        The folder that it has at `SHARED`.
    """

    pid: int
    shared: Path

    def enter(self, user: str = "root") -> list[str]:
        """Return the command that becomes one inside by exec, as a user and his groups."""
        inside = ["nsenter", "-t", str(self.pid), "-a", "-r", "-w"]
        if user == "root":
            return inside
        return [*inside, "setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]

    def run(self, *command: str, user: str = "root", ok: bool = True) -> str:
        """Run a command inside; return what it prints, or fail unless it may."""
        done = subprocess.run(
            [*self.enter(user), *command], capture_output=True, text=True, timeout=60
        )
        said = done.stdout + done.stderr
        if ok and done.returncode:
            pytest.fail(f"{' '.join(command)} exits with {done.returncode}:\n{said}\n{self.log()}")
        return said

    def succeeds(self, *command: str) -> bool:
        """Say whether a command exits with 0."""
        return subprocess.run([*self.enter(), *command], capture_output=True).returncode == 0

    def show(self, unit: str, setting: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", setting, unit).strip()

    def log(self) -> str:
        """Return what systemd, and what was told to, has written so far."""
        return "".join(path.read_text() for path in sorted(self.shared.glob("*.log")))


def skip_unless_possible() -> None:
    """Skip the test, and say why, where no systemd can be booted."""
    if os.geteuid() != 0:
        pytest.skip("only root can boot a systemd")
    missing = [name for name in ("unshare", "nsenter", "setpriv") if not shutil.which(name)]
    if missing or not SYSTEMD.exists():
        pytest.skip(f"not installed: {', '.join(missing) or 'systemd'}")
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        tried = subprocess.run(
            [*_UNSHARED, "sh", "-ec", _TRIAL, "sh", place],
            capture_output=True,
            text=True,
        )
    if tried.returncode or _cgroups() is None:
        pytest.skip(
            f"a machine inside the machine is refused here: {tried.stderr.strip() or 'no cgroup2'}"
        )


@contextlib.contextmanager
def booted(place: Path) -> Iterator[RealSystemd]:
    """Give a systemd that has booted, and end it with all that it has started.

    Parameters
    ----------
    place
        An empty folder; ``place / "shared"`` is what both sides see.
    """
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (place / "private").mkdir()
    needed = {ROOT, Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent}
    with _own_cgroup(place.name) as group, (shared / "systemd.log").open("w") as log:
        process = subprocess.Popen(
            [
                *(
                    *_UNSHARED,
                    "--kill-child",
                    "sh",
                    "-c",
                    _BOOT,
                    "sh",
                    str(place / "private"),
                    str(shared),
                ),
                *sorted(map(str, needed)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: (group / "cgroup.procs").write_text("0") and None,  # noqa: PLW1509
        )
        try:
            yield _when_booted(process, shared)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def _when_booted(process: subprocess.Popen[bytes], shared: Path) -> RealSystemd:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: process.poll() is not None or children.read_text(), "a process 1 is there")
    running = RealSystemd(int(children.read_text().split()[0]), shared)
    wait_until(
        lambda: (
            process.poll() is not None or running.succeeds("systemctl", "is-active", "tests.target")
        ),
        "systemd has booted",
    )
    assert process.poll() is None, running.log()
    return running


@contextlib.contextmanager
def _own_cgroup(name: str) -> Iterator[Path]:
    """Give a cgroup; it and those below it go, as soon as nothing is in them."""
    above = _cgroups()
    assert above is not None
    group = above / f"arrayd-{os.getpid()}-{name}"
    group.mkdir()
    try:
        yield group
    finally:
        wait_until(lambda: "populated 0" in (group / "cgroup.events").read_text(), "all have ended")
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)


def _cgroups() -> Path | None:
    """Return where the cgroups of version 2 are mounted; None: nowhere."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(point)
    return None


class Reader:
    """A client process inside, of a user, that does as it is told."""

    def __init__(self, machine: RealSystemd, user: str) -> None:
        self._process = subprocess.Popen(
            [*machine.enter(user), sys.executable, "-c", _READER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def __call__(self, code: str) -> Any:
        """Return the value of an expression."""
        return self._ask(code, "eval")

    def do(self, code: str) -> None:
        """Run a statement."""
        self._ask(code, "exec")

    def _ask(self, code: str, kind: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([code, kind]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        """Let it come to its end."""
        self._process.communicate()


class Readers:
    """Two clients of different users, who hold ``a.npy``."""

    def __init__(self, machine: RealSystemd) -> None:
        self._both = [Reader(machine, user) for user in ("alice", "bob")]
        for one in self._both:
            one.do(f"a = arrayd.get('{SHARED}/a.npy')")

    def __call__(self, code: str) -> Any:
        """Return the value of an expression, which is the same for both."""
        one, other = (reader(code) for reader in self._both)
        assert one == other
        return one

    def end(self) -> None:
        """Let both come to their end."""
        for one in self._both:
            one.end()
