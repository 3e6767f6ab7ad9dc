"""Clients that are stopped, killed, exec'ed or late at the worst moments, and `collect` as well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.common import failpoints
from tests.faults.grounds import is_stopped
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import (
    Puppet,
    Stage,
    leaves_nothing_behind,
    only_block,
    pids,
    save,
    wait_until,
)

PROGRAM = (sys.executable, "-c", "import sys; from arrayd.cli import main; sys.exit(main())")


def at(point: str, action: str = "stop") -> tuple[str, str]:
    """Return the wrapper of a process in which that happens at a point."""
    return ("env", f"{failpoints.VARIABLE}={point}={action}")


def stopped(p: Puppet, code: str) -> Puppet:
    """Have a puppet run code until it stops itself."""
    p.send(code)
    wait_until(lambda: is_stopped(p.pid), "it has stopped itself")
    return p


def go_on(p: Puppet) -> object:
    """Wake a puppet; return what its code has come to."""
    os.kill(p.pid, signal.SIGCONT)
    return p.reply()


# ---- between grant and attach ----------------------------------------------------------------


def restart(daemon: Daemon) -> None:
    """Let the daemon crash and come back twice."""
    for _ in range(2):
        daemon.kill()
        daemon.start()


def hand_over(daemon: Daemon) -> None:
    """Let the daemon hand over to the next twice."""
    for _ in range(2):
        daemon.stop(signal.SIGUSR1)
        daemon.start()


def renew(daemon: Daemon) -> None:
    """Stop the daemon, which frees what nobody maps, and start another."""
    daemon.stop()
    daemon.start()


@pytest.mark.parametrize(
    ("meanwhile", "point"),
    [
        (restart, "client.granted"),
        (restart, "client.mapped"),
        (hand_over, "client.granted"),
        (renew, "client.granted"),
    ],
)
def test_stopped_while_the_daemon_changes(
    daemon: Daemon,
    puppets: Stage,
    tmp_path: Path,
    meanwhile: Callable[[Daemon], None],
    point: str,
) -> None:
    """A client that sleeps through restarts amid a get has the right array, and its hold."""
    path = tmp_path / "a.npy"
    save(path, np.arange(1000))
    p = stopped(
        puppets(daemon, wrapper=at(point)), f"a = arrayd.get({str(path)!r}); [int(a[7]), a.size]"
    )
    meanwhile(daemon)
    assert go_on(p) == [7, 1000]
    assert p("[int(a[8]), len(arrayd.status().blocks)]") == [8, 1]
    with arrayd.connect(daemon.endpoint) as client:
        wait_until(lambda: pids(only_block(client)) == [p.pid], "its hold is known")
        p("del a")
        p.end()
        wait_until(lambda: not pids(only_block(client)), "and ends")


def test_stopped_while_others_need_the_room(
    start_daemon: Callable[..., Daemon], puppets: Stage, tmp_path: Path
) -> None:
    """A grant that is not attached gives way after 5 s; its client loads the array again."""
    daemon = start_daemon("--budget", "16M", "--workers", "1")
    save(tmp_path / "a.npy", np.arange(1 << 20))
    save(tmp_path / "b.npy", np.arange(1 << 20) * 2)
    code = f"a = arrayd.get({str(tmp_path / 'a.npy')!r}, timeout=20); int(a[9])"
    p = stopped(puppets(daemon, wrapper=at("client.granted")), code)
    with arrayd.connect(daemon.endpoint) as client:
        b = client.get(tmp_path / "b.npy", timeout=PATIENCE)
        assert b[9] == 18
        assert client.status().counters["stale_holds"] == 1
        del b
        assert go_on(p) == 9
        p.end()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("granted", signal.SIGKILL),
        ("mapped", signal.SIGTERM),
        ("written", signal.SIGTERM),
        ("sealing", signal.SIGKILL),
        ("sealed", signal.SIGKILL),
    ],
)
def test_killed_there(
    daemon: Daemon,
    client: arrayd.Client,
    puppets: Stage,
    tmp_path: Path,
    name: str,
    number: int,
) -> None:
    """A client that is killed where it was stopped is forgotten, and its unsealed block freed."""
    save(tmp_path / "a.npy", np.arange(1000))
    writes = "with arrayd.create(1000, 'i8', 'n') as out: out[:] = 7"
    gets = f"a = arrayd.get({str(tmp_path / 'a.npy')!r})"
    p = puppets(daemon, wrapper=at(f"client.{name}"))
    stopped(p, gets if name in ("granted", "mapped") else writes)
    os.kill(p.pid, number)
    os.kill(p.pid, signal.SIGCONT)
    p.kill()
    wait_until(lambda: not any(map(pids, client.status().blocks)), "it is forgotten")
    assert client.put([1, 2], "n")[1] == 2  # the name is free
    assert client.get(tmp_path / "a.npy")[7] == 7
    client.evict(tmp_path / "a.npy")
    leaves_nothing_behind(client)


def test_stopped_amid_a_create(daemon: Daemon, client: arrayd.Client, puppets: Stage) -> None:
    """A writer that sleeps through two restarts seals its block all the same."""
    writes = "with arrayd.create(1000, 'i8', 'n', keep=True) as out: out[:] = 7"
    p = stopped(puppets(daemon, wrapper=at("client.written")), writes)
    with pytest.raises(arrayd.LoadTimeout):
        client.get("name:n", timeout=0.1)
    restart(daemon)
    go_on(p)
    assert (client.get("name:n") == 7).all()
    p.end()
    client.evict("name:n")


def test_exec_between_grant_and_attach(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, tmp_path: Path
) -> None:
    """A program that becomes another before it maps its grant holds nothing when it ends."""
    save(tmp_path / "a.npy", np.arange(1000))
    p = puppets(daemon)
    p(f"""
