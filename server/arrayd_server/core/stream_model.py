"""What the core remembers of streams: their rings and consumers. Plain data, no rules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from arrayd.errors import ArraydError
from arrayd_server.core.model import Asker, Draft
from arrayd_server.core.windows import Windows


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What is to be read, and into what.

    Parameters
    ----------
    key
        Equal for the same rows in the same order: dataset, selection, seed, order, fields, casts.
    identity
        Opaque to the core; for the reader and for people.
    rows
        Of an epoch, at least 1.
    slots
        Rows of the ring, at least 1.
    batch
        Rows that a consumer takes at a time: the first window has so many.
    ring, share
        The block that is the ring, and the one for the resident share, if there is to be one.
    whole
        Its windows are; see `windows`.
    """

    key: Hashable
    identity: Any
    rows: int
    slots: int
    batch: int
    ring: Draft
    share: Draft | None = None
    whole: bool = False


@dataclass(slots=True)
class OwnBlock:
    """A block that the daemon's own session has asked for; `segment` is None until it is there."""

    request: int
    size: int
    segment: str | None = None


@dataclass(slots=True, eq=False)
class RingGeneration:
    """One ring of a stream; the next one has the next number."""

    number: int
    block: OwnBlock
    windows: Windows


@dataclass(slots=True)
class StreamTotals:
    """What all streams since the start have come to: rows read, bytes of files, seconds waited."""

    rows: int = 0
    bytes_read: int = 0
    stalled: float = 0.0


class ReaderState(Enum):
    """How far the reader process of a stream is."""

    ABSENT = "not yet started"
    STARTING = "starting"
    READY = "ready"
    STOPPED = "stopped"


@dataclass(slots=True)
class Barrier:
    """Nobody is served before so many consumers have joined, or until that time."""

    consumers: int
    until: float


@dataclass(slots=True, eq=False)
class Consumer:
    """Somebody who goes through a stream at its own pace.

    Parameters
    ----------
    opened_by
        The request that opened it.
    ring
        The one that it reads from.
    cursor
        The first position that it still needs.
    limit
        The position where it ends; inf: nowhere.
    grace
        Seconds that it may stand still while others wait for it.
    moved
        When the cursor last moved, or it last got something to move on with.
    """

    number: int
    opened_by: Asker
    stream: int
    ring: RingGeneration
    cursor: int
    limit: float
    grace: float
    since: float
    moved: float
    answered: bool = False  # its open
    detached: bool = False  # it reads an old ring to its end, and goes on in no other
    announce: bool = False  # the client may not have heard of its ring yet
    waiting: Asker | None = None  # the request that waits for more
    waiting_since: float = 0.0
    waits: int = 0  # that were not answered at once
    stalled: float = 0.0  # seconds waited, the present wait not counted

    @property
    def wants(self) -> bool:
        """Whether there is anything left that it needs."""
        return self.cursor < self.limit


@dataclass(slots=True, eq=False)
class SharedStream:
    """One sequence of rows that one reader reads for all its consumers.

    Parameters
    ----------
    ring
        The current one; `following` is one that is being made to take its place.
    retry_at
        Not before then may another ring be asked for: there was no room.
    stats
        The sums of what the reader reports of its windows: ``bytes_read``, ``bytes_used``, ….
    """

    number: int
    plan: StreamPlan
    ring: RingGeneration
    since: float
    barrier: Barrier | None = None
    following: RingGeneration | None = None
    share: OwnBlock | None = None
    reader: ReaderState = ReaderState.ABSENT
    error: ArraydError | None = None
    consumers: dict[int, Consumer] = field(default_factory=dict)
    retry_at: float = -math.inf
    stats: Counter[str] = field(default_factory=Counter)

    def attached(self) -> Iterator[Consumer]:
        """Yield the consumers that the reader reads for."""
        return (consumer for consumer in self.consumers.values() if not consumer.detached)

    def position(self, consumer: Consumer) -> int:
        """Return the first position that an attached consumer needs of the current ring."""
        return max(consumer.cursor, self.ring.windows.first)

    def needed(self) -> dict[int, int]:
        """Return that position of each attached consumer that wants more, by its number."""
        return {c.number: self.position(c) for c in self.attached() if c.wants}

    def joinable(self, position: int) -> bool:
        """Say whether somebody who begins at `position` can read from the current ring."""
        windows = self.ring.windows
        lives = self.error is None and self.reader is not ReaderState.STOPPED
        return lives and windows.lowest <= position <= windows.planned

    def rings(self) -> list[RingGeneration]:
        """Return the current ring, and the older ones that somebody reads from; oldest first."""
        rings = {c.ring.number: c.ring for c in self.consumers.values()}
        rings[self.ring.number] = self.ring
        return [rings[number] for number in sorted(rings)]
