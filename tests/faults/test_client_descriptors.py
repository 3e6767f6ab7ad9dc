"""A client whose process runs out of descriptors, mappings, address space or threads.

libzmq aborts where it finds none, so `arrayd.system.libzmq_guard` looks first. Every fault is a
typed error, and over as soon as there is room again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd.results.status import BlockStatus
from arrayd.system import libzmq_guard
from tests.support.daemons import Daemon
from tests.support.processes import Puppet, Stage, pids, save, wait_until

pytestmark = pytest.mark.one_daemon

HOG = """
import ctypes, gc, mmap, operator, os, resource
import arrayd
hogs = []

def hog(free=0):
    "Use up all descriptors but some."
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 4096))
    try:
        while True:
            hogs.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        for _ in range(free):
            os.close(hogs.pop())

def let_go():
    while hogs:
        os.close(hogs.pop())

def room(nbytes):
    "Let the process have so much more address space; None: as much as it likes."
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * mmap.PAGESIZE
    limit = -1 if nbytes is None else size + nbytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, -1))

def outcome(what):
    try:
        return int(what())
    except arrayd.NoRoom as error:
        return str(error)
"""


@pytest.fixture
def hog(daemon: Daemon, puppets: Stage, tmp_path: Path) -> Puppet:
    """Give a process that can use up what it may have, in a folder with two files."""
    save(tmp_path / "a.npy", np.arange(1000))
    save(tmp_path / "large.npy", np.arange(2 << 20))
    p = puppets(daemon, HOG)
    p(f"os.chdir({str(tmp_path)!r})")
    return p


# ---- descriptors -----------------------------------------------------------------------------


def test_every_number_of_free_descriptors(hog: Puppet) -> None:
    """With 0 to 20 free a session opens, or is refused with the numbers: never an abort."""
    outcomes = hog("""
outcomes = []
for free in range(21):
    hog(free)
    with arrayd.connect() as client:
        outcomes.append(outcome(lambda: client.get("a.npy")[7]))
    gc.collect()
outcomes
""")
    enough = libzmq_guard.DESCRIPTORS
    assert outcomes[enough:] == [7] * (21 - enough)
    for words in outcomes[:enough]:
        assert re.search(r"open in this process, of at most 200\).*ulimit -n 4096", words), words
    hog("let_go()")
    assert hog('int(arrayd.get("a.npy")[8])') == 8


def test_an_attach_without_a_descriptor(hog: Puppet, client: arrayd.Client) -> None:
    """A get that cannot open its segment is a NoRoom, leaves no hold, and works later."""
    hog('arrayd.status(); a = arrayd.get("a.npy")')
    hog("hog()")
    assert "ulimit -n" in hog('outcome(lambda: arrayd.get("large.npy")[5])')
    assert "ulimit -n" in hog("outcome(lambda: arrayd.put([1, 2])[0])")
    assert "ulimit -n" in hog('outcome(lambda: arrayd.get_many(["large.npy"])[0][5])')
    assert hog("int(a[7])") == 7
    wait_until(lambda: sum(len(b.holders) for b in client.status().blocks) == 1, "only a is held")
    assert not [b for b in client.status().blocks if not b.source.endswith(".npy")]
    hog("let_go()")
    assert hog('int(arrayd.get("large.npy")[5])') == 5
    assert hog("int(arrayd.put([1, 2])[1])") == 2


def test_a_restart_without_a_descriptor(hog: Puppet, daemon: Daemon) -> None:
    """A client with no descriptor when its daemon comes back meets it when it has some."""
    hog('arrayd.status(); a = arrayd.get("a.npy")')
    daemon.kill()
    hog("hog()")  # after the socket and the pidfd of the dead have given theirs back
    daemon.start()
    with pytest.raises((arrayd.NoRoom, arrayd.LoadTimeout)):
        hog('arrayd.get("large.npy", timeout=0.5)')
    assert hog("int(a[7])") == 7
    hog("let_go()")
    assert hog('int(arrayd.get("large.npy")[5])') == 5
    with arrayd.connect(daemon.endpoint) as client:
        wait_until(lambda: pids(held_block(client, "a.npy")) == [hog.pid], "its hold is known")


def test_looking_for_a_daemon(hog: Puppet, tmp_path: Path) -> None:
    """Without a descriptor no private daemon can be looked for: NoRoom, and none is started."""
    hog(f'os.environ.update(ARRAYD_ENDPOINT="private", XDG_RUNTIME_DIR={str(tmp_path)!r})')
    assert "ulimit -n" in hog("hog(3); outcome(lambda: arrayd.get('a.npy')[1])")
    assert not (tmp_path / "arrayd").exists()


def test_a_private_daemon_is_revived_later(hog: Puppet, tmp_path: Path) -> None:
    """A get that has no descriptors to start the daemon again leaves that to the next one."""
    hog(f'os.environ.update(ARRAYD_ENDPOINT="private", XDG_RUNTIME_DIR={str(tmp_path)!r})')
    hog("""
