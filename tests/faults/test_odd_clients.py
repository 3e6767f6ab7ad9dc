"""Clients in odd situations, each a real process: a value or a typed error, no crash, no hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import arrayd
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import SLOW, Stage, frozen_load, save, wait_until

PROLOGUE = f"""
import os, sys, time, signal, threading, gc, warnings
import arrayd, numpy as np
SLOW = {SLOW!r}; warnings.simplefilter("ignore")  # 3.12: of a fork among threads, meant here
def outcome(what):
    try:
        return what()
    except arrayd.ArraydError as error:
        return type(error).__name__
def all_sleep():
    tasks = set(os.listdir("/proc/self/task")) - {{str(os.getpid())}}
    try:
        stats = [open(f"/proc/self/task/{{task}}/stat").read().rpartition(")") for task in tasks]
    except OSError:  # one has ended meanwhile
        return False
    return all(stat[2].split()[0] == "S" for stat in stats)
def close_all():
    # libzmq's threads abort if they are awake at that moment: see the README's caveats
    while not all(all_sleep() or time.sleep(0.001) for _ in range(20)):
        pass
    os.closerange(3, 1000)
def holds():
    for _ in range(500):
        if not (found := sum(len(block.holders) for block in arrayd.status().blocks)):
            break
        time.sleep(0.01)
    return found
"""

Script = Callable[..., list[str]]


@pytest.fixture
def script(daemon: Daemon, tmp_path: Path) -> Script:
    """Give ``script(code)``: run it in a folder with 3 files; its output, once it ended well."""
    save(tmp_path / "a.npy", np.arange(1000))
    save(tmp_path / "b.npy", np.arange(2000) * 2)
    (tmp_path / "slow.txt").write_text("1 2 3\n" * 300_000)

    def run(code: str, prologue: str = PROLOGUE) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", prologue + code],
            env={**os.environ, "ARRAYD_ENDPOINT": daemon.endpoint},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{done.returncode}: {done.stderr}"
        return done.stdout.split()

    return run


# ---- after the end of something --------------------------------------------------------------


def test_after_release_and_close(script: Script) -> None:
    """What is mapped stays readable; a new request to a closed client is a typed error."""
    assert script("""
client = arrayd.connect()
a = client.get("a.npy")
arrayd.release(a)
print(a[5])
arrayd.release(a)
client.close()
client.close()
print(a[6], a.sum(), outcome(lambda: client.get("a.npy")), outcome(client.status))
arrayd.release(a)
del a
""") == ["5", "6", "499500", "DaemonLost", "DaemonLost"]


@pytest.mark.parametrize("end", ["kill", "stop", "evict"])
def test_after_the_daemon(daemon: Daemon, puppets: Stage, tmp_path: Path, end: str) -> None:
    """An array outlives its daemon, killed or stopped; a request ends in its time."""
    save(tmp_path / "a.npy", np.arange(1000))
    p = puppets(daemon)
    p(f"a = arrayd.get({str(tmp_path / 'a.npy')!r}); part = a[10:20]")
    if end == "evict":
        with pytest.raises(arrayd.InUse):
            p(f"arrayd.evict({str(tmp_path / 'a.npy')!r})")
    (daemon.kill if end == "kill" else daemon.stop)()
    assert p("[int(a[7]), int(part.sum())]") == [7, 145]
    save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(arrayd.LoadTimeout):
        p(f"arrayd.get({str(tmp_path / 'b.npy')!r}, timeout=0.1)")
    p("arrayd.release(a); del a")
    assert p("int(part[0])") == 10
    p("del part")
    p.end()
    daemon.start()


# ---- fork ------------------------------------------------------------------------------------


@pytest.mark.parametrize("parent", ["pass", "arrayd.release(a)", "client.close()", "os._exit(0)"])
def test_the_parent_is_first(script: Script, parent: str) -> None:
    """A child reads, asks and releases though its parent has let go, closed or ended before."""
    said = script(f"""
client = arrayd.connect()
a = client.get("a.npy")
gone = os.pipe()
if os.fork() == 0:
    os.close(gone[1])
    os.read(gone[0], 1)
    assert a[7] == 7
    print(client.get("b.npy")[9], arrayd.get("a.npy")[8], flush=True)
    arrayd.release(a)
    assert a[9] == 9
    os._exit(0)
{parent}
os.close(gone[1])
os.wait()
""")
    assert said == ["18", "8"]


def test_the_child_is_first(script: Script) -> None:
    """What a child closes, releases or dies of is nothing to its parent."""
    assert script("""
client = arrayd.connect()
a = client.get("a.npy")
for end in (client.close, lambda: arrayd.release(a), lambda: os.kill(os.getpid(), 9), gc.collect):
    if os.fork() == 0:
        end()
        os._exit(0)
    os.wait()
    print(a[7], client.get("b.npy")[9])
