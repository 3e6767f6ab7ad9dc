"""What the tests of the core ask for: files, and names of published blocks."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from arrayd.wire.grant import Spec
from arrayd_server.core.model import BlockMember, Wanted, name_alias

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


@dataclass(frozen=True)
class Batch:
    """What a block with members holds: these files, and which batch it is."""

    files: tuple[File, ...]
    number: int
    linked: bool = False

    @property
    def key(self) -> Hashable:
        """Equal to no other batch's."""
        return ("batch", self.number)

    @property
    def size(self) -> int:
        """Of the segment."""
        return sum(file.size for file in self.files)

    def members(self) -> list[BlockMember]:
        """Return the members, as yet to be loaded."""
        aliases = [wanted(file).alias for file in self.files]
        return [
            BlockMember(alias, file, None, at * SPEC.nbytes, SPEC.nbytes)
            for at, (alias, file) in enumerate(zip(aliases, self.files, strict=True))
        ]


def wanted(file: File, spelling: str = "a") -> Wanted:
    """Return the request for a file under one of its paths."""
    whole = (file.name, spelling, None) if file.rows else None
    return Wanted((file.name, spelling, file.rows), file, whole)


def wanted_name(name: str) -> Wanted:
    """Return the request for a published block."""
    return Wanted(name_alias(name), f"name:{name}", name=name)