from arrayd.system import daemon_probe
client = arrayd.connect()
a = client.get("a.npy")
assert daemon_probe.wait_ended(client.stop(), 20)
""")
    hog("hog(2)")
    assert "ulimit -n" in hog('outcome(lambda: client.get("large.npy")[5])')
    hog("let_go()")
    try:
        assert hog('outcome(lambda: client.get("large.npy", timeout=9)[5])') == 5
    finally:
        assert hog("a = None; daemon_probe.wait_ended(client.stop(), 20)")


def test_a_command_without_descriptors(daemon: Daemon, tmp_path: Path) -> None:
    """``arrayd info`` under a small ``ulimit -n`` exits with 4 and one line."""
    save(tmp_path / "a.npy", np.arange(1000))
    limited = (
        "import sys, resource, arrayd.cli; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8)); sys.exit(arrayd.cli.main())"
    )
    words = ["info", str(tmp_path / "a.npy"), "--endpoint", daemon.endpoint]
    done = subprocess.run(
        [sys.executable, "-c", limited, *words], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert len(done.stderr.splitlines()) == 1
    assert "ulimit -n" in done.stderr


def test_clients_that_are_not_closed(hog: Puppet, daemon: Daemon) -> None:
    """A client that is dropped ends with its last array: sessions, descriptors, threads."""
    hog("""
from arrayd.session import flusher
flusher.FLUSH_EVERY = 0.05
def taken():
    return [len(os.listdir(f"/proc/self/{what}")) for what in ("fd", "task")]
arrayd.get("a.npy")
before = taken()
arrays = [arrayd.connect().get("large.npy") for _ in range(5)]
""")
    with arrayd.connect(daemon.endpoint) as other:
        assert len(held_block(other, "large.npy").holders) == 5
        hog("arrays = arrays[:1] + [array[3:] for array in arrays[1:2]]")
        wait_until(lambda: len(held_block(other, "large.npy").holders) == 2, "two holders")
        assert hog("[int(arrays[0][5]), int(arrays[1][2])]") == [5, 5]
        hog("del arrays[:]")
        given_back = "gc.collect(); all(map(operator.le, taken(), before))"
        wait_until(lambda: hog(given_back), "nothing taken")
        wait_until(lambda: len(other.status().sessions) == 2, "two sessions")


# ---- memory, mappings, threads ---------------------------------------------------------------


def test_a_session_without_threads(hog: Puppet) -> None:
    """Where no thread can be had a first get is a NoRoom, with the limits to look at."""
    outcomes = hog("""
outcomes = []
for nbytes in (0, 1 << 20, 9 << 20, 17 << 20, 25 << 20, 64 << 20, None):
    room(nbytes)
    with arrayd.connect() as client:
        outcomes.append(outcome(lambda: client.get("a.npy")[7]))
