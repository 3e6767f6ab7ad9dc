"""/dev/shm filled by somebody else, before and in the middle of everything: `NoRoom`, no SIGBUS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd.common import failpoints
from tests.faults.grounds import MIB, NEEDS_ROOT, Ground, alive, ground, halted, points
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import Puppet, Stage, block_of, save, wait_until

__all__ = ["ground", "points"]

pytestmark = NEEDS_ROOT

FLAGS = ("--budget", "100M", "--workers", "2")


@pytest.fixture
def small(ground: Callable[[str], Ground]) -> Iterator[Ground]:
    """Give a /dev/shm of 16 MiB and 60 inodes, in which a test leaves nothing."""
    one = ground("size=16M,nr_inodes=60")
    yield one


@pytest.fixture
def served(small: Ground, points: Path, start_daemon: Callable[..., Daemon]) -> Iterator[Daemon]:
    """Give a daemon there, which must end well and leave nothing there."""
    daemon = start_daemon(*FLAGS, wrapper=small.wrapper)
    yield daemon
    small.empty()
    if daemon.process is None:
        daemon.start()
    daemon.stop()
    assert small.names() == [], daemon.log


@pytest.fixture
def one(served: Daemon, small: Ground, puppets: Stage) -> Iterator[Puppet]:
    """Give a client there, which ends before its daemon does."""
    puppet = puppets(served, wrapper=small.wrapper)
    yield puppet
    puppet.end()


def refused(one: Puppet, code: str | None = None) -> arrayd.NoRoom:
    """Return the `NoRoom` that code (or what was sent before) ends with."""
    with pytest.raises(arrayd.NoRoom) as caught:
        one(code) if code else one.reply()
    return caught.value


def six(directory: Path, name: str = "six") -> str:
    """Return the path of a file of 6 MiB."""
    save(directory / f"{name}.npy", np.ones((768, 1024)))
    return str(directory / f"{name}.npy")


def test_filled_before_a_load(served: Daemon, small: Ground, one: Puppet, tmp_path: Path) -> None:
    """The error has the numbers, and nothing stays; with room again the same request works."""
    path = six(tmp_path)
    small.fill(leave=3 * MIB)
    error = refused(one, f"arrayd.get({path!r})")
    assert "needs 6.0 MiB" in str(error)
    assert "/dev/shm" in str(error)
    assert "gives 3.0 MiB" in str(error)
    assert one("arrayd.status().blocks") == []
    assert small.free == 3 * MIB
    small.empty()
    assert one(f"float(arrayd.get({path!r}).sum())") == 768 * 1024


def test_idle_blocks_go_before_anybody_is_refused(
    served: Daemon, small: Ground, one: Puppet, tmp_path: Path
) -> None:
    """The budget has room and /dev/shm has not: what nobody holds is evicted for it."""
    first, second = six(tmp_path, "first"), six(tmp_path, "second")
    one(f"arrayd.get({first!r}).sum()")
    small.fill(leave=MIB)
    assert one(f"a = arrayd.get({second!r}); float(a.sum())") == 768 * 1024
    assert one("arrayd.status().counters['evictions']") == 1
    error = refused(one, f"arrayd.get({first!r})")
    assert f"Not to be evicted: {second} 6.0 MiB (held by {one.pid}" in str(error)
    one("del a")
    assert one(f"float(arrayd.get({first!r}).sum())") == 768 * 1024


@pytest.mark.parametrize(
    ("point", "code"),
    [
        ("worker.reserving", "float(arrayd.get(path).sum())"),
        ("worker.reserving", "float(arrayd.get(path, order='F').sum())"),
        ("daemon.reserving", "float(arrayd.put(np.ones((768, 1024)), name='N').sum())"),
    ],
    ids=["load", "transposed load", "put"],
)
def test_filled_in_the_middle(
    served: Daemon, small: Ground, one: Puppet, points: Path, tmp_path: Path, point: str, code: str
) -> None:
    """Room was there when the request was admitted, and is gone when pages are taken."""
    one(f"path = {six(tmp_path)!r}")
    before = small.free
    failpoints.arm(points, point, "stop")
    one.send(code)
    with halted(points, point):
        small.fill(leave=MIB)
    error = refused(one)
    assert "; /dev/shm gives " in str(error)
    assert "needs 6.0 MiB" in str(error)
    wait_until(lambda: one("arrayd.status().blocks") == [], "the block is freed")
    small.empty()
    assert small.free == before
    assert one(code) == 768 * 1024
    assert alive(served)


@pytest.mark.parametrize(
    ("point", "code"), [("worker.reserving", "get(path)"), ("daemon.reserving", "put(ones)")]
)
def test_filled_in_the_middle_while_blocks_are_idle(
    served: Daemon, small: Ground, one: Puppet, points: Path, tmp_path: Path, point: str, code: str
) -> None:
    """What nobody uses goes for the load that the kernel refused; nobody hears of it."""
    one(f"path, ones = {six(tmp_path)!r}, np.ones((768, 1024))")
    one(f"arrayd.get({six(tmp_path, 'idle')!r}).sum()")
    failpoints.arm(points, point, "stop")
    one.send(f"float(arrayd.{code}.sum())")
    with halted(points, point):
        small.fill(leave=MIB)
    assert one.reply() == 768 * 1024
    counters = one("arrayd.status().counters")
    assert (counters["evictions"], counters["failures"]) == (1, 0)


def test_filled_while_it_is_written(served: Daemon, small: Ground, one: Puppet) -> None:
    """Every page of a block to be written is there before its writer has it, and at the seal."""
    one("context = arrayd.create((768, 1024), name='N'); out = context.__enter__()")
    small.fill()
    assert small.free == 0
    one("out[:] = 2; context.__exit__(None, None, None)")
    assert one("float(arrayd.get('name:N').sum())") == 2 * 768 * 1024
    one("del out, context")


def test_filled_at_the_seal_of_a_load(
    served: Daemon, small: Ground, one: Puppet, points: Path, tmp_path: Path
) -> None:
    """The metadata and the footer have their pages from the start."""
    failpoints.arm(points, "daemon.filled", "stop")
    one.send(f"a = arrayd.get({six(tmp_path)!r}); float(a.sum())")
    with halted(points, "daemon.filled"):
        small.fill()
    assert one.reply() == 768 * 1024
    one("del a")


def test_a_full_start(
    served: Daemon, small: Ground, one: Puppet, puppets: Stage, tmp_path: Path
) -> None:
    """A daemon that starts where no page and no inode is left adopts all there is."""
    path = six(tmp_path)
    kept = one(
        "b = arrayd.put(np.arange(5), name='N', keep=True); name = b.block.name; del b; name"
    )
    held = one(f"a = arrayd.get({path!r}); a.block.name")
    served.kill()
    for spare in small.shm.glob("arrayd-*/arrayd-*"):
        spare.unlink()
    small.fill()
    small.fill_inodes()
    served.wrapper = small.wrapper
    served.start()
    assert one("arrayd.get('name:N').tolist()") == [0, 1, 2, 3, 4]
    assert one(f"arrayd.get({path!r}).block.name") == held
    other = puppets(served, wrapper=small.wrapper)
    assert other(f"a = arrayd.get({path!r}); (a.block.name, float(a.sum()))") == [held, 768 * 1024]
    refused(other, "arrayd.put(np.ones(2))")
    other.end()
    small.empty()
    counters = one("arrayd.status().counters")
    assert (counters["adopted"], counters["loads"]) == (2, 0)
    assert one("sorted(b.segment for b in arrayd.status().blocks)") == sorted([kept, held])
    one("arrayd.evict('name:N'); del a")


def test_a_budget_full_of_what_cannot_go(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """Held, pinned, kept, lent and written blocks stay, and the error says of each why."""
    daemon = start_daemon("--budget", "1M", "--workers", "1")
    for name in ("held", "pinned", "lent", "more"):
        save(tmp_path / f"{name}.npy", np.zeros(22_000))
    with arrayd.connect(daemon.endpoint) as client:
        held = client.get(tmp_path / "held.npy")
        client.get(tmp_path / "pinned.npy", pin=True)
        lent = client.get(tmp_path / "lent.npy")
        client._session.lend(block_of(lent).name)
        del lent
        client.put(np.zeros(22_000), name="kept", keep=True)
        with client.create(22_000, name="written") as out:
            wait_until(lambda: {b.state for b in client.status().blocks} >= {"lent"}, "it is lent")
            with pytest.raises(arrayd.NoRoom) as caught:
                client.get(tmp_path / "more.npy", timeout=0.1)
            said = str(caught.value)
            for why in (f"held by {os.getpid()}", "(pinned)", "(kept)", "in flight)"):
                assert why in said, said
            assert client.status().counters["evictions"] == 0
            out[:] = 1
        client.evict("name:kept")
        assert client.get(tmp_path / "more.npy").sum() == 0
        del held, out


def test_no_inode_for_a_segment(served: Daemon, small: Ground, one: Puppet, tmp_path: Path) -> None:
    """Pages are free and inodes are not: the error says which; afterwards the load works."""
    path = six(tmp_path)
    small.fill_inodes()
    error = refused(one, f"arrayd.get({path!r})")
    assert "0 of 60 files are free" in str(error)
    assert "nr_inodes=" in str(error)
    error = refused(one, "arrayd.put(np.ones(5), name='N')")
    assert "0 of 60 files are free" in str(error)
    small.empty()
    assert one(f"float(arrayd.get({path!r}).sum())") == 768 * 1024
    assert one("arrayd.put(np.ones(5), name='N').tolist()") == [1.0] * 5


def test_no_inode_for_a_removed_name(
    served: Daemon, small: Ground, one: Puppet, puppets: Stage, tmp_path: Path
) -> None:
    """A name that cannot be linked back now is `NoRoom` and no hold; the block is not lost."""
    path = six(tmp_path)
    name = one(f"a = arrayd.get({path!r}); a.block.name")
    os.kill(served.pid, signal.SIGSTOP)  # else the name is back before there is no inode
    (small.shm / name).unlink()
    small.fill_inodes()
    os.kill(served.pid, signal.SIGCONT)
    other = puppets(served, wrapper=small.wrapper)
    assert "0 of 60 files" in str(refused(other, f"arrayd.get({path!r})"))
    assert one("[h.pid for b in arrayd.status().blocks for h in b.holders]") == [one.pid]
    small.empty()
    assert other(f"arrayd.get({path!r}).block.name") == name
    other.end()
    assert one("float(a.sum()); del a") is None


def test_no_inode_to_start_with(small: Ground, short_directory: Path) -> None:
    """A daemon that cannot make its lock says so, with the numbers, and ends with 1."""
    small.fill_inodes()
    command = [sys.executable, "-m", "arrayd_server", "--endpoint", f"ipc://{short_directory}/s"]
    done = subprocess.run(
        [*small.wrapper, *command], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert "0 of 60 files are free" in done.stderr
    assert "Traceback" not in done.stderr
    assert not os.path.exists(short_directory / "s")
