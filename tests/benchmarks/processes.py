"""Processes of a benchmark: a daemon, consumers that work on command; what they use of the machine.

A consumer is ``python -m tests.benchmarks.consumer SPEC``. It gets ready, says so, and does one
piece of work for each line it is sent; so several begin at once, and take turns with others.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]

TICKS = os.sysconf("SC_CLK_TCK")

PATIENCE = 120.0
"""Seconds for one piece of work; then the consumer is killed, and the row of the table fails."""


@dataclass
class Consumer:
    """A process that consumes batches.

    Parameters
    ----------
    spec
        What it does; see `tests.benchmarks.consumer`.
    patience
        Seconds for one piece of its work, after which it is killed.
    module, python
        What does it, and the interpreter: another one for libraries that are not installed here.
    """

    spec: dict[str, Any]
    patience: float = PATIENCE
    module: str = "tests.benchmarks.consumer"
    python: str = sys.executable

    def __post_init__(self) -> None:
        command = [self.python, "-m", self.module, json.dumps(self.spec)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.answer()  # it is ready

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def tell(self, **task: Any) -> None:
        """Give it a piece of work."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Return what it found, when it is done."""
        assert self.process.stdout is not None
        timer = threading.Timer(self.patience, self.process.kill)
        timer.start()
        try:
            for line in self.process.stdout:
                if line.startswith("{"):
                    found: dict[str, Any] = json.loads(line)
                    return found
        finally:
            timer.cancel()
        raise RuntimeError(f"{self.spec['kind']} ended with {self.process.wait()}")

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.communicate()

    def close(self) -> None:
        """Let it end."""
        if self.process.poll() is None:
            self.process.communicate()  # the end of its input

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()


@contextlib.contextmanager
def crew(specs: Sequence[dict[str, Any]]) -> Iterator[list[Consumer]]:
    """Start a consumer for each of `specs`."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Consumer(spec)) for spec in specs]


def together(consumers: Sequence[Consumer], **task: Any) -> list[dict[str, Any]]:
    """Give all the same work at once; return what each found."""
    for one in consumers:
        one.tell(**task)
    return [one.answer() for one in consumers]


class Daemon:
    """A daemon on an endpoint of its own.

    Parameters
    ----------
    folder
        For its socket.
    flags
        Of ``arrayd_server``.
    """

    def __init__(self, folder: Path, *flags: str) -> None:
        self.endpoint = f"ipc://{folder}/sock"
        self._flags = flags
        self.start()

    def start(self) -> None:
        """Start it (again)."""
        command = [sys.executable, "-m", "arrayd_server", "--endpoint", self.endpoint]
        self.process = subprocess.Popen([*command, "--log-level", "error", *self._flags])

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()

    @property
    def pids(self) -> list[int]:
        """The daemon and those below it: loaders, readers."""
        return family(self.process.pid)


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except FileNotFoundError:  # the thread has ended
            continue
        for child in children:
            found += family(int(child))
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU time of these processes so far, that of children that have ended included."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(int(number) for number in fields[11:15])
    return ticks / TICKS


def device_reads(pids: Sequence[int]) -> int:
    """Return the bytes that these processes caused to be read from devices so far."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(dict(line.split(": ") for line in lines)["read_bytes"])
    return total


def memory_of(pids: Sequence[int]) -> list[dict[str, int]]:
    """Return what the kernel says of the memory of each process that lives: KiB by kind."""
    found = []
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.append({line.split(":")[0]: int(line.split()[1]) for line in lines})
    return found


def pss_bytes(pids: Sequence[int]) -> tuple[int, int]:
    """Return the proportional set size of these processes, and what of it is shared memory."""
    every = memory_of(pids)
    total = sum(sizes["Pss"] for sizes in every) << 10
    shared = sum(sizes["Pss_Shmem"] for sizes in every) << 10
    return total, shared


def private_bytes(pids: Sequence[int]) -> int:
    """Return the proportional set size of these processes, without shared memory."""
    total, shared = pss_bytes(pids)
    return total - shared
