"""Batches from a ring: the daemon reads the rows of the coming positions, once for all consumers.

A batch is a slice of the ring, without a copy, but where it lies apart: at the end of the ring, or
where only a part of it was there at first. The daemon is asked when what is known to be readable
is used up, which is once for many batches.

The cursor tells the daemon which slots may be filled anew: the first position whose row this
process may still look at. It goes along with each question, and by itself each time that a part
of the ring (`TELL_EVERY`) was passed without one. If the daemon was restarted, or has gone on
without this consumer, the stream is opened again where it is: the rows and their order are the
same.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.array import SharedArray, offset_of
from arrayd.common.warn import warn_caller
from arrayd.errors import DaemonLost, NoSuchBlock, NoSuchStream, PrecisionWarning
from arrayd.session.fetch import redeemed
from arrayd.session.session import Session, unwrap
from arrayd.wire.ring import RingLayout

Array = np.ndarray[Any, Any]
Ids = npt.NDArray[np.uint64]

TELL_EVERY, TELL_EVERY_WINDOWED = 3, 2
"""The daemon is told of a cursor each time that so large a part of the ring was passed: there is
room for the largest window then."""

TRIES = 5
"""Times that a stream is opened before its ring is given up as lost."""

_IDS = ""  # no field has this name


class RingRows:
    """Rows of a stream that the daemon reads.

    Parameters
    ----------
    session
        With the daemon.
    request
        The fields of ``stream.open`` but ``position``.
    layout
        Of the ring.
    writable
        Batches may be written to: pages that were written to are this process's own, until the
        batch is passed.
    """

    def __init__(
        self, session: Session, request: dict[str, Any], layout: RingLayout, *, writable: bool
    ) -> None:
        self._session = session
        self._request = request
        self._layout = layout
        self._writable = writable
        self._warned = False  # of values that a cast changes
        self._consumer = -1  # not open
        self._leave: weakref.finalize[..., RingRows] | None = None  # if it is dropped unclosed
        self._head = 0  # positions before it are readable
        self._told = 0  # the cursor that the daemon knows
        self._cursor = 0
        self._ring: SharedArray | None = None
        self._arrays: dict[str, Array] = {}  # the ids and the fields in the ring
        self._next: tuple[str, int] | None = None  # the ring that goes on, and from where
        self._kept: dict[str, list[Array]] = {}  # the first rows of a batch; see `_keep`

    @property
    def ring(self) -> SharedArray | None:
        """The ring's bytes in this process, uint8; None before the first batch."""
        return self._ring

    def fetch(self, start: int, stop: int, own: slice) -> tuple[Ids, dict[str, Array]]:
        """Return the rows at the positions from `start` to `stop`, and the fields of some.

        It waits until they are there.

        Parameters
        ----------
        start, stop
            Positions of the stream, of one epoch.
        own
            Of which of these rows the fields are wanted.
        """
        self._wait(start, stop)
        fields = {one.name: self._slice(one.name, start, stop)[own] for one in self._layout.fields}
        return self._slice(_IDS, start, stop).copy(), fields

    def _slice(self, name: str, start: int, stop: int) -> Array:
        """Return the rows of a field at these positions; a copy where they lie apart."""
        pieces = list(self._kept.get(name, ()))
        start += sum(map(len, pieces))
        array, slots = self._arrays[name], self._layout.slots
        first, count = start % slots, stop - start
        pieces.append(array[first : first + count])
        if first + count > slots:
            pieces.append(array[: first + count - slots])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def pass_to(self, position: int) -> None:
        """Say that rows before this position are not looked at any more."""
        if position <= self._cursor:
            return
        if self._writable and self._ring is not None:
            self._forget_writes(self._cursor, position)
        self._cursor = position

    def close(self) -> None:
        """Leave the stream, and let go of the ring."""
        if self._consumer >= 0:
            self._session.tell("stream.close", consumer=self._consumer)
            self._left()
        self._next, self._kept = None, {}
        self._drop_ring()

    # ---- waiting -------------------------------------------------------------------------

    def _wait(self, start: int, stop: int) -> None:
        """Wait until the rows from `start` to `stop` are in the ring that is mapped."""
        self._cursor, self._kept = max(self._cursor, start), {}
        for _ in range(TRIES):
            if self._consumer < 0:
                self._open(start)
            if self._consumer >= 0 and self._is_ready(start, stop):
                self._tell()
                return
            self.close()
        raise DaemonLost(
            f"The stream was opened {TRIES} times at position {start:,}, and each time it was gone "
            "before its rows were there: the daemon is restarted again and again. See its log."
        )

    def _is_ready(self, start: int, stop: int) -> bool:
        """Wait for rows; False if the stream is gone, and must be opened again."""
        while self._readable < stop:
            if self._readable > start:
                start = self._keep(start, self._readable)
            if self._next is not None and start >= self._next[1]:
                segment, self._next = self._next[0], None
                if not self._map(segment):
                    return False
                continue
            answer = self._asked()
            if answer is None or "moved" in answer:
                return False
            self._head = answer["head"]
            self._warn_of_loss(answer.get("lost", 0))
            if "ring" in answer:
                self._next = answer["ring"], answer["first"]
        return True

    def _tell(self) -> None:
        """Tell the daemon of the cursor, if it has gone far since the daemon heard of it."""
        parts = TELL_EVERY_WINDOWED if self._request.get("windowed") else TELL_EVERY
        if self._cursor - self._told >= self._layout.slots // parts:
            self._session.tell("stream.advance", consumer=self._consumer, cursor=self._cursor)
            self._told = self._cursor

    def _warn_of_loss(self, lost: int) -> None:
        """Warn once that a cast changes values; more may come with later rows."""
        if lost and not self._warned:
            self._warned = True
            warn_caller(
                f"The dtypes of cast= cannot hold all values as they are: {lost:,} values of the "
                "first rows were changed by the cast. `arrayd report FILE --cast …` shows what is "
                "lost in all.",
                PrecisionWarning,
            )

    @property
    def _readable(self) -> int:
        """Up to which position rows can be read from the ring that is mapped."""
        return self._head if self._next is None else min(self._head, self._next[1])

    def _keep(self, start: int, stop: int) -> int:
        """Copy the first rows of a batch whose others are not there yet; return where they are.

        The daemon answers when there is anything at the cursor, so that has to pass them.
        """
        kept = self._kept
        self._kept = {}
        for name in self._arrays:
            self._kept[name] = [*kept.get(name, ()), self._slice(name, start, stop).copy()]
        self._cursor = stop
        return stop

    def _asked(self) -> dict[str, Any] | None:
        """Ask for rows beyond the head; None: the daemon knows no such stream any more."""
        self._told = self._cursor
        fields: dict[str, Any] = {"consumer": self._consumer, "cursor": self._cursor}
        try:
            answer: dict[str, Any] = unwrap(self._session.ask("stream.wait", None, **fields)[0])
        except NoSuchStream:
            self._left()
            return None
        return answer

    def _open(self, position: int) -> None:
        fields = {**self._request, "position": position}
        answer = unwrap(self._session.ask("stream.open", None, **fields)[0])
        self._consumer, self._head = answer["consumer"], answer["head"]
        if answer["slots"] != self._layout.slots:  # it is the ring of a consumer that came earlier
            self._layout = RingLayout.of(self._layout.fields, answer["slots"])
        # In a garbage collection nothing may be sent: the session's thread does that.
        tell, number = self._session.tell_soon, self._consumer
        self._leave = weakref.finalize(self, tell, "stream.close", consumer=number)
        self._leave.atexit = False  # the end of the session says it
        self._told = self._cursor = position
        if not self._map(answer["segment"]):
            self.close()

    def _left(self) -> None:
        """Forget the consumer, which the daemon has forgotten or will."""
        self._consumer = -1
        if self._leave is not None:
            self._leave.detach()
            self._leave = None

    def _map(self, segment: str) -> bool:
        """Map a ring; False if it is gone."""
        self._drop_ring()
        try:
            ring = redeemed(self._session, segment, b"", "c" if self._writable else "r")
        except NoSuchBlock:
            return False
        self._ring = ring
        flat = np.asarray(ring)
        self._arrays = {_IDS: self._layout.ids(flat), **self._layout.arrays(flat)}
        return True

    def _drop_ring(self) -> None:
        self._ring, self._arrays = None, {}

    # ---- pages that were written to ------------------------------------------------------

    def _forget_writes(self, start: int, stop: int) -> None:
        """Let the pages of these rows show the ring again, where this process has written to them.

        A page at the edge has some of the next rows, which are not shown yet.
        """
        assert self._ring is not None
        pages = self._ring._mapping
        assert pages is not None
        slots = self._layout.slots
        first, count = start % slots, min(stop - start, slots)
        pieces = [(first, min(first + count, slots))]
        if first + count > slots:
            pieces.append((0, first + count - slots))
        for array in self._arrays.values():
            if array.size == 0:
                continue
            row = array.strides[0]
            begin = offset_of(array, pages)
            for low, high in pieces:
                pages.forget_writes(begin + low * row, begin + high * row)
