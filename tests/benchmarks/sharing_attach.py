"""The part ``attach`` of ``tests.benchmarks.sharing``: arrays that lie in memory already."""

from __future__ import annotations

import contextlib
import inspect
import os
import resource
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import arrayd
from tests.benchmarks.attaching import VALUES, small_files
from tests.benchmarks.elsewhere import plasma_store, version
from tests.benchmarks.files import MIB, make_npy
from tests.benchmarks.markdown import Goal, Markdown, least, most, rounds
from tests.benchmarks.processes import Consumer, Daemon, pss_bytes, together

if TYPE_CHECKING:
    from tests.benchmarks.sharing import Bench

COUNT = 1000
"""Small arrays."""

CROWDS = (1, 4, 16)
"""Clients at a time."""

SLICE = 0.4
"""Seconds that clients get as often as they can."""

READY = 0.1
"""Seconds until they begin, all at once."""

MODULE = "tests.benchmarks.attaching"

FIRST = """
import sys, arrayd
float(arrayd.get(sys.argv[1])[7])
"""
IMPORTS = "import numpy, zmq, msgpack"

Spec = dict[str, Any]
Crew = list[Consumer]


@dataclass
class Scene:
    """All who get, and what they get.

    Parameters
    ----------
    files
        Each in a block of its own.
    crews
        Processes of each kind, by its name in the table.
    """

    table: Markdown
    files: list[str]
    crews: dict[str, Crew]

    def each(self, name: str, what: str, calls: int) -> Callable[[], float]:
        """Return what measures the microseconds of one call."""
        one = self.crews[name][:1]
        return lambda: float(together(one, what=what, calls=calls)[0]["seconds"]) * 1e6

    def rate(self, name: str, what: str, clients: int, of_each: int = 1) -> Callable[[], float]:
        """Return what measures the thousands of arrays per second that clients get together."""

        def measure() -> float:
            at = time.monotonic() + READY
            crew = self.crews[name][:clients]
            found = together(crew, what=what, at=at, until=at + SLICE)
            return float(sum(one["got"] / one["seconds"] for one in found)) * of_each / 1e3

        return measure

    def there(self, *names: str) -> list[str]:
        """Return which of these peers there are."""
        return [name for name in names if name in self.crews]


def run(bench: Bench) -> None:
    """Measure all lines of the part."""
    place = bench.folder / "attach"
    place.mkdir()
    daemon = Daemon(place, "--budget", f"{2 * bench.sizes.summed + 256 * MIB}")
    try:
        with scene(bench, daemon) as made:
            singles(made)
            crowds(made)
            batches(made)
            restarts(made, daemon)
        fresh_process(bench.table, daemon, made.files[0])
        summing(bench, daemon)
    finally:
        daemon.stop()


@contextlib.contextmanager
def scene(bench: Bench, daemon: Daemon) -> Iterator[Scene]:
    """Make files, blocks and the peers' arrays, and start all who get them."""
    files = small_files(bench.folder / "own", COUNT)
    members = small_files(bench.folder / "members", COUNT)
    segments = []
    for number in range(COUNT):
        segment = bench.memory / str(number)
        segment.write_bytes(bytes(VALUES * 8 + 4096))
        segments.append(str(segment))
    with arrayd.connect(daemon.endpoint) as client, contextlib.ExitStack() as stack:
        for path in files:
            client.get(path)
        client.get_many(members)
        own = {"kind": "arrayd", "endpoint": daemon.endpoint, "files": files, "members": members}
        bare = {"kind": "segments", "files": files, "segments": segments}
        at = f"ipc://{bench.memory}/echo"
        server = stack.enter_context(Consumer({"kind": "echo server", "at": at}, module=MODULE))
        stack.callback(server.kill)
        server.tell()
        crews = {
            "arrayd": _crew(stack, own, CROWDS[-1]),
            "system calls": _crew(stack, bare, 1),
            "DEALER round trip": _crew(stack, {"kind": "echo", "at": at}, 1),
        }
        _peers(bench, stack, crews)
        yield Scene(bench.table, files, crews)


def _crew(stack: contextlib.ExitStack, spec: Spec, count: int, python: str = "") -> Crew:
    made = (Consumer(spec, module=MODULE, python=python or sys.executable) for _ in range(count))
    return [stack.enter_context(one) for one in made]


