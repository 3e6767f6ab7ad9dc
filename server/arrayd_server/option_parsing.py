"""How the text of an option becomes its value: one parser for each kind of option.

A parser takes what stands behind a flag, in a variable or in the file. It raises a
ValueError that says what may be written; `config` adds where the text came from.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from arrayd.common import endpoints
from arrayd.common.bytesize import format_bytes, parse_bytes
from arrayd_server.core import bounds
from arrayd_server.core.bounds import Bound
from arrayd_server.kernel import memory_limits

LEAST_LOADER_MEMORY = 128 << 20
"""Bytes with which a loader can do anything at all: Python, numpy and h5py take 60 MiB."""


def endpoint(text: str) -> str:
    """Return the address of a Unix socket, in the one form that it is compared by."""
    url = f"ipc://{endpoints.private_socket()}" if text == endpoints.PRIVATE else text
    if url.startswith("/"):  # as a client may say it, too
        url = f"ipc://{url}"
    scheme, _, path = url.partition("://")
    if path and scheme != "ipc":
        raise ValueError(
            "arrayd listens on no network; write ipc:///absolute/path, /absolute/path or private"
        )
    if not path.startswith("/") or not path.strip("/"):
        raise ValueError("write ipc:///absolute/path, /absolute/path or private")
    address, most = endpoints.normalize(path), endpoints.SOCKET_PATH_BYTES
    if endpoints.path_bytes(address) > most:
        raise ValueError(f"the path is longer than the {most} bytes of a Unix socket")
    return address


class Budget(int):
    """Bytes to keep in shared memory, and what sets this limit."""

    bound: Bound = bounds.GIVEN


def budget(text: str) -> Budget:
    """Return bytes; a percentage is of the smallest of RAM, /dev/shm and memory cgroup."""
    if not text.endswith("%"):
        return Budget(_positive(_bytes(text)))
    try:
        percent = float(text[:-1])
    except ValueError:
        percent = math.nan
    if not 0 < percent <= 100:
        raise ValueError("write a percentage above 0% and up to 100%")
    capacity = memory_limits.capacity()
    share = Budget(_positive(int(capacity.smallest * percent / 100)))
    share.bound = bounds.share(capacity.tightest, text, format_bytes(capacity.smallest))
    return share


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise ValueError(f"{error}, or a percentage") from None


def _positive(count: int) -> int:
    if count < 1:
        raise ValueError("write a number above 0")
    return count


def count(auto: Callable[[], int]) -> Callable[[str], int]:
    """Return the parser of a whole number above 0, or ``auto`` for what `auto` finds."""

    def parse(text: str) -> int:
        if text == "auto":
            return auto()
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            raise ValueError("write a whole number above 0, or auto")
        return int(text)

    return parse


def auto_workers() -> int:
    """Return how many loaders use this machine well."""
    # Fresh pages soon limit a load, not CPUs; the other CPUs are for those who asked.
    return min(len(os.sched_getaffinity(0)), 8)


def auto_clients() -> int:
    """Return how many sessions the limit of open files allows."""
    # The hard limit, for the daemon raises its own to it. A client costs its connection
    # and a pidfd; twice that, since one that reconnects is here twice for a moment.
    # 256 are the daemon's: segments, workers, log. Without a descriptor it can neither
    # make nor ask of a segment, so this errs on the small side.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 4096 if hard == resource.RLIM_INFINITY else max(8, min((hard - 256) // 4, 4096))


def memory(text: str) -> int:
    """Return the bytes that a loader may use besides the block."""
    if text == "auto":
        return _auto_memory()
    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None
    if size < LEAST_LOADER_MEMORY:
        raise ValueError("write 128M or more: a loader that reads nothing has 60M")
    return size


def _auto_memory() -> int:
    # What must fit is one HDF5 chunk, twice, or one line of text, five times: libraries advise
    # chunks up to 1 MiB, and 2 GiB leave room for those that nobody advised. An eighth of a
    # small machine, for several loaders may meet a bomb at a time; the kernel, should that be
    # too much still, kills a loader first (worker.py).
    capacity = memory_limits.capacity()
    available = min(capacity.ram, capacity.cgroup or capacity.ram)
    return max(2 * LEAST_LOADER_MEMORY, min(available // 8, 2 << 30))


def seconds(minimum: float, form: str) -> Callable[[str], float]:
    """Return the parser of a finite number of seconds from `minimum` on, told as `form`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (minimum <= value < math.inf):
            raise ValueError(f"write seconds, {form}")
        return value

    return parse


def switch(text: str) -> bool:
    """Return what a yes or no says."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return words[text.lower()]
    except KeyError:
        raise ValueError("write true or false") from None


def level(text: str) -> str:
    """Return the name of a log level, as `logging` has it."""
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError("write debug, info, warning or error")
    return text.upper()


def file(text: str) -> Path | None:
    """Return an absolute path, or None for ``-``."""
    # Absolute, for the daemon works in /.
    return None if text == "-" else Path(text).expanduser().absolute()


def loopback(text: str) -> tuple[str, int] | None:
    """Return an address of this machine alone, and a port; None for ``-``."""
    if text == "-":
        return None
    host, _, port = text.rpartition(":")
    name = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        ours = ip_address(name).is_loopback and 0 <= int(port) < 1 << 16
    except ValueError:
        ours = False
    if not ours:
        raise ValueError(
            "write 127.0.0.1:PORT: metrics are for this machine alone, for whoever asks is not "
            "asked who he is; a proxy that does may pass them on"
        )
    return name, int(port)
