"""A fake kernel for the tests of the core: segments, their pages, and who maps them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

OTHERS = "other programs"
"""What /dev/shm holds besides segments."""


@dataclass
class Kernel:
    """The segments: their names, their pages, and who maps them."""

    capacity: int
    named: set[str] = field(default_factory=set)
    ever: set[str] = field(default_factory=set)
    pages: dict[str, int] = field(default_factory=dict)
    mappers: set[tuple[str, Hashable]] = field(default_factory=set)
    groups: set[int] = field(default_factory=set)  # of processes, those with any left
    spares: dict[str, int] = field(default_factory=dict)  # their pages

    @property
    def free(self) -> int:
        """Bytes that can still be had."""
        return self.capacity - sum(self.pages.values())

    def make(self, segment: str, size: int = 0) -> None:
        """Make a segment of which `size` bytes have pages."""
        assert segment not in self.ever, "rule 6: a name was used twice"
        self.ever.add(segment)
        self.named.add(segment)
        self.fill(segment, size)

    def rename(self, segment: str, heir: str) -> None:
        """Let a segment have another name."""
        pages = self.pages.pop(segment)
        self.named.remove(segment)
        self.make(heir, pages)
        self.spares[heir] = pages

    def fill(self, segment: str, size: int) -> None:
        """Give a segment pages."""
        self.pages[segment] = size
        assert self.free >= 0, "rule 1: more was promised than /dev/shm has"

    def refuses(self, segment: str, size: int) -> bool:
        """Say whether somebody else has taken the pages that a segment is to have."""
        return OTHERS in self.pages and size - self.pages.get(segment, 0) > self.free

    def mapped(self, segment: str) -> bool:
        """Say whether anybody maps a segment: the lease test."""
        return any(name == segment for name, _ in self.mappers)

    def attach(self, segment: str, who: Hashable) -> bool:
        """Map a segment by its name; False: ENOENT."""
        if segment in self.named:
            self.mappers.add((segment, who))
        return segment in self.named
