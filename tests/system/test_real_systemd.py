"""The service for the machine under a real systemd: started, reloaded, restarted, hung, stopped."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.support.processes import save, wait_until
from tests.support.real_systemd import (
    ROOT,
    SHARED,
    Reader,
    Readers,
    RealSystemd,
    booted,
    skip_unless_possible,
)

UNIT = Path("/etc/systemd/system/arrayd.service")
OPTIONS = Path("/etc/arrayd/arrayd.toml")
PROGRAM = f"{sys.prefix}/bin/arrayd"

FOR_TESTS = """
[Service]
WatchdogSec=4s
StandardError=append:/mnt/daemon.log
"""

CAN_SHIELD = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16) >> 24
"""Whether systemd may lower an OOM score here (CAP_SYS_RESOURCE, bit 24)."""


@pytest.fixture(scope="module")
def machine() -> Iterator[RealSystemd]:
    """Give a systemd that has the service, two users who may use it, one who may not, and files."""
    skip_unless_possible()
    with tempfile.TemporaryDirectory(dir="/tmp") as place, booted(Path(place)) as one:
        save(one.shared / "a.npy", np.arange(1000))
        save(one.shared / "b.npy", np.arange(2000))
        save(one.shared / "secret.npy", np.arange(10))
        with h5py.File(one.shared / "c.h5", "w") as file:
            file.create_dataset("x", data=np.arange(3000), chunks=(100,), compression="gzip")
        install(one)
        yield one


def install(machine: RealSystemd) -> None:
    """Install the service as an administrator does."""
    users = 'u alice -\nu bob -\nu stranger - "in no group" /run/stranger\n'
    (machine.shared / "users.conf").write_text(users)
    (machine.shared / "tests.conf").write_text(FOR_TESTS)
    machine.run(
        "sh",
        "-ec",
        f"""systemd-sysusers {SHARED}/users.conf
        mkdir -p {UNIT}.d; cp {SHARED}/tests.conf {UNIT}.d; {PROGRAM} install-service
        sed -i 's/^#budget.*/budget = "64M"/; s/^#workers.*/workers = 1/' {OPTIONS}
        gpasswd -a alice arrayd; gpasswd -a bob arrayd
        chmod a+r {SHARED}/*; chown alice {SHARED}/secret.npy; chmod 0600 {SHARED}/secret.npy""",
    )


@pytest.fixture
def readers(machine: RealSystemd) -> Iterator[Readers]:
    """Give two clients, neither of the daemon's own user, that hold ``a.npy``."""
    both = Readers(machine)
    yield both
    both.end()


def main_pid(machine: RealSystemd) -> int:
    """Return the daemon's process, as it is known inside; 0: there is none."""
    return int(machine.show("arrayd", "MainPID"))


def segments(machine: RealSystemd) -> list[str]:
    """Return what arrayd has in the /dev/shm inside."""
    return [n for n in machine.run("ls", "/dev/shm").split() if n.startswith("arrayd")]


def still_reads(machine: RealSystemd, readers: Readers, block: str) -> None:
    """Assert that the array is as it was, and that to ask again gives the block of before."""
    assert readers("int(a.sum())") == sum(range(1000))
    assert readers(f"arrayd.get('{SHARED}/a.npy').block.name") == block
    status = json.loads(machine.run(PROGRAM, "status", "--json", user="arrayd"))
    assert (status["counters"]["loads"], len(status["sessions"])) == (0, 3)


def test_the_first_request_starts_it(machine: RealSystemd) -> None:
    """The socket is there before the service; its mode and group decide who may connect."""
    assert machine.show("arrayd", "ActiveState") == "inactive"
    refused = "import socket; socket.socket(socket.AF_UNIX).connect('/run/arrayd/arrayd.sock')"
    assert "PermissionError" in machine.run(
        sys.executable, "-c", refused, user="stranger", ok=False
    )
    assert main_pid(machine) == 0
    reader = Reader(machine, "alice")
    assert reader(f"int(arrayd.get('{SHARED}/a.npy').sum())") == sum(range(1000))
    assert reader(f"int(arrayd.get('{SHARED}/c.h5:/x').sum())") == sum(range(3000))
    reader.end()
    assert machine.show("arrayd", "ActiveState") == "active"
    assert "of 64 MiB" in machine.show("arrayd", "StatusText")
    facts = machine.run("stat", "-c", "%U %G %a", "/run/arrayd", "/run/arrayd/arrayd.sock")
    assert facts.splitlines() == ["root root 755", "root arrayd 660"]


def test_a_pod_shares_it(machine: RealSystemd, readers: Readers) -> None:
    """A process in namespaces as a pod's, to which /dev/shm is read-only, has the same block.

    What it cannot do there, to publish, fails with the remedy, and leaves nothing.
    """
    before = segments(machine)
    places = (
        "mount -t proc proc /proc; for p in /dev/shm /run/arrayd; do mount -B -o ro $p $p; done"
    )
    code = f"""
import os, arrayd
print(os.getpid(), arrayd.get('{SHARED}/a.npy').block.name, flush=True)
arrayd.put([1, 2], name="x")
"""
    said = machine.run(
        *("unshare", "--pid", "--fork", "--mount", "--ipc", "--uts", "--net", "--kill-child"),
        *("sh", "-ec", f'{places}; exec setpriv --reuid=bob --regid=bob --init-groups "$@"'),
        *("sh", sys.executable, "-c", code),
        ok=False,
    )
    assert said.split()[:2] == ["1", readers("a.block.name")]
    assert "AccessDenied: " in said
    assert "read-only to this process" in said
    wait_until(lambda: segments(machine) == before, "the unfinished block is gone")


def test_what_it_may_and_when_it_goes(machine: RealSystemd, readers: Readers) -> None:
    """A user of its own without capabilities; of its processes the loaders go first for memory."""
    pid = main_pid(machine)
    status = machine.run("cat", f"/proc/{pid}/status")
    user = machine.run("id", "-u", "arrayd").strip()
    assert f"Uid:\t{user}\t{user}\t{user}\t{user}\n" in status
    assert "CapEff:\t0000000000000000\n" in status
    assert "NoNewPrivs:\t1\n" in status
    assert "Seccomp:\t2\n" in status
    daemon, *loaders = machine.run(
        "sh", "-c", f"for p in {pid} $(pgrep -x arrayd-loader); do cat /proc/$p/oom_score_adj; done"
    ).split()
    assert (daemon, set(loaders)) == ("-500" if CAN_SHIELD & 1 else "0", {"800"})


def test_a_reload_drops_nothing(machine: RealSystemd, readers: Readers) -> None:
    """Another budget holds at once; a bad file is refused where it was asked for."""
    block, pid = readers("a.block.name"), main_pid(machine)
    machine.run("sh", "-c", f"sed -i s/64M/48M/ {OPTIONS}; systemctl reload arrayd")
    wait_until(lambda: "of 48 MiB" in machine.show("arrayd", "StatusText"), "it is reloaded")
    machine.run("sh", "-c", f"echo 'wrokers = 3' >> {OPTIONS}")
    assert not machine.succeeds("systemctl", "reload", "arrayd")
    assert re.search(rf"config {OPTIONS}, line \d+: unknown option wrokers", machine.log())
    machine.run("sh", "-c", f"sed -i /wrokers/d {OPTIONS}; systemctl reload arrayd")
    wait_until(lambda: "0 options have changed" in machine.log(), "it is reloaded again")
    assert readers("arrayd.status().budget") == 48 << 20
    assert (readers("a.block.name"), main_pid(machine)) == (block, pid)
    assert readers("int(a.sum())") == sum(range(1000))


def test_a_restart_hands_over(machine: RealSystemd, readers: Readers) -> None:
    """So does an upgrade: another process has the same blocks, and its clients notice nothing."""
    block, pids = readers("a.block.name"), {0, main_pid(machine)}
    for command in (("systemctl", "restart", "arrayd"), (PROGRAM, "install-service")):
        machine.run(*command)
        assert main_pid(machine) not in pids
        pids.add(main_pid(machine))
        still_reads(machine, readers, block)
    assert 'budget = "48M"' in machine.run("cat", str(OPTIONS))
    assert machine.show("arrayd", "NRestarts") == "0"


def test_metrics_by_a_socket_unit(machine: RealSystemd, readers: Readers) -> None:
    """As the README says: whoever is on the machine may read them, and no block is lost."""
    block, unit = readers("a.block.name"), "arrayd-metrics.socket"
    (machine.shared / unit).write_text((ROOT / "deploy/system" / unit).read_text())
    machine.run("sh", "-ec", f"cp {SHARED}/{unit} /etc/systemd/system; systemctl daemon-reload")
    machine.run("sh", "-ec", f"systemctl enable {unit}; systemctl restart arrayd")
    read = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9746/metrics').read())"
    assert "arrayd_adopted_blocks_total" in machine.run(sys.executable, "-c", read, user="stranger")
    still_reads(machine, readers, block)
    machine.run("sh", "-ec", f"systemctl disable --now {unit}; rm /etc/systemd/system/{unit}")
    machine.run("sh", "-ec", "systemctl daemon-reload; systemctl restart arrayd")
    assert machine.show(unit, "ActiveState") == "inactive"
    still_reads(machine, readers, block)


def test_one_that_hangs_is_replaced(machine: RealSystemd, readers: Readers) -> None:
    """The watchdog ends it, the log tells where it hung; the next run has its blocks."""
    block, pid = readers("a.block.name"), main_pid(machine)
    machine.run("kill", "-STOP", str(pid))
    wait_until(lambda: main_pid(machine) not in (0, pid), "the next one is there")
    wait_until(lambda: machine.show("arrayd", "ActiveState") == "active", "it serves")
    assert machine.show("arrayd", "NRestarts") == "1"
    assert "Fatal Python error: Aborted" in machine.log()
    still_reads(machine, readers, block)


def test_a_stop_leaves_only_what_is_read(machine: RealSystemd, readers: Readers) -> None:
    """What somebody maps stays, for the next run; without readers nothing is left."""
    block = readers("a.block.name")
    readers(f"arrayd.get('{SHARED}/b.npy').nbytes")
    machine.run("systemctl", "stop", "arrayd.socket")
    assert machine.show("arrayd", "ActiveState") == "inactive"
    assert [name for name in segments(machine) if name.count("-") == 3] == [block]
    assert not machine.succeeds("test", "-e", "/run/arrayd/arrayd.sock")
    assert readers("int(a.sum())") == sum(range(1000))
    machine.run("systemctl", "start", "arrayd.socket", "arrayd.service")
    wait_until(lambda: " 2 sessions" in machine.show("arrayd", "StatusText"), "they are back")
    still_reads(machine, readers, block)
    readers.end()
    machine.run("systemctl", "stop", "arrayd.socket")
    assert segments(machine) == []


def test_a_file_that_only_its_owner_may_read(machine: RealSystemd) -> None:
    """It is refused, and with the drop-in it is read: for its owner, and nobody else."""
    drop_in = ROOT / "deploy" / "system" / "read-users-files.conf"
    get = f"""
import arrayd
with arrayd.connect(start=False) as client:  # no private daemon, which would read it
    print(client.get('{SHARED}/secret.npy').shape)
"""

    def got(user: str, *, ok: bool = True) -> str:
        return machine.run(sys.executable, "-c", get, user=user, ok=ok)

    machine.run("systemctl", "start", "arrayd.socket")
    assert "may not read this file" in got("alice", ok=False)
    machine.run("sh", "-ec", f"cp {drop_in} {UNIT}.d; systemctl daemon-reload")
    machine.run("systemctl", "restart", "arrayd")
    assert "(10,)" in got("alice")
    assert "AccessDenied" in got("bob", ok=False)


def test_a_users_own_service(machine: RealSystemd) -> None:
    """It takes over from the user's private daemon, with its blocks, and runs under his systemd."""
    user = "stranger"
    home = f"/run/{user}"
    machine.run(
        *("systemd-run", "--unit=manager", f"--uid={user}", "--property=Delegate=yes"),
        *(f"--property=RuntimeDirectory={user}", f"--setenv=HOME={home}"),
        *(f"--setenv=XDG_RUNTIME_DIR={home}", "--property=Type=notify"),
        *("/lib/systemd/systemd", "--user", "--unit=basic.target"),
    )

    def his(*command: str) -> str:
        places = (f"HOME={home}", f"XDG_RUNTIME_DIR={home}")
        return machine.run("env", "-C", home, *places, *command, user=user)

    put = "import arrayd, numpy; print(arrayd.put(numpy.arange(9), name='x', keep=True).block.name)"
    others = segments(machine)
    block = his(sys.executable, "-c", put).strip()
    assert block in segments(machine)
    his(PROGRAM, "install-service", "--user")
    assert his("systemctl", "--user", "is-active", "arrayd").strip() == "active"
    get = "import arrayd; a = arrayd.get('name:x'); print(a.block.name, arrayd.status().private)"
    assert his(sys.executable, "-c", get).split() == [block, "False"]
    his(PROGRAM, "evict", "name:x")
    machine.run("systemctl", "stop", "manager")
    assert segments(machine) == others


def test_it_goes_without_a_trace(machine: RealSystemd) -> None:
    """What the manual says removes all, also of a service that runs."""
    machine.run("systemctl", "start", "arrayd.socket")
    machine.run(PROGRAM, "get", f"{SHARED}/a.npy", user="bob")
    assert segments(machine)
    manual = (ROOT / "deploy" / "README.md").read_text()
    commands = re.findall(r"<!-- test: uninstall -->\n```\n(.*?)```", manual, re.DOTALL)
    machine.run("sh", "-ec", *commands)
    places = ("/etc", "/run", "/var/cache", "/dev/shm", "/tmp", "/var/lib")
    assert machine.run("find", *places, "-xdev", "-name", "*arrayd*").split() == []
    assert not machine.succeeds("id", "arrayd")
    assert not machine.succeeds("getent", "group", "arrayd")
    assert machine.show("arrayd.socket", "LoadState") == "not-found"
