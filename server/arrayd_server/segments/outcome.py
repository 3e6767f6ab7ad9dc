"""How an unlink ended."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """What became of an unlink."""

    REFUSED = "somebody maps it, so it stays"
    UNLINKED = "unlinked, but somebody maps it"
    GONE = "unlinked, and nobody maps it"
    RECYCLED = "its pages have another name"
