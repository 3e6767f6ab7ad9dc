"""The count is the kernel's: whoever dies, forks, execs or unlinks, blocks live as long as used."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import arrayd
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import (
    Stage,
    block_of,
    leaves_nothing_behind,
    only_block,
    pids,
    raised,
    save,
    wait_until,
)

STDLIB = "from multiprocessing.shared_memory import SharedMemory"
MIB = 1 << 20


def hold(path: Path) -> str:
    """Return the code by which a puppet gets a file and keeps it."""
    return f"a = arrayd.get({str(path)!r}); float(a.sum())"


def state_is(client: arrayd.Client, state: str) -> None:
    """Wait until the only block is in this state."""
    wait_until(lambda: only_block(client).state == state, f"the block is {state}")


# ---- deaths ----------------------------------------------------------------------------------


def test_a_killed_holder_is_forgotten(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """Kill -9 of a holder ends its hold; the other holder's stays, then the block is idle."""
    save(tmp_path / "x.npy", np.ones(1000))
    one, two = puppets(daemon), puppets(daemon)
    assert one(hold(tmp_path / "x.npy")) == two(hold(tmp_path / "x.npy")) == 1000
    assert pids(only_block(client)) == sorted([one.pid, two.pid])
    one.kill()
    wait_until(lambda: pids(only_block(client)) == [two.pid], "the dead one's hold ends")
    assert two("float(a.sum())") == 1000
    two.kill()
    state_is(client, "idle")


