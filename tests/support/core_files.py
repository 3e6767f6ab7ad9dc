"""What the tests of the core ask for: files, and names of published blocks."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from arrayd.wire.grant import Spec
from arrayd_server.core.model import Wanted, name_alias

SPEC = Spec((4,), "<f8", "C", 8)
ROWS = 4
NAMES = ("n", "m")


@dataclass(frozen=True)
class File:
    """What a request names, and the truth that only a probe finds out: `key` and `size`."""

    name: str
    size: int
    rows: str | None = None  # "half", or "full": another spelling of all rows
    linked: bool = False  # it is made of other files, too, which requests say nothing about

    @property
    def key(self) -> Hashable:
        """Equal for equal contents."""
        return (self.name, "half" if self.rows == "half" else None)

    def __str__(self) -> str:
        return self.name


def wanted(file: File, spelling: str = "a") -> Wanted:
    """Return the request for a file under one of its paths."""
    whole = (file.name, spelling, None) if file.rows else None
    return Wanted((file.name, spelling, file.rows), file, whole)


def wanted_name(name: str) -> Wanted:
    """Return the request for a published block."""
    return Wanted(name_alias(name), f"name:{name}", name=name)
