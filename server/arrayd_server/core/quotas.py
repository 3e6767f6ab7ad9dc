"""What users and groups may have: the limits, as the option ``quotas`` says them.

A *hard* limit refuses what is new. What is there when a limit is made smaller, or when a user comes
into a group, stays: it only counts. ``soft_bytes`` refuses nothing: when room is needed, idle
blocks of those who are above it go before everybody else's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Limits:
    """What one user may have, or the members of a group together; None: as much as there is.

    Parameters
    ----------
    bytes, blocks
        In memory: made for it, or held by it.
    soft_bytes
        Above so many of them, its idle blocks are the first to go.
    pinned
        Bytes of its blocks that are pinned, or kept.
    sessions, loads
        Open, and in flight, at a time.
    """

    bytes: int | None = None
    soft_bytes: int | None = None
    pinned: int | None = None
    blocks: int | None = None
    sessions: int | None = None
    loads: int | None = None

    def completed(self, others: Limits) -> Limits:
        """Return these, and those of `others` where nothing is said."""
        said = {name: getattr(self, name) for name in LIMITS}
        return Limits(**{n: getattr(others, n) if v is None else v for n, v in said.items()})


LIMITS = tuple(one.name for one in fields(Limits))

NO_LIMITS = Limits()


class Owner(NamedTuple):
    """Whose a quota is: a user's, by uid, or a group's, by gid."""

    group: bool
    id: int


@dataclass(frozen=True, slots=True)
class Quotas:
    """The quotas of all users and groups.

    Parameters
    ----------
    named
        Of whom an entry names, completed by `others`.
    entries
        How these are called there: ``alice``, ``@lab``.
    others
        Of each other user; not of those in `exempt`, which are in no group either.
    own
        The daemon's user, if it is named: what is made for it has no user in the core.
    """

    named: Mapping[Owner, Limits] = field(default_factory=dict)
    entries: Mapping[Owner, str] = field(default_factory=dict)
    others: Limits = NO_LIMITS
    exempt: frozenset[int] = frozenset()
    own: int | None = None

    def of(self, owner: Owner) -> Limits:
        """Return the limits of a user, or of a group."""
        known = self.named.get(owner)
        if known is not None:
            return known
        return NO_LIMITS if owner.group or owner.id in self.exempt else self.others

    def owners(self, uid: int, groups: frozenset[int]) -> tuple[Owner, ...]:
        """Return in whose quotas counts what is a user's: its own, and those of its groups."""
        user = Owner(False, uid)
        if uid in self.exempt:
            return (user,)
        mine = [one for one in self.named if one.group and one.id in groups]
        return (user, *mine)

    def entry(self, owner: Owner) -> str:
        """Return the entry that sets the limits of a user, or a group."""
        return self.entries.get(owner, "*")