def test_a_script_that_ends_releases_all(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """A process that comes to its end, arrays in hand, says goodbye: the block is idle."""
    save(tmp_path / "x.npy", np.ones(1000))
    one = puppets(daemon)
    one(hold(tmp_path / "x.npy"))
    one.end()
    state_is(client, "idle")
    assert len(client.status().sessions) <= 1


def test_a_holder_that_execs(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """After exec the process no longer maps the block but is said to hold it, until it dies."""
    save(tmp_path / "x.npy", np.ones(1000))
    one = puppets(daemon)
    one(hold(tmp_path / "x.npy"))
    one.reincarnate()
    assert pids(only_block(client)) == [one.pid]
    one.kill()
    state_is(client, "idle")


def test_a_stale_hold_makes_room(daemon: Daemon, puppets: Stage, tmp_path: Path) -> None:
    """A hold from before an exec is dropped for one who waits, as soon as it is 5 s old."""
    for name in ("x", "y"):
        save(tmp_path / f"{name}.npy", np.ones(5 * MIB))
    one, two = puppets(daemon), puppets(daemon)
    one(hold(tmp_path / "x.npy"))
    one.reincarnate()
    with pytest.raises(arrayd.NoRoom):
        two(hold(tmp_path / "y.npy"))
    patient = f"array = arrayd.get({str(tmp_path / 'y.npy')!r}, timeout=30); array.size"
    assert two(patient) == 5 * MIB
    assert two("arrayd.status().counters['stale_holds']") == 1


def test_a_forked_child_keeps_the_block(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """The parent is killed, the child never calls: the block is a stray until the child ends."""
    save(tmp_path / "x.npy", np.ones(1000))
    parent = puppets(daemon)
    parent(hold(tmp_path / "x.npy"))
    child = parent.fork()
    parent.kill()
    state_is(client, "stray")
    assert only_block(client).holders == ()
    assert child("float(a.sum())") == 1000
    error, _ = raised(lambda: client.evict(tmp_path / "x.npy"))
    assert isinstance(error, arrayd.InUse)
    child.kill()
    state_is(client, "idle")


def test_a_published_block_lives_as_long_as_the_child(
    client: arrayd.Client, daemon: Daemon, puppets: Stage
) -> None:
    """A block that cannot be loaded again is freed when the last stray mapper has gone."""
    parent = puppets(daemon)
    parent("a = arrayd.put(np.ones(1000))")
    child = parent.fork()
    parent.kill()
    state_is(client, "stray")
    assert child("float(a.sum())") == 1000
    child.kill()
    leaves_nothing_behind(client)


def test_a_forked_child_that_calls(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """The child's first call opens its own session, which states the arrays it inherited."""
    for name in ("x", "y"):
        save(tmp_path / f"{name}.npy", np.ones(1000))
    parent = puppets(daemon)
    parent(hold(tmp_path / "x.npy"))
    child = parent.fork()
    child(f"b = arrayd.get({str(tmp_path / 'y.npy')!r})")
    x, y = client.status().blocks
    assert (pids(x), pids(y)) == (sorted([parent.pid, child.pid]), [child.pid])
    child("del a, b")
    wait_until(lambda: pids(client.status().blocks[0]) == [parent.pid], "the child lets go")
    assert parent("float(a.sum())") == 1000
    parent.end()
    wait_until(lambda: {b.state for b in client.status().blocks} == {"idle"}, "all is idle")


# ---- others who touch our segments -----------------------------------------------------------


def test_a_stdlib_program_attaches(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """SharedMemory(name) reads the same values, and evict does not unlink what it maps."""
    values = save(tmp_path / "x.npy", np.arange(1000.0))
    name = block_of(client.get(tmp_path / "x.npy", pin=True)).name
    state_is(client, "idle")
    plain = puppets(daemon, STDLIB)
    plain(f"shm = SharedMemory({name!r})")
    assert (
        plain("with shm.buf[:8000].cast('d') as values: total = sum(values)\ntotal") == values.sum()
    )
    error, _ = raised(lambda: client.evict(tmp_path / "x.npy"))
    assert isinstance(error, arrayd.InUse)
    assert "no client" in str(error)
    state_is(client, "stray")
    assert os.path.exists(f"/dev/shm/{name}")
    plain("shm.close()")
    state_is(client, "idle")
    assert client.evict(tmp_path / "x.npy")["blocks"] == 1


def test_a_stdlib_program_unlinks(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """Its resource tracker removes the name, which is back at once: the same block."""
    values = save(tmp_path / "x.npy", np.arange(1000.0))
    shared = client.get(tmp_path / "x.npy")
    plain = puppets(daemon, f"{STDLIB}\nshm = SharedMemory({block_of(shared).name!r})")
    name = f"/dev/shm/{block_of(shared).name}"
    before = os.stat(name).st_ctime_ns  # each link that comes or goes changes it

    def is_back() -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.stat(name).st_ctime_ns > before
        return False

    plain.end()
    wait_until(is_back, "the name that the tracker has unlinked is back")
    one = puppets(daemon)
    assert one(hold(tmp_path / "x.npy")) == values.sum()
    assert one("a.block.name") == block_of(shared).name
    np.testing.assert_array_equal(shared, values)
    assert client.status().counters["loads"] == 1
    del shared


def test_both_links_are_gone(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """Somebody removes every name of a segment: holders read on, the next one loads it anew."""
    values = save(tmp_path / "x.npy", np.arange(1000.0))
    shared = client.get(tmp_path / "x.npy")
    name, scope = block_of(shared).name, client.status().scope
    os.unlink(f"/dev/shm/arrayd-{os.getuid()}-{scope}/{name}")  # or the other would come back
    os.unlink(f"/dev/shm/{name}")
    one = puppets(daemon)
    assert one(hold(tmp_path / "x.npy")) == values.sum()
    assert one("a.block.name") != name
    np.testing.assert_array_equal(shared, values)
    assert client.status().counters["loads"] == 2
    del shared
    assert "somebody removed the segment" in daemon.log


# ---- room ------------------------------------------------------------------------------------


def test_the_least_recently_used_goes(client: arrayd.Client, tmp_path: Path) -> None:
    """Room is made from idle blocks, the longest unused first; held and pinned ones stay."""
    for name in "abcde":
        save(tmp_path / f"{name}.npy", np.ones(2 * MIB))
    client.get(tmp_path / "a.npy", pin=True)
    for name in "bcb":
        client.get(tmp_path / f"{name}.npy")
        wait_until(lambda: {b.state for b in client.status().blocks} == {"idle"}, "all is idle")
    held = client.get(tmp_path / "d.npy")
    assert client.status().counters["evictions"] == 1
    left = {Path(b.path).stem for b in client.status().blocks}
    assert left == {"a", "b", "d"}
    client.get(tmp_path / "e.npy")
    assert {Path(b.path).stem for b in client.status().blocks} == {"a", "d", "e"}
    assert held.sum() == 2 * MIB
    assert client.status().charged <= client.status().budget
    del held


def test_no_room_names_the_holders(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """When held blocks fill the budget a get fails after a second, saying who holds what."""
    for name in ("x", "y"):
        save(tmp_path / f"{name}.npy", np.ones(5 * MIB))
    one = puppets(daemon)
    one(hold(tmp_path / "x.npy"))
    error, seconds = raised(lambda: client.get(tmp_path / "y.npy"))
    assert isinstance(error, arrayd.NoRoom)
    for words in (f"{tmp_path}/y.npy needs 40.0 MiB", "64.0 MiB", f"{tmp_path}/x.npy 40.0 MiB"):
        assert words in str(error)
    assert f"held by {one.pid} puppet.py" in str(error)
    assert error.details["budget"] == 64 * MIB
    assert 0.9 < seconds < 3
    assert len(client.status().blocks) == 1
    assert client.status().jobs == ()


def test_patience_for_room(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """With timeout= a get waits until a holder lets go, and then loads."""
    for name in ("x", "y"):
        save(tmp_path / f"{name}.npy", np.ones(5 * MIB))
    one, two = puppets(daemon), puppets(daemon)
    one(hold(tmp_path / "x.npy"))
    two.send(f"a = arrayd.get({str(tmp_path / 'y.npy')!r}, timeout=20); float(a.sum())")
    wait_until(lambda: [j.stage for j in client.status().jobs] == ["waiting for room"], "it waits")
    one("del a")
    assert two.reply() == 5 * MIB
    assert [b.path for b in client.status().blocks] == [f"{tmp_path}/y.npy"]


def test_larger_than_the_budget(client: arrayd.Client, tmp_path: Path) -> None:
    """What can never fit fails at once, whatever the timeout."""
    with (tmp_path / "x.bin").open("wb") as file:
        file.truncate(80 * MIB)
    error, seconds = raised(
        lambda: client.get(tmp_path / "x.bin", dtype="u1", shape=-1, timeout=20)
    )
    assert isinstance(error, arrayd.NoRoom)
    assert "80.0 MiB, more than the whole budget of 64.0 MiB" in str(error)
    assert seconds < 10
    leaves_nothing_behind(client)


def test_more_blocks_than_descriptors(
    start_daemon: Callable[..., Daemon], puppets: Stage, tmp_path: Path
) -> None:
    """One client holds 1,200 blocks where it and the daemon may have 1,024 descriptors."""
    limited = ("prlimit", "--nofile=1024:1024")
    # The rules are asserted over all blocks after every event: too slow for so many.
    flags = ("--budget", "64M", "--workers", "2", "--no-check")
    daemon = start_daemon(*flags, wrapper=limited)
    for number in range(1200):
        save(tmp_path / f"{number}.npy", np.int64(number))
    one = puppets(daemon, wrapper=limited)
    one(f"paths = [f'{tmp_path}/{{i}}.npy' for i in range(1200)]")
    one("arrays = arrayd.get_many(paths[:600], order='C')")  # so each has a block of its own
    one("arrays += arrayd.get_many(paths[600:], order='C')")
    assert one("int(sum(a[()] for a in arrays))") == 719400
    assert one("len({b.name for b in map(lambda a: a.block, arrays)})") == 1200
    assert one("len(os.listdir('/proc/self/fd'))") < 100
    assert len(os.listdir(f"/proc/{daemon.pid}/fd")) < 100
    one("del arrays")
    idle = "{b.state for b in arrayd.status().blocks} == {'idle'}"
    wait_until(lambda: one(idle), "all is idle")


# ---- the daemon's own end --------------------------------------------------------------------


def ended(daemon: Daemon) -> int:
    """Wait until the daemon ends by itself; return its exit code."""
    assert daemon.process is not None
    return daemon.process.wait(PATIENCE)


def test_an_idle_private_daemon_ends(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """After its idle time, counted from the last session and mapping, it ends; caches go too."""
    save(tmp_path / "x.npy", np.ones(1000))
    daemon = start_daemon("--private", "--idle-exit", "1")
    with arrayd.connect(daemon.endpoint) as session:
        assert session.get(tmp_path / "x.npy").sum() == 1000
        assert len(session.status().blocks) == 1
        began = time.monotonic()
    assert ended(daemon) == 0
    assert time.monotonic() - began >= 1
    assert daemon.leftovers() == []
    assert not os.path.exists(daemon.endpoint.removeprefix("ipc://"))


def test_a_daemon_nobody_can_reach_ends(start_daemon: Callable[..., Daemon]) -> None:
    """When the path of its socket vanishes a private daemon ends and leaves nothing."""
    daemon = start_daemon("--private")
    os.unlink(daemon.endpoint.removeprefix("ipc://"))
    assert ended(daemon) == 0
    assert daemon.leftovers() == []


def test_stop_leaves_what_is_mapped(daemon: Daemon, puppets: Stage, tmp_path: Path) -> None:
    """SIGTERM unlinks what nobody maps and leaves the rest, which the next start adopts."""
    for name in ("x", "y"):
        save(tmp_path / f"{name}.npy", np.ones(1000))
    one = puppets(daemon)
    one(hold(tmp_path / "y.npy"))
    one(hold(tmp_path / "x.npy"))  # y is let go
    held = one("a.block.name")
    daemon.stop(signal.SIGTERM)
    assert daemon.segments == [held]
    assert one("float(a.sum())") == 1000
    daemon.start()
    assert one("[b.segment for b in arrayd.status().blocks]") == [held]
    assert one("arrayd.status().counters['adopted']") == 1
    one.end()


def test_stop_by_request(daemon: Daemon, client: arrayd.Client, tmp_path: Path) -> None:
    """Client.stop ends the daemon as SIGTERM does, and tells its pid."""
    save(tmp_path / "x.npy", np.ones(1000))
    client.get(tmp_path / "x.npy")
    assert client.stop() == daemon.pid
    assert ended(daemon) == 0
    assert daemon.leftovers() == []
