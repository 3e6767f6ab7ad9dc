"""What huge pages of /dev/shm gain: ``python -m tests.benchmarks.huge_pages [MIB]``, as root.

Each round is in a mount namespace of its own with a fresh tmpfs on /dev/shm, ``huge=never`` and
``huge=within_size`` in turn; the machine's own /dev/shm stays as it is. One line each: the first
load of a `.npy` file in the page cache (512 MiB if nothing is said), for which the kernel may have
to make huge pages, a second one after it was evicted, a first pass of the process through the
block, a second one, and how much of it is mapped by huge pages. Medians of five rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROUNDS = 5

MOUNT = 'mount -t tmpfs -o huge="$1",size=80% tmpfs /dev/shm && shift && exec "$@"'

READER = """
import json, re, sys, time
import arrayd, numpy as np
client = arrayd.connect(sys.argv[1])
client.get(sys.argv[2], rows=slice(2))  # the loaders are there
def timed(what):
    began = time.perf_counter()
    return what(), time.perf_counter() - began
array, first_load = timed(lambda: client.get(sys.argv[2]))
del array
client.evict(sys.argv[2])
array, load = timed(lambda: client.get(sys.argv[2]))
passes = [timed(np.asarray(array).sum)[1] for _ in range(2)]
maps = open("/proc/self/smaps").read()
huge = sum(map(int, re.findall(r"ShmemPmdMapped:\\s+(\\d+)", maps))) * 1024
print(json.dumps([first_load, load, *passes, huge / array.nbytes]))
"""
"""Prints the seconds of two loads and two passes, and the share of huge pages."""


def one_round(folder: Path, path: Path) -> list[float]:
    """Return what `READER` says; run in a namespace."""
    endpoint = f"ipc://{folder}/sock"
    command = [sys.executable, "-m", "arrayd_server", "--endpoint", endpoint, "--budget", "90%"]
    daemon = subprocess.Popen([*command, "--keep-pages", "0", "--log-level", "error"])
    try:
        while not (folder / "sock").exists():
            assert daemon.poll() is None, "the daemon did not start"
            time.sleep(0.01)
        done = subprocess.run(
            [sys.executable, "-c", READER, endpoint, str(path)], capture_output=True, check=True
        )
        found: list[float] = json.loads(done.stdout)
        return found
    finally:
        daemon.terminate()
        daemon.wait()


def within(huge: str, folder: Path, path: Path) -> list[float]:
    """Run `one_round` where /dev/shm is mounted with ``huge=…``."""
    again = [sys.executable, "-m", "tests.benchmarks.huge_pages", "round", str(folder), str(path)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", MOUNT, "sh", huge, *again], capture_output=True, check=True
    )
    found: list[float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure both in turn, and print the table."""
    if sys.argv[1:2] == ["round"]:
        sys.stdout.write(json.dumps(one_round(Path(sys.argv[2]), Path(sys.argv[3]))))
        return
    if os.geteuid() != 0:
        sys.exit("huge_pages: run it as root, for it mounts a tmpfs")
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    with tempfile.TemporaryDirectory(prefix="ad") as name:
        path = Path(name) / "big.npy"
        np.save(path, np.random.default_rng(1).random(size << 17))
        seen: dict[str, list[list[float]]] = {"never": [], "within_size": []}
        for _ in range(ROUNDS):
            for huge, rounds in seen.items():
                rounds.append(within(huge, Path(name), path))
    out = sys.stdout.write
    out("huge=        first load, again MiB/s  first pass, second GiB/s  of second  huge\n")
    for huge, rounds in seen.items():
        medians = [statistics.median(values) for values in zip(*rounds, strict=True)]
        first_load, load, first, second, share = medians
        out(f"{huge:<12} {size / first_load:10.0f} {size / load:12.0f}  ")
        out(f"{size / 1024 / first:10.2f} {size / 1024 / second:14.2f}  ")
        out(f"{second / first:9.2f}  {share:4.0%}\n")


if __name__ == "__main__":
    main()