import arrayd.session.held_blocks
become = reincarnate
def reincarnate():
    arrayd.session.held_blocks.SegmentMapping = lambda *_: become()
    arrayd.get({str(tmp_path / "a.npy")!r})
""")
    p.reincarnate()
    assert pids(only_block(client)) == [p.pid]
    assert client.get(tmp_path / "a.npy")[7] == 7
    p.kill()
    wait_until(lambda: not pids(only_block(client)), "it is forgotten")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_pool_that_is_terminated(
    daemon: Daemon, client: arrayd.Client, tmp_path: Path, method: str
) -> None:
    """Workers that are ended amid gets and reads leave no hold, and the program ends well."""
    save(tmp_path / "a.npy", np.arange(1000))
    script = tmp_path / "pool.py"
    script.write_text(f"""
import multiprocessing as mp
import arrayd
def read(i):
    while True:
        array = arrayd.get("a.npy")
        assert array[i] == i
        print(i, flush=True)
        del array
if __name__ == "__main__":
    mine = arrayd.get("a.npy")
    pool = mp.get_context({method!r}).Pool(2)
    pool.map_async(read, range(2))
    input()
    pool.terminate()
    pool.join()
    assert mine[5] == arrayd.get("a.npy")[5] == 5
""")
    command = ["env", f"ARRAYD_ENDPOINT={daemon.endpoint}", sys.executable, str(script)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while process.stdout.readline() != b"1\n":  # both are at it, or have been
            pass
        process.stdin.write(b"\n")
        process.stdin.close()
        process.stdout.read()
        assert process.wait(PATIENCE) == 0
    wait_until(lambda: not any(map(pids, client.status().blocks)), "no hold is left")


# ---- a late reply ----------------------------------------------------------------------------


def test_a_reply_that_is_too_late(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, tmp_path: Path
) -> None:
    """Hundreds of timeouts as the reply arrives: none is taken for another's, no hold is left."""
    for value in range(8):
        save(tmp_path / f"{value}.npy", np.full(100 + value, value))
    p = puppets(daemon)
    late, right = p(f"""
import random, arrayd.session
arrayd.session.session._GRACE = 0  # the client's own patience, not the daemon's answer
chance, late, right = random.Random(5), 0, 0
os.chdir({str(tmp_path)!r})
arrayd.get_many([f"{{value}}.npy" for value in range(8)])
last = {{value: False for value in range(8)}}  # whether the last try for it was late
while late + right < 400 or not all(last.values()):
    value = chance.choice([v for v in last if late + right < 400 or not last[v]])
    try:
        array = arrayd.get(f"{{value}}.npy", timeout=chance.random() ** 2 * 0.004, pin=0.01)
    except arrayd.LoadTimeout:
        late, last[value] = late + 1, True
    else:
        assert array.shape == (100 + value,) and (array == value).all(), (value, array)
        right, last[value] = right + 1, False
        del array
[late, right]
""")
    assert late > 5, right
    assert right > 5, late
    wait_until(lambda: not any(map(pids, client.status().blocks)), "no hold is left")


