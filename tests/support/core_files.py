"""What the tests of the core ask for: files, and names of published blocks."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from arrayd.wire.grant import Spec
from arrayd_server.core.model import BlockMember, Wanted, name_alias, own_alias

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
    user: int | None = None  # whose request for a member it is

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
    user: int | None = None
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
        mine = [replace(file, user=self.user) for file in self.files]
        return [
            BlockMember(member_alias(file), file, None, at * SPEC.nbytes, SPEC.nbytes)
            for at, file in enumerate(mine)
        ]


def wanted(file: File, spelling: str = "a") -> Wanted:
    """Return the request for a file under one of its paths."""
    whole = (file.name, spelling, None) if file.rows else None
    return Wanted((file.name, spelling, file.rows), file, whole, user=file.user)


def member_alias(file: File) -> Hashable:
    """Return the alias by which a file is found that is a member of its user's block."""
    return own_alias(wanted(file).alias, file.user)


def wanted_name(name: str) -> Wanted:
    """Return the request for a published block."""
    return Wanted(name_alias(name), f"name:{name}", name=name)
