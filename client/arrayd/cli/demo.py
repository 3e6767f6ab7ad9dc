"""``arrayd demo``: shows what arrayd does, with numbers measured as it runs.

It uses a daemon of its own, which it stops. This process maps no block itself, so that the
blocks are freed whatever happens here; it starts others that do.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from arrayd.cli.common import Subparsers, complain, parse_dtype
from arrayd.cli.demo_reader import checksum
from arrayd.cli.demo_stage import (
    SAMPLE_DTYPE,
    DemoDaemon,
    DemoReader,
    directory,
    run_arrayd,
    wait_until,
    write_samples,
)
from arrayd.client import Client
from arrayd.common.bytesize import format_bytes
from arrayd.errors import InUse
from arrayd.gather.names import dataset_names
from arrayd.source import Source
from arrayd.wire.dtypes import descr
from arrayd.wire.layout import SHM

HELP = "show what arrayd does, in a few seconds, on a daemon of its own"

_READERS = 4


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser("demo", help=HELP, description=f"{HELP.capitalize()}.")
    parser.add_argument("files", nargs="*", metavar="FILE", help="default: samples it makes")
    parser.add_argument("--dtype", type=parse_dtype, help="the type in the files")


def run(args: argparse.Namespace) -> int:
    """Show all steps; return 0 if all that they claim was seen, else 1."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(directory())
        story = Story(folder, args.files, args.dtype)
        story.opening()
        daemon = stack.enter_context(DemoDaemon(folder))
        client = stack.enter_context(Client(daemon.endpoint, start=False))
        story.look(client)
        with readers(_READERS, client.endpoint, story) as crowd:
            story.load(client, crowd)
            story.memory(client, crowd)
            story.kill(client, crowd)
        story.again(client)
        story.collect(client)
        story.end(client, daemon)
    return story.verdict()


@contextlib.contextmanager
def readers(count: int, endpoint: str, story: Story) -> Iterator[list[DemoReader]]:
    """Give `count` processes that can get the story's files."""
    with contextlib.ExitStack() as stack:
        each = (DemoReader(endpoint, story.files, story.dtype) for _ in range(count))
        crowd = [stack.enter_context(reader) for reader in each]
        ask(crowd, "connect")
        yield crowd


def ask(crowd: Sequence[DemoReader], word: str) -> list[dict[str, Any]]:
    """Send all readers a command, and return their answers: they work at the same time."""
    for reader in crowd:
        reader.send(word)
    return [reader.receive() for reader in crowd]


