"""`HealthCheck`: whether the rules of registry and streams hold."""

from __future__ import annotations

import math

from arrayd_server.core import invariants, stream_invariants
from arrayd_server.core.registry import Registry
from arrayd_server.core.streams import Streams

FRESH = 5.0
"""Seconds for which others than who runs the daemon are told what was found last.

To look at a hundred thousand blocks takes the loop a quarter of a second.
"""


class HealthCheck:
    """Looks, and knows what was found last."""

    def __init__(self, registry: Registry, streams: Streams) -> None:
        self._registry, self._streams = registry, streams
        self._found, self._found_at = "", -math.inf

    def broken(self, now: float, fresh: float = 0.0) -> str:
        """Return which rule does not hold, or an empty text, as found up to `fresh` seconds ago."""
        if now - self._found_at >= fresh:
            self._found, self._found_at = self._look(), now
        return self._found

    def _look(self) -> str:
        try:
            invariants.check(self._registry)
            stream_invariants.check(self._streams)
        except AssertionError as error:
            return str(error).partition("\n")[0] or "a rule without a name"
        return ""