# ---- collect ---------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Give files to collect."""
    paths = [tmp_path / f"{i}.npy" for i in range(4)]
    for i, path in enumerate(paths):
        save(path, np.full(1000, i))
    return paths


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Give a file that is there already, in a folder of its own."""
    path = tmp_path / "out" / "out.h5"
    path.parent.mkdir()
    path.write_text("old")
    return path


def collect(daemon: Daemon, files: list[Path], out: Path, *wrapper: str) -> tuple[int, str]:
    """Run ``arrayd collect``; return how it ended, and its complaint."""
    words = ["collect", *map(str, files), "-o", str(out), "--endpoint", daemon.endpoint]
    done = subprocess.run(
        [*wrapper, *PROGRAM, *words], capture_output=True, text=True, timeout=PATIENCE
    )
    return done.returncode, done.stderr


def is_whole(out: Path) -> bool:
    """Say whether all was collected; False: the old file is there as it was."""
    if out.read_bytes() == b"old":
        return False
    with h5py.File(out) as file:
        assert [int(file[name][999]) for name in sorted(file)] == [0, 1, 2, 3]
    return True


@pytest.mark.parametrize(
    ("point", "action", "code"),
    [
        ("client.collecting", "kill:2", -9),
        ("client.collecting", "term:2", 143),
        ("client.collecting", "int:3", 130),
        ("client.renaming", "kill", -9),
    ],
)
def test_a_collect_that_is_killed(
    daemon: Daemon,
    client: arrayd.Client,
    files: list[Path],
    out: Path,
    point: str,
    action: str,
    code: int,
) -> None:
    """The old file stays as it was, holds end, and a rerun clears away what SIGKILL left."""
    status, complaint = collect(daemon, files, out, *at(point, action))
    assert status == code
    assert complaint == ""
    assert not is_whole(out)
    assert len(os.listdir(out.parent)) == (2 if code == -9 else 1)
    wait_until(lambda: not any(map(pids, client.status().blocks)), "it holds nothing")
    assert collect(daemon, files, out) == (0, "")
    assert is_whole(out)
    assert os.listdir(out.parent) == ["out.h5"]


def test_killed_at_random_moments(daemon: Daemon, files: list[Path], out: Path) -> None:
    """SIGKILL, SIGTERM and Ctrl-C at any time: the file is the old one or a whole new one."""
    chance = np.random.default_rng(4)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        words = ["collect", *map(str, files), "-o", str(out), "--endpoint", daemon.endpoint]
        with subprocess.Popen([*PROGRAM, *words], stdout=-3, stderr=-3) as process:
            try:
                process.wait(0.2 + 0.6 * chance.random())
            except subprocess.TimeoutExpired:
                process.send_signal(number)
            process.wait(PATIENCE)
        is_whole(out)
    assert collect(daemon, files, out) == (0, "")
    assert is_whole(out)
    assert os.listdir(out.parent) == ["out.h5"]


def test_what_another_run_is_writing_stays(daemon: Daemon, files: list[Path], out: Path) -> None:
    """A run clears away what the dead have left, not what a living one for that file writes."""
    words = ["collect", *map(str, files), "-o", str(out), "--endpoint", daemon.endpoint]
    with subprocess.Popen([*at("client.renaming"), *PROGRAM, *words], stdout=-3) as other:
        wait_until(lambda: is_stopped(other.pid), "one stops before the end")
        assert collect(daemon, files[:3], out) == (0, "")
        other.send_signal(signal.SIGCONT)
        assert other.wait(PATIENCE) == 0
    assert is_whole(out)
    assert os.listdir(out.parent) == ["out.h5"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: root only")
def test_a_small_disk(daemon: Daemon, files: list[Path], tmp_path: Path) -> None:
    """On a full file system: exit 1, one line that says so, no half file, the old one stays."""
    save(files[0], np.arange(200_000))
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
mount -t tmpfs -o size=1m none {disk} && echo old > {disk}/out.h5
"$@"; echo status $? $(ls -A {disk}) $(cat {disk}/out.h5)
"""
    words = ["collect", *map(str, files), "-o", f"{disk}/out.h5", "--endpoint", daemon.endpoint]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *PROGRAM, *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout.split() == ["status", "1", "out.h5", "old"], done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "out.h5 cannot be written" in done.stderr
    assert "No space left on device" in done.stderr


def test_the_output_is_open_elsewhere(daemon: Daemon, files: list[Path], out: Path) -> None:
    """Who reads the old output goes on reading it; who opens it next has the new one."""
    assert collect(daemon, files[:1], out) == (0, "")
    with h5py.File(out) as old:
        assert collect(daemon, files, out) == (0, "")
        assert (len(old), int(next(iter(old.values()))[5])) == (1, 0)
    assert is_whole(out)