def _peers(bench: Bench, stack: contextlib.ExitStack, crews: dict[str, Crew]) -> None:
    """Start the peers that are installed."""
    python = bench.pythons.having("pyarrow.plasma")
    if python is None:
        bench.table.left_out.append("Plasma: no Python with pyarrow 11")
    else:
        socket = stack.enter_context(plasma_store(python, bench.memory, 64 * MIB))
        spec = {"kind": "plasma", "socket": socket, "count": COUNT}
        crews["Plasma"] = _crew(stack, spec, CROWDS[-1], python)
        together(crews["Plasma"][:1], what="fill")
    python = bench.pythons.having("SharedArray")
    if python is None:
        bench.table.left_out.append("SharedArray: not installed")
    else:
        prefix = f"arrayd-bench-{os.getpid()}-{secrets.token_hex(4)}-"
        spec = {"kind": "sharedarray", "prefix": prefix, "count": COUNT}
        stack.callback(_unlink, prefix)
        crews["SharedArray"] = _crew(stack, spec, CROWDS[-1], python)
        together(crews["SharedArray"][:1], what="fill")
    for name, package in (("Plasma", "pyarrow"), ("SharedArray", "SharedArray")):
        if name in crews:
            bench.table.notes.append(f"{name}: {package} {version(crews[name][0].python, package)}")


def _unlink(prefix: str) -> None:
    for path in Path("/dev/shm").glob(prefix + "*"):
        path.unlink()


def singles(made: Scene) -> None:
    """Measure one client that gets one array at a time."""
    _single(
        made,
        ("get of a block the process holds", "held", 2000),
        most(4),
        {
            "system calls": ("os.stat and a view", None),
            "Plasma": ("Plasma get_buffers", most(1, aim=True)),
        },
    )
    _single(
        made,
        ("get of a distinct resident block, no message", "distinct", 1000),
        most(20),
        {
            "system calls": ("stat, open, fstat, pread, mmap, ndarray", most(2.5)),
            "Plasma": ("Plasma get", None),
            "SharedArray": ("SharedArray.attach", None),
        },
    )
    _single(
        made,
        ("get of a distinct resident block, by asking (pin=0.1)", "asking", 400),
        None,
        {"DEALER round trip": ("bare DEALER round trip", most(1.7))},
    )


def _single(
    made: Scene,
    what: tuple[str, str, int],
    goal: Goal | None,
    others: dict[str, tuple[str, Goal | None]],
) -> None:
    """Measure one way to get.

    Parameters
    ----------
    what
        Words for the table, the name of the way, and calls of a round.
    goal
        In microseconds.
    others
        What it is held against, as the table calls it, and the goal of the ratio.
    """
    work, way, calls = what
    names = ["arrayd", *made.there(*others)]
    seen = rounds({name: made.each(name, way, calls) for name in names})
    mine = seen.pop("arrayd")
    if goal is not None:
        made.table.absolute(work, mine, "µs", goal)
    for name, other in seen.items():
        made.table.beside(work, mine, "µs", others[name][0], other, others[name][1])


def crowds(made: Scene) -> None:
    """Measure several clients that get one array at a time."""
    for clients in CROWDS:
        names = ["arrayd", *made.there("Plasma", "SharedArray")]
        seen = rounds({name: made.rate(name, "distinct", clients) for name in names}, 5)
        work = f"gets of distinct blocks, {clients} client{'s' * (clients > 1)}"
        _rates(made, work, seen, {"Plasma": 3.0, "SharedArray": 0.35})


def batches(made: Scene) -> None:
    """Measure `get_many`."""
    for clients in CROWDS[:2]:
        works = {
            "own": made.rate("arrayd", "many", clients, COUNT),
            "members": made.rate("arrayd", "members", clients, COUNT),
        }
        for name in made.there("Plasma"):
            works[name] = made.rate(name, "many", clients, COUNT)
        seen = rounds(works, 5)
        end = f"of {COUNT:,} arrays of 4 KiB, {clients} client{'s' * (clients > 1)}"
        for kind, name, bound in (("own", "in own blocks", 1.0), ("members", "members", 2.5)):
            peers = {peer: seen[peer] for peer in made.there("Plasma")}
            mine = {"arrayd": seen[kind], **peers}
            _rates(made, f"get_many {end}, {name}", mine, {"Plasma": bound})


def _rates(made: Scene, work: str, seen: dict[str, list[float]], goals: dict[str, float]) -> None:
    mine = seen["arrayd"]
    if len(seen) == 1:
        made.table.absolute(work, mine, "k/s", None)
    for name, other in seen.items():
        if name != "arrayd":
            made.table.beside(work, mine, "k/s", name, other, least(goals[name]))