outcomes
""")
    assert "ulimit -v" in outcomes[0]
    assert outcomes[-1] == 7


def test_the_edge_of_what_a_session_needs(hog: Puppet) -> None:
    """With a little less than that, or just that, or a little more: an answer, never an abort."""
    outcomes = hog("""
from arrayd.system import libzmq_guard
stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
stack = (8 << 20) if stack == -1 else stack
def session(nbytes):
    "Open one in a child, for the C library keeps the stacks of the threads of before."
    ours, its = os.pipe()
    if not (child := os.fork()):
        room(libzmq_guard.THREADS * stack + nbytes)
        with arrayd.connect() as client:
            os.write(its, str(outcome(lambda: client.get("a.npy")[7])).encode())
        os._exit(0)
    os.close(its)
    with os.fdopen(ours) as pipe:
        return pipe.read(), os.waitpid(child, 0)[1]
[session(nbytes) for nbytes in range(-2 * stack, libzmq_guard.MARGIN * 2, 256 << 10)]
""")
    answers, ends = zip(*outcomes, strict=True)
    assert set(ends) == {0}
    assert "ulimit -v" in answers[0]
    assert all(answer == "7" or "ulimit -v" in answer for answer in answers)
    assert answers[-1] == "7"


def test_a_thread_with_a_stack_and_no_more(hog: Puppet) -> None:
    """A thread that has no memory for Python dies as it begins: nobody waits for its word."""
    outcomes = hog("""
from arrayd.system import libzmq_guard
stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
stack = (8 << 20) if stack == -1 else stack
outcomes = []
for pages in range(16):
    room(stack + pages * mmap.PAGESIZE)
    outcomes.append(outcome(lambda: libzmq_guard.check_threads(2) or 0))
room(None)
outcomes + [outcome(lambda: libzmq_guard.check_threads(2) or 0)]
""")
    assert "ulimit -v" in outcomes[0]
    assert all(one == 0 or "ulimit -v" in one for one in outcomes)  # the C library keeps stacks
    assert outcomes[-1] == 0


def test_no_address_space(hog: Puppet, client: arrayd.Client) -> None:
    """A block that does not fit into the address space is a NoRoom, and no hold is left."""
    hog('arrayd.status(); a = arrayd.get("a.npy")')
    hog("room(4 << 20)")
    words = hog('outcome(lambda: arrayd.get("large.npy")[5])')
    assert "16.0 MiB cannot be mapped" in words
    assert "ulimit -v" in words
    wait_until(lambda: not pids(held_block(client, "large.npy")), "the grant was given back")
    hog("room(None)")
    assert hog('int(arrayd.get("large.npy")[5])') == 5


def test_no_mapping_left(hog: Puppet) -> None:
    """At vm.max_map_count a get is a NoRoom; with a few mappings free again it works."""
    hog('arrayd.status(); a = arrayd.get("a.npy")')
    first, last = hog("""
hogs = []
try:
    while True:
        hogs.append(mmap.mmap(-1, mmap.PAGESIZE))
except OSError:
    del hogs[-1:]
first = outcome(lambda: [arrayd.get("large.npy", mode="c") for _ in range(10)][0][5])
del hogs[-100:]
[first, outcome(lambda: [arrayd.get("large.npy", mode="c") for _ in range(10)][0][5])]
""")
    assert "max_map_count" in first
    assert last == 5
    hog("del hogs[:]")


def test_the_canary() -> None:
    """It is gone when its number is closed, and when that is another file's."""
    canary = libzmq_guard.DescriptorCanary()
    assert canary.intact()
    fd, other = canary._fd, os.memfd_create("other")
    os.close(fd)
    assert not canary.intact()
    os.dup2(other, fd)
    assert not canary.intact()
    canary.close()
    os.close(fd)  # it was left alone
    os.close(other)


def held_block(client: arrayd.Client, name: str) -> BlockStatus:
    """Return the status of the block of a file."""
    (block,) = [b for b in client.status().blocks if b.source.endswith(name)]
    return block