@dataclass
class Story:
    """The steps, and what they measured; what does not hold is reported at the end."""

    folder: str
    files: Sequence[str]
    dtype: np.dtype[Any] | None
    step: int = 0
    broken: list[str] = field(default_factory=list)
    cold: float = 0.0  # seconds of the slowest first get
    checksums: list[int] = field(default_factory=list)

    def opening(self) -> None:
        """Make sample files, or take those given; show what one process pays without arrayd."""
        print("arrayd demo: one copy of your arrays per machine\n", flush=True)
        if self.files:
            self.show(f"Your {_plural(len(self.files), 'file')}.")
            return
        self.files, self.dtype = write_samples(self.folder, 4), SAMPLE_DTYPE
        begin = time.perf_counter()
        self.checksums = [checksum(np.loadtxt(self.files[0], self.dtype))]
        seconds = time.perf_counter() - begin
        size = format_bytes(os.path.getsize(self.files[0]))
        self.show(
            f"{len(self.files)} sample files are made, {size} of text each.",
            f"np.loadtxt reads the first in {_time(seconds)}. Each process pays that, each run.",
        )

    def look(self, client: Client) -> None:
        """Have the daemon inspect the files: an error is raised before anything is shown."""
        for path in self.files:
            client.info(Source.of(path, dtype=self.dtype))

    def load(self, client: Client, crowd: list[DemoReader]) -> None:
        """Have all readers ask for all files; each is loaded once."""
        answers = ask(crowd, "get")
        self.cold = max(one["seconds"] for one in answers)
        expected, self.checksums = self.checksums, answers[0]["checksums"]
        loads = client.status().counters["loads"]
        asked, files = len(crowd) * len(self.files), len(set(self.files))
        self.show(
            f"{len(crowd)} processes ask a daemon for "
            f"{_plural(len(self.files), 'file')} each, at the same time:",
            f"{asked} requests, {_plural(loads, 'load')}, done in {_time(self.cold)} with the "
            "start of the loaders.",
        )
        self.check(loads == files, f"{files} files took {loads} loads")
        same = all(one["checksums"] == self.checksums for one in answers)
        self.check(same, "the readers see different values")
        self.check(
            self.checksums[: len(expected)] == expected, "the values are not those of np.loadtxt"
        )

    def memory(self, client: Client, crowd: list[DemoReader]) -> None:
        """Add up what the readers map, and the memory that this takes."""
        measured = ask(crowd, "measure")
        mapped, share = (sum(one[key] for one in measured) for key in ("mapped", "share"))
        blocks = client.status().blocks
        size, taken = (sum(getattr(b, key) for b in blocks) for key in ("nbytes", "size"))
        self.show(
            f"Together the {len(crowd)} see {format_bytes(mapped)} of arrays. In memory "
            f"they are once:",
            f"{format_bytes(share)}, by the kernel's count (Pss in /proc/PID/smaps).",
        )
        # A block has some pages besides its array, and Pss is rounded to KiB.
        slack = 0.02 * size + 8192 * len(self.files)
        once = size - slack <= share <= taken + slack
        self.check(once, f"{size} bytes of arrays take {share} of memory")
        self.check(mapped >= len(crowd) * size, f"the readers map {mapped} bytes only")

    def kill(self, client: Client, crowd: list[DemoReader]) -> None:
        """Kill one reader: its holds end; the others keep theirs, until they end too."""
        before = _holders(client)
        victim = crowd.pop()
        victim.process.kill()
        seconds = wait_until(lambda: _holders(client) < before)
        after = _holders(client)
        victim.process.wait()
        self.show(
            f"kill -9 of one reader: {_time(seconds)} later the first block has "
            f"{after} holders, not {before}."
        )
        self.check((before, after) == (_READERS, _READERS - 1), f"holders: {before}, then {after}")
        self.refused(client)
        for reader in crowd:
            reader.finish()

    def refused(self, client: Client) -> None:
        """Try to evict a block that is in use."""
        try:
            client.evict(self.files[0])
        except InUse:
            self.show(f"Evict it now? Refused: {_holders(client)} processes use it.", new=False)
        else:
            self.check(False, "a block in use was evicted")

    def again(self, client: Client) -> None:
        """Run the script a second time, as a new process."""
        wait_until(lambda: all(block.state == "idle" for block in client.status().blocks))
        states = {block.state for block in client.status().blocks}
        self.check(states == {"idle"}, f"after the last reader the blocks are {states}")
        loads = client.status().counters["loads"]
        with readers(1, client.endpoint, self) as (reader,):
            (answer,) = ask([reader], "get")
            reader.finish()
        self.show(
            "All readers have ended. The blocks are idle: still warm, freed for room.",
            f"The same script again, a new process: its arrays are there in "
            f"{_time(answer['seconds'])}.",
        )
        self.check(answer["checksums"] == self.checksums, "the second run sees other values")
        self.check(client.status().counters["loads"] == loads, "the second run loaded again")
        self.check(answer["seconds"] < self.cold, "the second run was no faster than the first")

    def collect(self, client: Client) -> None:
        """Write all into one HDF5 file, and read it back."""
        import h5py

        out = os.path.join(self.folder, "out.h5")
        typed = [] if self.dtype is None else ["--dtype", str(descr(self.dtype))]
        begin = time.perf_counter()
        run_arrayd("collect", *self.files, *typed, "-o", out, "--endpoint", client.endpoint)
        seconds = time.perf_counter() - begin
        sources = list(dict.fromkeys(Source.of(path) for path in self.files))
        with h5py.File(out) as file:
            found = {str(s): checksum(file[n][()]) for s, n in _named(sources)}
        wanted = {str(Source.of(p)): c for p, c in zip(self.files, self.checksums, strict=True)}
        equal = found == wanted
        self.show(
            f"arrayd collect … -o out.h5: {_plural(len(found), 'dataset')}, "
            f"{format_bytes(os.path.getsize(out))}, {_time(seconds)}.",
            f"Read back: {'equal, value for value' if equal else 'NOT EQUAL'}.",
        )
        self.check(equal, "out.h5 holds other values than the arrays")

    def end(self, client: Client, daemon: DemoDaemon) -> None:
        """Free one block by hand, the others by a stop."""
        family = f"arrayd-{client.status().scope}-"
        wait_until(lambda: all(block.state == "idle" for block in client.status().blocks))
        before = _names(family)
        freed = client.evict(self.files[0])
        between = _names(family)
        client.close()
        daemon.stop()
        after = _names(family)
        self.show(
            f"Nobody uses the first block now: evict frees {format_bytes(freed['bytes'])}.",
            f"The daemon stops. Its blocks in /dev/shm: {before}, {between}, and now {after}.",
        )
        self.check(between == before - freed["blocks"], "an evicted block is still in /dev/shm")
        self.check(after == 0, f"{after} blocks are left in /dev/shm")

    def show(self, *lines: str, new: bool = True) -> None:
        """Print the lines of a step, or more of the last one."""
        self.step += new
        for number, line in enumerate(lines):
            print(f"{self.step if new and number == 0 else '':>2}  {line}", flush=True)

    def check(self, holds: bool, otherwise: str) -> None:
        """Record a claim that does not hold."""
        if not holds:
            self.broken.append(otherwise)

    def verdict(self) -> int:
        """Print how it ended; return the exit code."""
        if self.broken:
            complain("the demo saw what it should not: " + "; ".join(self.broken))
            return 1
        print('\nAll checked as it ran. Your turn:  import arrayd; a = arrayd.get("FILE")')
        return 0


def _named(sources: list[Source]) -> Iterator[tuple[Source, str]]:
    yield from zip(sources, dataset_names(sources), strict=True)


def _holders(client: Client) -> int:
    return len(min(client.status().blocks, key=lambda block: block.number).holders)


def _names(family: str) -> int:
    return sum(name.startswith(family) for name in os.listdir(SHM))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
