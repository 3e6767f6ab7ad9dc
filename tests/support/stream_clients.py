"""Those around the streams of a fake world: what clients ask for, clients, reader processes."""

from __future__ import annotations

from dataclasses import dataclass, field

from arrayd.errors import ArraydError
from arrayd_server.core.effects import ReadWindow
from arrayd_server.core.model import Asker, Draft
from arrayd_server.core.stream_model import StreamPlan
from tests.support.core_files import SPEC

RING, SHARE = 10, 5
"""Bytes of each ring and each resident share."""


def plan(
    key: str = "k",
    *,
    rows: int = 20,
    slots: int = 8,
    batch: int = 1,
    share: bool = False,
    whole: bool = False,
) -> StreamPlan:
    """Return what a client asks for."""
    ring, kept = Draft(SPEC, RING, f"ring of {key}"), Draft(SPEC, SHARE, f"share of {key}")
    return StreamPlan(key, f"id:{key}", rows, slots, batch, ring, kept if share else None, whole)


@dataclass
class FakeReader:
    """A reader process: the ring it writes to, and what it has been asked for."""

    segment: str
    share: str | None
    generation: int = 0
    ready: bool = False
    windows: list[ReadWindow] = field(default_factory=list)


@dataclass
class Client:
    """Somebody who opens a stream and goes through it."""

    nonce: bytes
    plan: StreamPlan
    cursor: int
    limit: int | None
    opened: Asker
    number: int = 0
    slots: int = 0
    rings: list[tuple[int, str]] = field(default_factory=list)  # from which position, which
    head: int = 0  # as it was told last
    waiting: Asker | None = None
    asked: Asker = field(init=False)  # its latest wait
    state: str = "opening"  # open, ended, moved, failed, closed
    error: ArraydError | None = None

    def ring_of(self, position: int) -> str:
        """Return the segment in which a position lies."""
        return next(segment for first, segment in reversed(self.rings) if first <= position)