print(len(client.status().blocks[0].holders))
""") == ["7", "18"] * 4 + ["1"]


def test_a_double_fork_that_closes_all(script: Script) -> None:
    """The classic daemon: setsid, fork again, close every descriptor. Arrays and requests work."""
    assert script("""
a = arrayd.get("a.npy")
ready = os.pipe()
os.dup2(ready[1], 1500)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(3, 1000)
    for _ in range(3):
        os.open("/dev/null", os.O_RDWR)
    said = f"{a[7]} {arrayd.get('b.npy')[9]} {arrayd.get('a.npy')[8]}"
    os.write(1500, said.encode())
    raise SystemExit
os.wait()
print(os.read(ready[0], 100).decode(), a[3], arrayd.get("b.npy")[1])
""") == ["7", "18", "8", "3", "2"]


def test_a_fork_amid_a_call(script: Script) -> None:
    """A child born in a progress callback that returns into its parent's call gets an error."""
    assert script("""
children = []
def progress(_):
    if not children:
        children.append(os.fork())
        if children[0] == 0:
            children[0] = -1
try:
    a = arrayd.get("slow.txt", progress=progress, **SLOW)
except arrayd.DaemonLost:
    assert children == [-1]
    print(arrayd.get("a.npy")[3], flush=True)
    os._exit(0)
assert children[0] > 0
assert os.waitpid(children[0], 0)[1] == 0
print(a.shape[0])
""") == ["3", "300000"]


# ---- descriptors closed behind our back ------------------------------------------------------


def test_all_descriptors_closed(script: Script) -> None:
    """After ``os.closerange`` a client opens a session anew, and the old one's holds end."""
    assert script("""
a, b = arrayd.get("a.npy"), arrayd.get("b.npy")
del b
close_all()
print(a[5], arrayd.get("b.npy")[7])
close_all()
del a
print(arrayd.get("a.npy")[4], holds())
""") == ["5", "14", "4", "0"]


def test_descriptors_that_became_others_files(script: Script, tmp_path: Path) -> None:
    """A number that used to be ours is somebody's file now: nothing is ever written to it."""
    assert script("""
a = arrayd.get("a.npy")
close_all()
files = [open(f"f{i}", "w") for i in range(40)]
print(a[5])
del a
gc.collect()
print(arrayd.get("b.npy")[1])
""") == ["5", "2"]
    assert [path.name for path in tmp_path.glob("f*") if path.stat().st_size] == []


# ---- threads ---------------------------------------------------------------------------------


def test_threads_do_everything_at_once(script: Script) -> None:
    """Get, slice, drop, release and fork in eight threads of one session: all values right."""
    assert script("""
failures = []
def work(seed):
    chance = np.random.default_rng(seed)
    try:
        for _ in range(40):
            name, factor = [("a.npy", 1), ("b.npy", 2)][chance.integers(2)]
            array = arrayd.get(name)
            part = array[chance.integers(500):]
            assert part[3] - part[2] == factor
            if chance.integers(3) == 0:
                arrayd.release(array)
            if chance.integers(10) == 0:
                pid = os.fork()
                if pid == 0:
                    os._exit(0 if part[1] - part[0] == factor else 1)
                assert os.waitpid(pid, 0)[1] == 0
            del array, part
    except BaseException as error:
        failures.append(repr(error))
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(failures)
print(holds())
""") == ["[]", "0"]


def test_a_daemon_thread_in_a_get(daemon: Daemon, client: arrayd.Client, tmp_path: Path) -> None:
    """The interpreter ends at once, well, while a daemon thread waits for a long load."""
    path = tmp_path / "slow.txt"
    path.write_text("1 2 3\n" * 300_000)
    code = f"""
threading.Thread(target=lambda: arrayd.get({str(path)!r}, **SLOW), daemon=True).start()
sys.stdin.readline()
"""
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", PROLOGUE + code],
        env={**os.environ, "ARRAYD_ENDPOINT": daemon.endpoint},
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process, frozen_load(daemon, client):
        process.communicate(b"\n", timeout=PATIENCE)
    assert process.returncode == 0


# ---- the end of the interpreter --------------------------------------------------------------


HOOK = """
def hook():
    for what in (lambda: a[5], lambda: arrayd.get("a.npy")[3], lambda: arrayd.get("b.npy")[3],
                 lambda: arrayd.status().pid > 0, lambda: arrayd.release(a), lambda: a.sum()):
        print(outcome(what))
"""


def test_hooks_at_exit(script: Script) -> None:
    """A hook that was registered after the import does all; one from before it still reads."""
    after = f"import atexit\n{HOOK}\natexit.register(hook)\na = arrayd.get('a.npy')"
    assert script(after) == ["5", "3", "6", "True", "None", "499500"]
    before = f"{HOOK}\nimport atexit\natexit.register(hook)\n{PROLOGUE}\na = arrayd.get('a.npy')"
    lost = ["DaemonLost"] * 3
    assert script(before, prologue="") == ["5", *lost, "None", "499500"]


