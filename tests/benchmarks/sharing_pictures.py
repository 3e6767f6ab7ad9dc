"""Pictures of ``tests.benchmarks.sharing``: medians of five rounds in which all take turns."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import arrayd
from tests.benchmarks import load_files, sharing_attach, sharing_load
from tests.benchmarks.files import MIB, make_npy
from tests.benchmarks.markdown import rounds
from tests.benchmarks.processes import Consumer, Daemon, pss_bytes, together
from tests.benchmarks.svg import Points, chart
from tests.benchmarks.table import say

if TYPE_CHECKING:
    from tests.benchmarks.sharing import Bench

CLIENTS = (1, 2, 4, 8, 16)
CONSUMERS = (1, 2, 4, 8)
SHARED = 128 * MIB
"""Bytes of the array that consumers have."""

SMALLEST = MIB
"""Bytes of the smallest file that is loaded; each next one has four times as many."""


def draw(bench: Bench, folder: Path) -> None:
    """Measure, and write the pictures to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Callable[[Bench], str]] = {
        "gets.svg": gets,
        "memory.svg": memory,
        "loads.svg": loads,
    }
    for name, picture in pictures.items():
        (folder / name).write_text(picture(bench), encoding="utf-8")
        say(f"* {folder / name}")


def gets(bench: Bench) -> str:
    """Draw gets per second against clients."""
    place = bench.folder / "attach"
    place.mkdir()
    daemon = Daemon(place)
    lines: dict[str, list[tuple[float, float]]] = {}
    try:
        with sharing_attach.scene(bench, daemon) as made:
            names = ["arrayd", *made.there("Plasma", "SharedArray")]
            for clients in CLIENTS:
                works = {name: made.rate(name, "distinct", clients) for name in names}
                works["arrayd, by asking"] = made.rate("arrayd", "asking", clients)
                for name, seen in rounds(works, 5).items():
                    lines.setdefault(name, []).append((clients, statistics.median(seen) * 1e3))
    finally:
        daemon.stop()
    return chart("Gets of resident arrays (4 KiB each)", "clients", "gets per second", dict(lines))


def memory(bench: Bench) -> str:
    """Draw memory against consumers, those who have arrayd's block and those who load."""
    place = bench.folder / "memory"
    place.mkdir()
    path = make_npy(bench.folder / "shared.npy", SHARED // (64 << 10), 64 << 10)
    daemon = Daemon(place, "--budget", f"{2 * SHARED}")
    shared: dict[str, Any] = {"kind": "arrayd", "endpoint": daemon.endpoint, "files": []}
    specs = {"arrayd": shared, "np.load in each": {"kind": "copies"}}
    lines: dict[str, Points] = {}
    try:
        for name, spec in specs.items():
            points = []
            for count in CONSUMERS:
                with contextlib.ExitStack() as stack:
                    made = (Consumer(spec, module=sharing_attach.MODULE) for _ in range(count))
                    crew = [stack.enter_context(one) for one in made]
                    together(crew, what="sum", file=str(path))
                    points.append((float(count), pss_bytes([one.pid for one in crew])[0] / MIB))
            lines[name] = points
    finally:
        daemon.stop()
        path.unlink()
    title = f"Memory of all consumers of an array of {SHARED // MIB} MiB, interpreters included"
    return chart(title, "consumers", "MiB (PSS)", lines)


def loads(bench: Bench) -> str:
    """Draw the time to an array against its size."""
    sizes = [SMALLEST]
    while sizes[-1] * 4 <= bench.sizes.array:
        sizes.append(sizes[-1] * 4)
    lines: dict[str, list[tuple[float, float]]] = {}
    budget = 2 * bench.sizes.array + 256 * MIB
    with sharing_load.loads(bench, "sizes", budget, "--keep-pages", "0") as made:
        for size in sizes:
            path = str(load_files.doubles(bench.folder / "sized.npy", size))
            works = {
                "arrayd, first get": made.get([path]),
                "copyfile to /dev/shm": made.bare("copyfile", [path]),
                "np.load": made.bare("np_load", [path]),
            }
            found = rounds(works, 5) | {"arrayd, resident": _resident(made.daemon, path)}
            for name, seen in found.items():
                lines.setdefault(name, []).append((size / MIB, statistics.median(seen) * 1e3))
            Path(path).unlink()
    return chart("Time to an array (file in the page cache)", "MiB", "milliseconds", dict(lines))


def _resident(daemon: Daemon, path: str) -> list[float]:
    """Return the seconds of first gets of clients, while another one has the array."""
    seconds = []
    with arrayd.connect(daemon.endpoint) as keeper:
        kept = keeper.get(path)
        for _ in range(6):
            with arrayd.connect(daemon.endpoint) as client:
                client.status()  # it is connected
                began = time.perf_counter()
                float(client.get(path)[0])
                seconds.append(time.perf_counter() - began)
        del kept
        keeper._session.send_releases()
        keeper.evict(path)
    return seconds[1:]
