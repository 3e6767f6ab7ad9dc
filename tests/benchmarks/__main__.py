"""What arrayd costs, beside what the machine can do: ``python -m tests.benchmarks [MIB]``.

Absolute times mean nothing on a shared machine: each line gives the ratio to a yardstick
measured in the same run, the two in turn.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

import numpy as np
import zmq

import arrayd

ECHO = """
import sys, zmq
socket = zmq.Context().socket(zmq.ROUTER)
socket.bind(sys.argv[1])
print("ready", flush=True)
while True:
    socket.send_multipart(socket.recv_multipart())
"""


def median(work: Callable[[], object], times: int) -> float:
    """Return the median seconds of one call."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def in_turn(
    works: dict[str, Callable[[], object]], times: int, rounds: int = 5
) -> dict[str, float]:
    """Return the median over rounds in which the works take turns."""
    seen: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seen[name].append(median(work, times))
    return {name: statistics.median(values) for name, values in seen.items()}


def show(title: str, seconds: dict[str, float], yardstick: str) -> None:
    """Print a table of times and ratios."""
    sys.stdout.write(f"\n{title}\n")
    for name, value in seconds.items():
        ratio = value / seconds[yardstick]
        sys.stdout.write(f"  {name:44} {value * 1e6:12.1f} us   x {ratio:.2f}\n")


def attach(client: arrayd.Client, path: Path, folder: Path) -> None:
    """Attach a resident 64 MiB block: new to the session, and held already."""
    holder = client.get(path)
    block = holder.block
    assert block is not None
    other = arrayd.connect(client.endpoint)
    echo_at = f"ipc://{folder}/echo"
    echo = subprocess.Popen([sys.executable, "-c", ECHO, echo_at], stdout=subprocess.PIPE)
    assert echo.stdout is not None
    echo.stdout.readline()
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(echo_at)

    def round_trip() -> None:
        dealer.send(bytes(200))
        dealer.recv()

    def stdlib() -> None:
        shared = shared_memory.SharedMemory(block.name)
        resource_tracker.unregister(shared._name, "shared_memory")  # type: ignore[attr-defined]
        np.ndarray(block.shape, block.dtype, shared.buf)[0]
        shared.close()

    def new() -> None:
        other.get(path)[0]
        other._session.send_releases()

    works: dict[str, Callable[[], object]] = {
        "ZeroMQ round trip, 200 bytes": round_trip,
        "arrayd.get, new to the session, and release": new,
        "arrayd.get, held already": lambda: client.get(path)[0],
        "SharedMemory(name), stdlib, no daemon": stdlib,
        "np.load(mmap_mode='r')": lambda: np.load(path, mmap_mode="r")[0],
    }
    show("attach a resident block", in_turn(works, 300), "ZeroMQ round trip, 200 bytes")
    echo.kill()
    echo.communicate()
    context.destroy(linger=0)
    other.close()


def bounce(source: Path, target: Path) -> None:
    """Copy by 256 KiB: what the kernel can do for one process into fresh pages."""
    read, write = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR | os.O_CREAT)
    while data := os.read(read, 256 << 10):
        os.write(write, data)
    os.close(read)
    os.close(write)
    target.unlink()


def load(client: arrayd.Client, path: Path) -> None:
    """Load a .npy from the page cache into a new block."""
    target = Path(f"/dev/shm/bounce-{os.getpid()}")

    def get() -> None:
        client.get(path)
        client._session.send_releases()
        client.evict(path)

    works: dict[str, Callable[[], object]] = {
        "read and write by 256 KiB, one process": lambda: bounce(path, target),
        "arrayd.get, first time": get,
        "np.load (private memory)": lambda: np.load(path),
    }
    size = path.stat().st_size >> 20
    title = f"load {size} MiB of .npy from the page cache"
    show(title, in_turn(works, 1), "read and write by 256 KiB, one process")


def main() -> None:
    """Run all on a daemon of its own."""
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "small.npy", np.zeros((64 << 20) // 8))
        np.save(folder / "big.npy", np.zeros((mib << 20) // 8))
        endpoint = f"ipc://{folder}/sock"
        command = [sys.executable, "-m", "arrayd_server", "--endpoint", endpoint]
        daemon = subprocess.Popen([*command, "--log-level", "warning"])
        with arrayd.connect(endpoint) as client:
            client.prefetch(folder / "small.npy")
            attach(client, folder / "small.npy", folder)
            load(client, folder / "big.npy")
        daemon.terminate()
        daemon.wait()


if __name__ == "__main__":
    main()
