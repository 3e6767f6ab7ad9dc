"""What each flood costs the daemon and an honest client.

``python -m tests.faults.latency [KIND…]`` prints a table; CI looks at short floods
(`test_hostile_peers.py`), with bounds that a busy machine keeps.
Absolute times mean nothing on a shared machine: each line gives ratios to the same client's
times just before, and the first line is a flood that only burns CPU, which is what the
scheduler costs.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.floods import KINDS
from tests.faults.honest import IDLE
from tests.faults.hostile_peers import FLAGS, ROOT, bystander, latencies, private_kib
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import Puppet, Stage, wait_until

Latencies = dict[str, list[float]]

UNCHECKED = (*FLAGS, "--no-check")
"""The options of a daemon whose times count: its rules are not verified at every event."""


@dataclass
class Row:
    """What a flood came to.

    Parameters
    ----------
    idle, busy
        Median and 95th percentile of get and status, in microseconds, before and meanwhile.
    before, peak, after
        The daemon's anonymous memory in MiB.
    """

    kind: str
    idle: Latencies = field(default_factory=dict)
    busy: Latencies = field(default_factory=dict)
    before: float = 0
    peak: float = 0
    after: float = math.inf
    wrong: list[str] = field(default_factory=list)

    def ratio(self, work: str, which: int = 0) -> float:
        """Return how much slower a call is; `which` 0: the median, 1: the 95th percentile."""
        return self.busy[work][which] / self.idle[work][which] if work in self.busy else math.inf

    def __str__(self) -> str:
        ratios = "  ".join(
            f"{work} x{self.ratio(work):6.1f} (p95 x{self.ratio(work, 1):6.1f})"
            for work in ("get", "status")
        )
        memory = f"{self.before:4.0f} > {self.peak:5.0f} > {self.after:4.0f} MiB"
        return f"{self.kind:18} {ratios}  {memory}  {'; '.join(self.wrong)[-300:]}"


@contextlib.contextmanager
def flood(kind: str, daemon: Daemon, processes: int = 1) -> Iterator[None]:
    """Flood a daemon for a while; when it begins, all connections stand."""
    file = f"{daemon.directory}/files/{IDLE}"
    command = [sys.executable, "-m", "tests.faults.floods", kind, daemon.endpoint, file]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        for _ in range(processes)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"on\n", f"the flood {kind!r} does not begin"
        yield
    finally:
        for process in started:
            process.kill()
            process.communicate()


def suffer(kind: str, daemon: Daemon, honest: Puppet, seconds: float, processes: int = 1) -> Row:
    """Measure what a flood does to the daemon and to its honest client, and see it go."""
    row = Row(kind, latencies(honest, seconds / 2), before=private_kib(daemon.pid) / 1024)
    with flood(kind, daemon, processes):
        honest.send(f"h.latency({seconds})")
        end = time.monotonic() + seconds
        while time.monotonic() < end and daemon.process and daemon.process.poll() is None:
            row.peak = max(row.peak, private_kib(daemon.pid) / 1024)
            time.sleep(0.01)
        try:
            row.busy = honest.reply()
        except Exception as error:  # a table has a line for this, too
            row.wrong.append(f"an honest call failed: {error!r}")
            return row
    wait_until(lambda: not honest("h.strangers()"), f"nothing is left of {kind!r}")
    end = time.monotonic() + PATIENCE
    while row.after > row.before + 30 and time.monotonic() < end:
        row.after = private_kib(daemon.pid) / 1024
        time.sleep(0.05)
    row.wrong += honest("h.look() + (h.renew() or h.serve())")
    return row


def main() -> None:
    """Print the table."""
    for kind in sys.argv[1:] or ["burnt CPU", *(k for k in KINDS if k != "burnt CPU")]:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
            (folder / "files").mkdir()
            daemon = Daemon(folder, UNCHECKED)
            stack.callback(daemon.discard)
            daemon.start()
            stage = Stage(f"{folder}/stage")
            stack.callback(stage.close)
            honest = bystander(stage, daemon, folder / "files")
            try:
                sys.stdout.write(f"{suffer(kind, daemon, honest, 3.0)}\n")
            except BaseException as error:  # pytest's failures are no Exceptions
                sys.stdout.write(f"{kind:18} {str(error)[-200:]}\n{daemon.log[-300:]}\n")
                if isinstance(error, KeyboardInterrupt):
                    raise
            sys.stdout.flush()


if __name__ == "__main__":
    os.environ.pop("ARRAYD_ENDPOINT", None)
    main()
