"""Other users than the daemon's fill its log no faster than anybody can read it.

A line that another user has caused carries that user's ``uid`` (`logging`: ``extra``). Of each user
and level `BURST` lines are written at once, and `PER_SECOND` from then on; of the rest it is told
how many they were, once in `TELL_EVERY`. So nobody's lines go for another's, and no refusal for
what was granted.
"""

from __future__ import annotations

import logging
import os
import time

from arrayd_server.access.rates import TokenBuckets

log = logging.getLogger(__name__)

BURST, PER_SECOND = 1000, 10.0

TELL_EVERY = 60.0
"""Seconds between two lines that tell how many were left out."""


class LineLimit(logging.Filter):
    """Lets through what is within the limits."""

    def __init__(self) -> None:
        super().__init__()
        self._rates = TokenBuckets(BURST, PER_SECOND)

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a line is to be written."""
        uid = getattr(record, "uid", None)
        if uid is None or uid == os.geteuid():
            return True
        return self._rates.take((uid, record.levelname), time.monotonic())

    def tell(self, after: float = TELL_EVERY) -> None:
        """Write how many lines were left out, for those of which the first was so long ago."""
        for key, count in self._rates.refused(time.monotonic(), after).items():
            uid, level = key if isinstance(key, tuple) else ("of many users", "any")
            log.warning("left out %d lines of level %s that uid=%s has caused", count, level, uid)
