"""The program of the processes that ``arrayd demo`` starts: a user's script, in small.

``python -m arrayd.cli.demo_reader ENDPOINT DTYPE FILE…`` answers each line of its input with
a line of JSON: ``connect``; ``get`` the arrays, how long that took and what is in them;
``measure`` the memory they take. It holds them until the input ends. ``DTYPE`` may be empty.
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

import arrayd
from arrayd.cli.common import parse_dtype
from arrayd.errors import ArraydError, to_wire
from arrayd.source import Source
from arrayd.wire.layout import SHM


def main(endpoint: str, dtype: str, *files: str) -> int:
    """Answer each line of the input, until it ends."""
    sources = [Source.of(path, dtype=parse_dtype(dtype) if dtype else None) for path in files]
    arrays: list[arrayd.SharedArray] = []
    with arrayd.connect(endpoint) as client:
        for line in sys.stdin:
            if line == "connect\n":
                _send(version=client.status().version)
            elif line == "get\n":
                begin = time.perf_counter()
                try:
                    arrays = client.get_many(sources)
                except ArraydError as error:
                    _send(error=to_wire(error))
                    return 1
                seconds = time.perf_counter() - begin
                _send(seconds=seconds, checksums=[checksum(array) for array in arrays])
            else:
                _send(**memory(array.block.name for array in arrays if array.block))
    return 0


def checksum(array: np.ndarray[Any, Any]) -> int:
    """Return the CRC-32 of an array's values, in C order; it reads every page."""
    flat = np.ravel(np.asarray(array))
    return zlib.crc32(flat.view(np.uint8).data) if flat.size else 0


def memory(segments: Iterable[str]) -> dict[str, int]:
    """Return the memory of this process's mappings of segments, in bytes.

    ``mapped`` is all that it maps (Rss); ``share`` is its share of that (Pss: each page
    divided by the number of processes that map it). From
    ``/proc/self/smaps``, proc(5).
    """
    wanted = {f"{SHM}/{segment}" for segment in segments}
    taken = {"Rss": 0, "Pss": 0}
    for path, key, kib in _smaps():
        if path in wanted and key in taken:
            taken[key] += kib * 1024
    return {"mapped": taken["Rss"], "share": taken["Pss"]}


def _smaps() -> Iterator[tuple[str, str, int]]:
    """Yield the file behind each mapping with each of its counts, in KiB."""
    path = ""
    with open("/proc/self/smaps") as lines:
        for line in lines:
            words = line.split(maxsplit=5)
            if not words[0].endswith(":"):  # 7f17…-7f17… r--s 00000000 00:1b 276  /dev/shm/…
                path = words[5].strip() if len(words) > 5 else ""
            elif words[-1] == "kB":
                yield path, words[0][:-1], int(words[1])


def _send(**words: Any) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
