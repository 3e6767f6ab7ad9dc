"""What the daemon and the reader process of a stream say to each other.

To the reader go maps with a key ``op``; it answers with maps of one key:

==========  ===============  =====================================================================
``op``      what             answer
==========  ===============  =====================================================================
``start``   `ReaderTask`     ``{ready: version of arrayd}``, once
``window``  `WindowTask`     ``{read: WindowRead}`` when its rows are in the ring; at most two
                             windows are asked for at a time, and may be answered in any order
``ring``    `RingTask`       none: it is for the windows that are asked for from then on
==========  ===============  =====================================================================

``{err: error}`` can come in the place of any answer, and is the last word of a reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from arrayd.wire.records import Record
from arrayd_server.stream_identity import StreamIdentity


@dataclass(frozen=True, slots=True)
class ReaderTask(Record):
    """Get ready to fill the ring in the segment at `ring`; `share` is for rows that stay."""

    identity: StreamIdentity
    ring: str
    share: str | None = None


@dataclass(frozen=True, slots=True)
class WindowTask(Record):
    """Read the rows at positions [start, stop), which lie in one epoch."""

    generation: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class RingTask(Record):
    """Fill the ring in the segment at `ring` from now on."""

    generation: int
    ring: str


@dataclass(frozen=True, slots=True)
class WindowRead(Record):
    """A window is in its ring.

    `stats` has ``bytes_read`` (from files), ``bytes_used`` (of the ring), ``rows_from_share``,
    ``values_changed`` (by casts), ``microseconds``.
    """

    generation: int
    start: int
    stop: int
    stats: dict[str, int]


def checked(message: Any) -> tuple[str, Any]:
    """Return the kind of a reader's answer and what it says; a corrupt file may have corrupted it.

    Raises
    ------
    TypeError, ValueError
        It is none.
    ProtocolMismatch
        A newer arrayd has written it.
    """
    kinds = {"ready": str, "read": dict, "err": dict}
    if isinstance(message, dict) and len(message) == 1:
        ((kind, value),) = message.items()
        if kind in kinds and isinstance(value, kinds[kind]):
            return kind, WindowRead.from_wire(value) if kind == "read" else value
    raise TypeError(f"{str(message)[:80]!r} is no answer")
