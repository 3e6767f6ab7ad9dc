"""Forks: the child is a session of its own, its arrays stay, and nobody hangs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import arrayd
from tests.support.daemons import Daemon
from tests.support.processes import (
    SLOW,
    Stage,
    frozen_load,
    leaves_nothing_behind,
    only_block,
    pids,
    save,
    wait_until,
)
from tests.system.test_references import run

pytestmark = pytest.mark.one_daemon

# ---- who holds what --------------------------------------------------------------------------


def test_the_first_call_restates_what_was_inherited(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """After its first call the child holds the block as well, and so does the child's child."""
    values = save(tmp_path / "x.npy", np.arange(100))
    parent = puppets(daemon)
    parent(f"x = arrayd.get('{tmp_path}/x.npy')")
    child = parent.fork()
    assert child("int(x.sum())") == values.sum()
    assert pids(only_block(client)) == [parent.pid], "it has called nothing yet"
    child("arrayd.status() and None")
    assert pids(only_block(client)) == sorted([parent.pid, child.pid])
    grandchild = child.fork()
    grandchild("arrayd.status() and None")
    assert pids(only_block(client)) == sorted([parent.pid, child.pid, grandchild.pid])


def test_a_get_in_the_child_finds_what_was_inherited(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """The same source in the child is the inherited mapping, and the hold is stated soon."""
    save(tmp_path / "x.npy", np.arange(100))
    parent = puppets(daemon)
    parent(f"x = arrayd.get('{tmp_path}/x.npy')")
    child = parent.fork()
    assert child(f"y = arrayd.get('{tmp_path}/x.npy'); np.shares_memory(x, y)")
    wait_until(lambda: pids(only_block(client)) == sorted([parent.pid, child.pid]), "both hold it")


def test_a_silent_child_keeps_the_block(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """Its parent is killed, it never calls: the block is stray, and idle when it has ended."""
    values = save(tmp_path / "x.npy", np.arange(100))
    parent = puppets(daemon)
    parent(f"x = arrayd.get('{tmp_path}/x.npy')")
    child = parent.fork()
    parent.kill()
    wait_until(lambda: only_block(client).state == "stray", "the kernel knows of the child")
    with pytest.raises(arrayd.InUse):
        client.evict(tmp_path / "x.npy")
    assert child("int(x.sum())") == values.sum()
    child.end()
    wait_until(lambda: only_block(client).state == "idle", "nobody maps it any more")


def test_what_the_child_drops_the_parent_keeps(
    client: arrayd.Client, daemon: Daemon, puppets: Stage
) -> None:
    """The child's ``del``, release and end are the child's own, with a session or without."""
    parent = puppets(daemon)
    parent("x = arrayd.put(np.arange(100)); y = x[10:]")
    for code in ("del x, y", "arrayd.release(x)", "arrayd.status(); del x, y", "arrayd.status()"):
        child = parent.fork()
        child(f"{code}\narrayd.status() and None")
        if "del" in code or "release" in code:
            wait_until(lambda: pids(only_block(client)) == [parent.pid], "the child's hold ended")
        child.end()
        wait_until(lambda: pids(only_block(client)) == [parent.pid], "the child has ended")
    assert parent("int(y.sum())") == sum(range(10, 100))
    parent("del x, y")
    leaves_nothing_behind(client)


def test_what_the_parent_drops_the_child_keeps(
    client: arrayd.Client, daemon: Daemon, puppets: Stage
) -> None:
    """A published block lives on in the child when the parent lets it go."""
    parent = puppets(daemon)
    parent("x = arrayd.put(np.arange(100))")
    child = parent.fork()
    parent("del x; arrayd.status() and None")
    wait_until(lambda: pids(only_block(client)) == [], "the parent's hold ended")
    assert child("arrayd.status(); int(x.sum())") == sum(range(100))
    assert pids(only_block(client)) == [child.pid]
    child("del x")
    leaves_nothing_behind(client)


def test_fifty_arrays(client: arrayd.Client, daemon: Daemon, puppets: Stage) -> None:
    """All that a process holds is its child's as well, and is given back one by one."""
    parent = puppets(daemon)
    parent("arrays = [arrayd.put(np.full(100, i)) for i in range(50)]")
    child = parent.fork()
    child("arrayd.status() and None")
    both = sorted([parent.pid, child.pid])
    assert [pids(block) for block in client.status().blocks] == [both] * 50
    assert child("[int(x[0]) for x in arrays]") == list(range(50))
    child("del arrays[::2]")
    wait_until(
        lambda: [pids(b) for b in client.status().blocks] == [[parent.pid], both] * 25,
        "the child gave every second one back",
    )
    child.end()
    wait_until(
        lambda: {tuple(pids(b)) for b in client.status().blocks} == {(parent.pid,)},
        "the parent alone holds them",
    )


def test_what_was_dropped_just_before(
    client: arrayd.Client, daemon: Daemon, puppets: Stage
) -> None:
    """A hold that has ended but is not yet given back is the parent's affair alone."""
    parent = puppets(
        daemon, "import numpy as np, arrayd, arrayd.session.flusher as k; k.FLUSH_AFTER = 60"
    )
    parent("x = arrayd.put(np.arange(100))")
    parent("del x")
    child = parent.fork()
    assert pids(only_block(client)) == [parent.pid], "the parent has not given it back yet"
    child("arrayd.status() and None")
    assert pids(only_block(client)) == [parent.pid]
    parent("arrayd.status() and None")
    leaves_nothing_behind(client)


def test_what_was_dropped_during_the_hello(client: arrayd.Client) -> None:
    """A hold that the daemon numbered anew while its array was dropped is given back."""
    x = client.put(np.arange(100))
    assert x.block is not None
    stated = client._session.blocks.stated()
    assert stated == [x.block.name]
    del x
    leaves_nothing_behind(client)
    client._session.blocks.welcomed(stated, dict.fromkeys(stated, 1 << 40))
    assert client._session.blocks.releases_due() == [[stated[0], 1 << 40]]


# ---- nobody hangs ----------------------------------------------------------------------------


def test_a_fork_during_a_long_get(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, slow_file: Path
) -> None:
    """A thread of the parent waits for a load: the child works, and the parent gets its array."""
    parent = puppets(daemon)
    parent("import threading; x = arrayd.put(np.arange(100)); got = []")
    parent(
        f"thread = threading.Thread(target=lambda: got.append(arrayd.get('{slow_file}', **{SLOW})))"
        "\nthread.start()"
    )
    with frozen_load(daemon, client):
        child = parent.fork()
        assert child("y = arrayd.put(x * 2); int(y.sum())") == 2 * sum(range(100))
        child.end()
        assert parent("thread.is_alive()")
    assert parent("thread.join(); list(got[0].shape)") == [500_000, 3]


ENDS = """
import os, signal, sys, arrayd, numpy as np
x = arrayd.get(sys.argv[1])
for code in {children}:
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        exec(code)
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7, code
    assert x.sum() == 4950 and arrayd.get(sys.argv[1], rows=slice(0, 10)).sum() == 45
"""

CHILDREN = [
    "pass",
    "del x",
    "arrayd.status()",
    "y = arrayd.get(sys.argv[1], rows=slice(1, None, 2))",
    "z = arrayd.put(x)",
    "arrayd.connect(os.environ['ARRAYD_ENDPOINT']).status()",
]


def test_a_child_that_ends_by_itself(client: arrayd.Client, daemon: Daemon, tmp_path: Path) -> None:
    """A forked child runs its exit handlers to the end, and takes nothing from the parent."""
    save(tmp_path / "x.npy", np.arange(100))
    run(ENDS.format(children=CHILDREN), daemon, str(tmp_path / "x.npy"))
    wait_until(
        lambda: {block.state for block in client.status().blocks} == {"idle"}, "all have ended"
    )


POOL = """
import multiprocessing as mp, sys, arrayd, numpy as np

x = arrayd.get(sys.argv[1])

def total(part):
    return float(x[part::4].sum())

with mp.get_context("fork").Pool(2) as pool:
    totals = pool.map(total, range(4), chunksize=1)
    (block,) = arrayd.status().blocks
    assert len(block.holders) == 1
assert totals == [float(x[part::4].sum()) for part in range(4)]
"""


def test_a_pool_with_inherited_arrays(
    client: arrayd.Client, daemon: Daemon, tmp_path: Path
) -> None:
    """The classic: a global array, workers that only read it; no call, no copy, no hang."""
    save(tmp_path / "x.npy", np.arange(10_000.0))
    run(POOL, daemon, str(tmp_path / "x.npy"))
    wait_until(lambda: only_block(client).state == "idle", "the workers have ended")


THREADS = """
import faulthandler, os, signal, sys, threading, arrayd, numpy as np

faulthandler.register(signal.SIGALRM, chain=True)  # says where it hangs, then ends it
files, stop = sys.argv[1:], threading.Event()

def busy():
    while not stop.is_set():
        for file in files:
            arrayd.get(file).sum()

threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads:
    thread.start()
x = arrayd.put(np.arange(100))
for number in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        assert arrayd.get(files[number % len(files)]).sum() == 4950
        assert x.sum() == 4950
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, number
stop.set()
for thread in threads:
    thread.join()
"""


def test_twenty_forks_among_threads(client: arrayd.Client, daemon: Daemon, tmp_path: Path) -> None:
    """Threads get and drop arrays all the time; each of 20 forked children gets its own."""
    files = [tmp_path / f"{number}.npy" for number in range(4)]
    for file in files:
        save(file, np.arange(100))
    run(THREADS, daemon, *map(str, files))
    wait_until(
        lambda: {block.state for block in client.status().blocks} == {"idle"}, "all have ended"
    )
