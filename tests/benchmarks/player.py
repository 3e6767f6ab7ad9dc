"""The loop of a process that works on command, under any Python: it imports nothing of arrayd.

``python -m MODULE SPEC``: SPEC is JSON, and its ``kind`` names the work. It prints ``{}`` when it
is ready, and for each line of JSON that it reads what it found.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Found = dict[str, Any]
Work = Callable[[Found], Found]
"""What does a piece of work: of a task, what was found."""

GROUP = 10
"""Calls that are timed as one, for a clock costs as much as the shortest of them."""


def play(kinds: Mapping[str, Callable[[Found], Work]]) -> None:
    """Work until the input ends.

    Parameters
    ----------
    kinds
        Each makes the work of a spec.
    """
    spec = json.loads(sys.argv[1])
    work = kinds[spec["kind"]](spec)
    _say({})
    for line in sys.stdin:
        _say(work(json.loads(line)))


def timed(call: Callable[[], object], task: Found) -> Found:
    """Call again and again.

    Parameters
    ----------
    task
        ``calls``: so often; ``seconds`` is then the median of one. Or ``at`` and ``until`` (as
        `time.monotonic` has it, which is the same for all processes): as often as possible in that
        time; ``got`` is how often in how many ``seconds``, and ``longest`` those of the longest.
    """
    if "calls" in task:
        seconds = []
        for _ in range(max(1, task["calls"] // GROUP)):
            began = time.perf_counter()
            for _ in range(min(GROUP, task["calls"])):
                call()
            seconds.append(time.perf_counter() - began)
        return {"seconds": statistics.median(seconds) / min(GROUP, task["calls"])}
    got, longest, until = 0, 0.0, task["until"]
    time.sleep(max(0.0, task["at"] - time.monotonic()))
    began = before = time.monotonic()
    while before < until:
        call()
        now = time.monotonic()
        got, longest, before = got + 1, max(longest, now - before), now
    return {"got": got, "longest": longest, "seconds": before - began}


def _say(found: Found) -> None:
    os.write(1, json.dumps(found).encode() + b"\n")
