"""What grows with use, and what does not: ``python -m tests.benchmarks.growth [BLOCKS]``.

Daemons with few and with many blocks and sessions run beside each other, and the same requests go
to them in turn. The blocks (4 KiB each, 20,000 if nothing is said) are made as an earlier run of
the daemon would have left them, so the start shows how fast they are adopted. Goals: the median
time of a request within 1.5 times that of the smallest daemon; at most 2 KiB of the daemon's own
memory for an idle block and 16 KiB for a session; 100,000 segments adopted in 8 seconds; less than
one wake-up per second of a daemon that has nothing to do.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import arrayd
from arrayd.source import Source
from arrayd.wire.grant import Spec
from arrayd_server import identity
from arrayd_server.segments.block_metadata import Metadata, planned
from arrayd_server.segments.scope import Scope
from arrayd_server.segments.store import Segments

FILES = 20
"""Files that are asked for, whatever else there is."""

ROUNDS, IDLE = 15, 10.0

CROWD = """
import os, secrets, sys, zmq
from arrayd.common import proc
from arrayd.wire import protocol
context = zmq.Context()
context.set(zmq.MAX_SOCKETS, 4096)
pid, sockets = os.getpid(), []
for _ in range(int(sys.argv[2])):
    socket = context.socket(zmq.DEALER)
    socket.connect(sys.argv[1])
    hello = {"pid": pid, "start": proc.start_time(pid), "program": "crowd", "holds": [],
             "version": protocol.PACKAGE_VERSION, "shm": proc.shared_memory(), "latest": 0}
    socket.send(protocol.request(secrets.token_bytes(16), 1, "hello", **hello))
    assert "ok" in protocol.decode(socket.recv(), answer=True)
    sockets.append(socket)
print("there", flush=True)
sys.stdin.read()
os._exit(0)
"""
"""Opens so many sessions, and keeps them."""


@dataclass
class Grown:
    """A daemon that has `blocks` blocks and `sessions` sessions besides what is asked for."""

    blocks: int
    sessions: int
    process: subprocess.Popen[bytes]
    client: arrayd.Client
    started: float
    spent: float = 0.0  # seconds of a processor until it listened
    kept: int = 0  # its own memory then

    @property
    def own(self) -> int:
        """Bytes of memory that are this process's alone, and in use."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="ascii")
        return 1024 * sum(int(n) for n in re.findall(r"Private_\w+:\s+(\d+)", text))

    @property
    def woken(self) -> int:
        """How often it has gone to sleep of its own accord."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(re.findall(r"\nvoluntary_ctxt_switches:\s*(\d+)", text)[0])

    @property
    def busy(self) -> float:
        """Seconds of a processor that it has used."""
        text = Path(f"/proc/{self.process.pid}/schedstat").read_text(encoding="ascii")
        return int(text.split()[0]) / 1e9


def leave(endpoint: str, folder: Path, count: int) -> None:
    """Make sealed segments, as a daemon that was killed leaves them."""
    with Scope(endpoint) as scope:
        segments = Segments(scope)
        for number in range(1, count + 1):
            origin = identity.of_source(
                Source(path=f"{folder}/gone/{number}.npy"), (1, number, 3, 4, 5)
            )
            spec = Spec((512,), "<f8", "C", 8)
            alias = identity.alias(Source(path=f"{folder}/gone/{number}.npy"), (1, number, 3, 4, 5))
            meta = Metadata(spec, origin, (alias,), linked=None).to_wire()
            name, plan = f"{scope.prefix}-{number}", planned(spec, origin)
            segments.make(name, plan, meta)
            segments.reserve(name, plan.data_bytes)
            segments.describe(name, plan, meta)


@contextmanager
def grown(folder: Path, blocks: int, sessions: int) -> Iterator[Grown]:
    """Run a daemon with so many blocks and sessions."""
    place = folder / f"{blocks}-{sessions}"
    place.mkdir()
    endpoint = f"ipc://{place}/sock"
    leave(endpoint, folder, blocks)
    command = [sys.executable, "-m", "arrayd_server", "--endpoint", endpoint]
    options = ["--log-level", "error", "--max-clients", "2000", "--budget", "4G"]
    began = time.perf_counter()
    daemon = subprocess.Popen([*command, *options])
    crowd: list[subprocess.Popen[bytes]] = []
    try:
        with arrayd.connect(endpoint) as client:
            client.health()  # answered when all is adopted
            started = time.perf_counter() - began
            one = Grown(blocks, sessions, daemon, client, started)
            one.spent, one.kept = one.busy, one.own
            assert client.health()["blocks"] == blocks  # a status shows some thousand
            part = [sys.executable, "-c", CROWD, endpoint]
            for rest in range(sessions, 0, -100):
                most = [*part, str(min(rest, 100))]
                crowd += [subprocess.Popen(most, stdin=subprocess.PIPE, stdout=subprocess.PIPE)]
            for other in crowd:
                assert other.stdout is not None
                assert other.stdout.readline() == b"there\n"
            yield one
    finally:
        for other in crowd:
            other.communicate()
        daemon.terminate()
        daemon.wait()


def ask(one: Grown, files: list[Path]) -> float:
    """Return the median microseconds of a get that asks the daemon, for a pin is asked for."""
    seconds = []
    for path in files * 3:
        began = time.perf_counter()
        one.client.get(path, pin=1)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) * 1e6


def main() -> None:
    """Grow, measure, and print the table."""
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    sizes = [(10, 0), (1000, 0), (many, 0), (10, 100), (10, 500)]
    with tempfile.TemporaryDirectory(prefix="ad") as name, ExitStack() as stack:
        folder = Path(name)
        files = [folder / f"{number}.npy" for number in range(FILES)]
        for path in files:
            np.save(path, np.arange(512.0))
        daemons = [stack.enter_context(grown(folder, *size)) for size in sizes]
        full_up = [one.own for one in daemons]
        kept = [one.client.get_many(files) for one in daemons]
        seen: list[list[float]] = [[] for _ in daemons]
        for _ in range(ROUNDS):
            for times, one in zip(seen, daemons, strict=True):
                times.append(ask(one, files))
        woken, busy = [one.woken for one in daemons], [one.busy for one in daemons]
        time.sleep(IDLE)
        first = statistics.median(seen[0])
        out = sys.stdout.write
        out("blocks  sessions  request us  ratio  start s  own MiB  wake-ups/s  CPU idle %\n")
        for i, one in enumerate(daemons):
            median = statistics.median(seen[i])
            wakes, used = (one.woken - woken[i]) / IDLE, (one.busy - busy[i]) / IDLE * 100
            out(f"{one.blocks:6}  {one.sessions:8}  {median:10.0f}  {median / first:5.2f}  ")
            out(f"{one.started:7.2f}  {full_up[i] / 2**20:7.1f}  {wakes:10.2f}  {used:10.2f}\n")
        few, full, crowd = daemons[0], daemons[2], daemons[4]
        each = (full.kept - few.kept) / (full.blocks - few.blocks)
        out(f"\na block: {each:.0f} bytes of the daemon's own memory (goal: 2,048)\n")
        each = (full_up[4] - full_up[0]) / crowd.sessions
        out(f"a session: {each:.0f} bytes (goal: 16,384)\n")
        more = full.blocks - few.blocks
        rate = more / max(1e-9, full.started - few.started)
        each = (full.spent - few.spent) / more * 1e6
        out(f"adopted: {rate:.0f} segments a second (goal: 12,500), {each:.0f} us of CPU each\n")
        kept.clear()


if __name__ == "__main__":
    main()