def test_the_first_call_at_exit(script: Script) -> None:
    """A program that first calls arrayd in a hook at exit gets its array."""
    late = "import atexit\natexit.register(lambda: print(__import__('arrayd').get('a.npy')[7]))"
    assert script(late, prologue="") == ["7"]


def test_finalizers_of_the_user(script: Script) -> None:
    """``__del__`` reads arrays and calls arrayd: in a collection of cycles, and at shutdown."""
    assert script("""
class Owner:
    def __init__(self):
        self.array, self.me = arrayd.get("a.npy")[3:], self
        self.calls = (arrayd.get, arrayd.status, arrayd.release, print, outcome)
    def __del__(self):
        get, status, release, say, outcome = self.calls
        say(self.array[2], outcome(lambda: get("b.npy")[1]), outcome(lambda: bool(status())))
        release(self.array)
        say(self.array[4])
Owner()
gc.collect()
kept = Owner()
""") == ["5", "2", "True", "7", "5", "DaemonLost", "DaemonLost", "7"]


def test_exit_without_goodbye(script: Script, client: arrayd.Client) -> None:
    """``os._exit`` with arrays and a session: the daemon forgets the process."""
    script('a = arrayd.get("a.npy"); p = arrayd.put(np.arange(9)); os._exit(0)')
    leaves_no_holder(client)


# ---- signals ---------------------------------------------------------------------------------


def test_a_handler_asks_amid_a_get(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, tmp_path: Path, slow_file: Path
) -> None:
    """A signal handler that reads and gets arrays while its thread waits in a get has them."""
    save(tmp_path / "a.npy", np.arange(1000))
    held = client.get(tmp_path / "a.npy")
    p = puppets(daemon, "import os, arrayd, signal")
    p(f"""
seen = []
def handler(*_):
    loading = sum(block.state == "loading" for block in arrayd.status().blocks)
    array = arrayd.get({str(tmp_path / "a.npy")!r}, pin=1)  # which asks
    seen.append([int(array[5]), loading])
signal.signal(signal.SIGUSR1, handler)
""")
    p.send(f"b = arrayd.get({str(slow_file)!r}, **{SLOW!r}); [len(b), seen]")
    with frozen_load(daemon, client):
        os.kill(p.pid, signal.SIGUSR1)
        wait_until(lambda: any(len(b.holders) == 2 for b in client.status().blocks), "it got it")
    assert p.reply() == [500_000, [[5, 1]]]
    del held


def test_a_handler_closes_amid_a_get(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, slow_file: Path
) -> None:
    """A signal handler that closes the client whose get it interrupts: the get says so."""
    p = puppets(daemon, "import os, arrayd, signal")
    p("mine = arrayd.connect(); signal.signal(signal.SIGUSR1, lambda *_: mine.close())")
    p.send(f"mine.get({str(slow_file)!r}, **{SLOW!r})")
    with frozen_load(daemon, client):
        os.kill(p.pid, signal.SIGUSR1)
        with pytest.raises(arrayd.DaemonLost, match="closed"):
            p.reply()
    assert p("arrayd.status().pid") == daemon.pid


def test_ctrl_c_at_any_moment(script: Script) -> None:
    """Hundreds of interrupts at random moments of gets and drops: no hold and no page is left."""
    said = script("""
import random
chance = random.Random(3)
def interrupt(*_):
    signal.setitimer(signal.ITIMER_REAL, 0)  # none comes amid the trial's own lines
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
sys.unraisablehook = lambda _: None  # one that hits a callback of the interpreter is ignored
arrayd.info("b.npy")  # imports the rest: a Ctrl-C in a dataclass's exec() is CPython's exit status
end, hits = time.monotonic() + 2, 0
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001 + chance.random() * 0.006)
        while True:
            name, size, factor = chance.choice([("a.npy", 1000, 1), ("b.npy", 2000, 2)])
            array = arrayd.get(name)
            assert (array.size, array[7]) == (size, 7 * factor)
            del array
            if chance.random() < 0.05:  # the one before was ignored
                signal.setitimer(signal.ITIMER_REAL, 0.001)
            assert arrayd.info(name).shape == (size,)
    except KeyboardInterrupt:
        hits, array = hits + 1, None
maps = {line.strip()[-6:] for line in open("/proc/self/maps") if "arrayd-" in line}
print(hits > 50, holds(), maps <= {"/index"})
""")
    assert said == ["True", "0", "True"]


def leaves_no_holder(client: arrayd.Client) -> None:
    """Wait until nobody holds anything."""
    wait_until(lambda: not any(b.holders for b in client.status().blocks), "nobody holds anything")
