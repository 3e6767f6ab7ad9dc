"""`LinkCheck`: clients can open segments by their names, though anybody may remove these."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from time import monotonic

from arrayd.errors import ArraydError
from arrayd_server import events
from arrayd_server.core.registry import Registry
from arrayd_server.segments.store import Segments

log = logging.getLogger(__name__)

_CHECKED = 1000  # segments whose links one call checks: some 10 ms of the loop


class LinkCheck:
    """The links of the segments of `registry`.

    Parameters
    ----------
    take
        Lets an event of the core happen.
    """

    def __init__(self, registry: Registry, segments: Segments, take: Callable[..., None]) -> None:
        self._registry, self._segments, self._take = registry, segments, take
        self._unchecked: list[str] = []  # segments whose links are still to be checked
        self._sure: set[str] = set()  # those that were looked at in this event

    def begin(self) -> None:
        """Begin an event: what was linked at the one before may have been removed."""
        self._sure.clear()

    def ensure(self, segment: str) -> bool:
        """Make sure that a segment can be opened by its name; False if no link to it is left.

        In an event that grants many members of one block, its names are looked at once.

        Raises
        ------
        ArraydError
            It is there, but its name cannot be.
        """
        if segment not in self._sure:
            if not self._is_linked(segment):
                return False
            self._sure.add(segment)
        return True

    def relink(self, segment: str) -> None:
        """Link a segment back under the name that somebody removed."""
        block, _ = self._registry.block(segment)
        if block is not None and block.usable:
            with contextlib.suppress(ArraydError):  # a request for it gets the error
                self._is_linked(segment)

    def _is_linked(self, segment: str) -> bool:
        if self._segments.republish(segment):
            return True
        block, _ = self._registry.block(segment)
        assert block is not None
        about = events.SEGMENT_REMOVED.about(block=segment, source=block.identity)
        log.warning("%s: somebody removed the segment %s", block.identity, segment, extra=about)
        self._take(self._registry.segment_removed, segment, monotonic())
        return False

    def look(self) -> None:
        """Check the links of the next `_CHECKED` segments; the loop stands still meanwhile."""
        if not self._unchecked and self._segments.names_changed():
            self._unchecked = self._segments.names()
        for segment in self._unchecked[-_CHECKED:]:
            self.relink(segment)
        del self._unchecked[-_CHECKED:]