def restarts(made: Scene, daemon: Daemon) -> None:
    """Measure gets while the daemon is killed, and comes back; beside gets in peace."""
    client = made.crews["arrayd"][:1]
    socket = Path(daemon.endpoint.removeprefix("ipc://"))
    errors = got = 0
    away: list[float] = []

    def hunted(*, kill: bool) -> float:
        nonlocal errors, got
        at = time.monotonic() + READY
        client[0].tell(what="hunted", at=at, until=at + 2.0)
        if kill:
            time.sleep(2 * READY)
            began = time.monotonic()
            daemon.kill()
            daemon.start()
            with arrayd.connect(daemon.endpoint, start=False) as other:
                other.status()
            away.append((time.monotonic() - began) * 1e3)
        found = client[0].answer()
        errors, got = errors + found["errors"], got + found["got"]
        return float(found["longest"]) * 1e3

    assert socket.exists()
    works = {"kill": lambda: hunted(kill=True), "peace": lambda: hunted(kill=False)}
    seen = rounds(works, 5)
    work = f"the same while the daemon is killed and restarted: errors of {got:,} gets"
    made.table.absolute(work, [errors], "", most(0))
    work = "the same: longest get beside the time that the daemon was away"
    made.table.beside(work, seen["kill"], "ms", "away", away[1:], most(0.1))
    work = "the same: longest get beside that of 2 s in peace"
    made.table.beside(work, seen["kill"], "ms", "in peace", seen["peace"])


def fresh_process(table: Markdown, daemon: Daemon, path: str) -> None:
    """Measure a new process that imports, gets once, and ends."""
    # Compiled beforehand, as what pip has installed is.
    environment = {**os.environ, "ARRAYD_ENDPOINT": daemon.endpoint, "PYTHONDONTWRITEBYTECODE": ""}

    def process(*words: str) -> tuple[float, float]:
        before, began = _children(), time.perf_counter()
        subprocess.run([sys.executable, "-c", *words], env=environment, check=True)
        return (time.perf_counter() - began) * 1e3, (_children() - before) * 1e3

    cpu: dict[str, list[float]] = {"arrayd": [], "imports": []}

    def wall(name: str, *words: str) -> float:
        found = process(*words)
        cpu[name].append(found[1])
        return found[0]

    works = {
        "arrayd": lambda: wall("arrayd", FIRST, path),
        "imports": lambda: wall("imports", IMPORTS),
    }
    with arrayd.connect(daemon.endpoint) as keeper:
        kept = keeper.get(path)
        seen = rounds(works, 9)
        del kept
    work = "new process: import, first get, exit"
    table.above(work, seen["arrayd"], "ms", IMPORTS, seen["imports"], most(8))
    own, other = cpu["arrayd"][1:], cpu["imports"][1:]
    table.beside(f"{work}; CPU", own, "ms", IMPORTS, other)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def summing(bench: Bench, daemon: Daemon) -> None:
    """Measure four processes that sum one block: how much memory, and the first pass."""
    size = bench.sizes.summed
    path = make_npy(bench.folder / "summed.npy", size // (64 << 10), 64 << 10)
    shares: list[float] = []
    with contextlib.ExitStack() as stack, arrayd.connect(daemon.endpoint) as client:
        spec: Spec = {"kind": "arrayd", "endpoint": daemon.endpoint, "files": []}
        crew = _crew(stack, spec, 4)
        kept = client.get(path)

        def passes() -> Sequence[Spec]:
            found = together(crew, what="sum", file=str(path))
            shares.append(pss_bytes([one.pid for one in crew])[1] / size)
            together(crew, what="sum", file=None)
            return found

        found = [one for _ in range(5) for one in passes()]
        del kept
    path.unlink()
    work = f"4 processes sum one block of {size >> 20} MiB"
    bench.table.absolute(f"{work}: PSS of all, in blocks", shares, "×", most(1.01))
    populates = "populate" in inspect.signature(arrayd.get).parameters
    note = "" if populates else " (get has no populate: pages are mapped as they are read)"
    first, second = ([size / MIB / one[key] for one in found] for key in ("first", "second"))
    work = f"{work}: first pass{note}"
    bench.table.beside(work, first, "MiB/s", "second pass", second, least(0.8))
