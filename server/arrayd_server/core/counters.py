"""What is counted of all that happens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    requests: int = 0
    hits: int = 0
    joins: int = 0
    loads: int = 0
    failures: int = 0
    evictions: int = 0
    recycled: int = 0
    adopted: int = 0
    published: int = 0
    stale_holds: int = 0
