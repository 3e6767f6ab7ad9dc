"""Which positions of a ring are read, are being read, and are to be read next.

A *window* is a run of positions [start, stop) that the reader fills in one go: it sorts the rows
by where they lie in the files, so a larger window costs fewer seeks, and fewer messages. The first
window of a ring has one batch, so that the first batch comes soon; each is twice as large as the
one before, up to a third of the ring. Windows have whole batches, so that no batch is there in
part. No window crosses the end of an epoch, for another order begins there, and none passes the
last position that anybody wants.

Two windows are in flight at most: while the rows of one are consumed the disk has the next. The
second one is planned only when there is room for all of it; the first takes what room there is,
so that reading never stops for want of a large window (as Nagle's algorithm gathers small packets
only while an earlier one is under way; RFC 896).

Where each window costs the decoding of nearly all the files, however few its rows are, windows are
*whole*: of half the ring, one at a time, and each waits until there is room for all of it.

A window may be read before an earlier one is. The *head* passes complete windows only, in order:
all positions below it can be read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

MAX_IN_FLIGHT = 2
"""Windows that the reader has at a time."""

_SHARE = 3
"""A window has at most this part of the ring: one is read, one is next, the rest is consumed."""

_WHOLE_SHARE = 2
"""The same of whole windows: one is read, the other is consumed."""

Window = tuple[int, int]
"""Its first position, and the one after its last."""


@dataclass(slots=True)
class Windows:
    """The positions of one ring.

    Parameters
    ----------
    rows
        Of an epoch.
    slots
        Rows that the ring has room for.
    batch
        Rows of the next window, if nothing makes it shorter: at first those of one batch.
    first
        The position that the ring begins with.
    whole
        No window is made smaller for want of room; see above.
    head
        Positions below are read.
    planned
        Positions below are read, or being read.
    in_flight, done
        Where each window stops that is being read, or read before an earlier one is; by start.
    """

    rows: int
    slots: int
    batch: int
    first: int
    whole: bool = False
    head: int = field(init=False)
    planned: int = field(init=False)
    in_flight: dict[int, int] = field(default_factory=dict)
    done: dict[int, int] = field(default_factory=dict)
    _largest: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.head = self.planned = self.first
        most = max(1, self.slots // (_WHOLE_SHARE if self.whole else _SHARE))
        parted = self.whole or most < self.batch
        self._largest = most if parted else most - most % self.batch
        self.batch = min(self.batch, self._largest)

    @property
    def lowest(self) -> int:
        """The lowest position whose slot nothing has been planned for since."""
        return max(self.first, self.planned - self.slots)

    def free(self, low: int) -> int:
        """Return how many slots can be rewritten, if `low` is the lowest position still needed."""
        return low + self.slots - self.planned

    def has_room(self, low: int, limit: float = math.inf) -> bool:
        """Return whether a window can be planned, but for those in flight; as `plan`."""
        return self.free(low) >= (self._next(limit) if self.whole else 1)

    def _next(self, limit: float) -> int:
        """Return the rows of the next window, if there is room for them."""
        left = self.rows - self.planned % self.rows
        return int(min(self.batch, left, limit - self.planned))

    def plan(self, low: int, limit: float) -> Window | None:
        """Return the window to be read next, which is in flight from now on; None: not now.

        Positions from `low` on are still needed, those from `limit` on are not wanted.
        """
        start = self.planned
        wanted = self._next(limit)
        length = min(wanted, self.free(low))
        if length <= 0 or len(self.in_flight) >= (1 if self.whole else MAX_IN_FLIGHT):
            return None
        if length < wanted and (self.whole or self.in_flight):
            return None
        self.planned = self.in_flight[start] = start + length
        self.batch = min(2 * self.batch, self._largest)
        return start, self.planned

    def read(self, start: int, stop: int) -> bool:
        """Count a window as read; False: it is not in flight."""
        if self.in_flight.get(start) != stop:
            return False
        self.done[start] = self.in_flight.pop(start)
        while self.head in self.done:
            self.head = self.done.pop(self.head)
        return True
