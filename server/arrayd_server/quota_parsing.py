"""The option ``quotas``: ``alice: bytes=80G, sessions=200; @lab: bytes=200G; *: soft_bytes=10%``.

In the file it is a table with an entry for each user or group, which `config_file` brings into this
form. What an entry of a user does not say is as for ``*``. Root and the daemon's own user have no
limits but those that an entry of theirs says.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from arrayd_server import option_parsing
from arrayd_server.access import callers
from arrayd_server.core.quotas import LIMITS, NO_LIMITS, Limits, Owner, Quotas

OTHERS = "*"
"""Stands for each user whom no entry names."""

_SIZES = ("bytes", "soft_bytes", "pinned")


class EntryError(ValueError):
    """An entry cannot be used: whose it is, and why."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"{part}: {reason}")
        self.part = part


@dataclass(frozen=True, slots=True)
class QuotaEntries:
    """The entries, as they are written.

    Parameters
    ----------
    named
        What they are called, whose they are, and the limits.
    others
        Those of ``*``.
    """

    words: str
    named: tuple[tuple[str, Owner, Limits], ...] = ()
    others: Limits = NO_LIMITS

    def __str__(self) -> str:
        return self.words

    def quotas(self, own: int, user_budget: int) -> Quotas:
        """Return the quotas that follow; `own` is the daemon's user.

        `user_budget` is the limit of bytes where ``*`` sets none.
        """
        others = self.others.completed(Limits(bytes=user_budget))
        exempt, named = frozenset({0, own}), {}
        for _, owner, limits in self.named:
            inherits = not owner.group and owner.id not in exempt
            named[owner] = limits.completed(others) if inherits else limits
        entries = {owner: name for name, owner, _ in self.named}
        mine = own if Owner(False, own) in named else None
        return Quotas(named, entries, others, exempt, mine)


def parse_quotas(text: str) -> QuotaEntries:
    """Return the entries that the option has; ``none``: it has none.

    Raises
    ------
    ValueError
        It is written in another way, or there is no such user, group or limit.
    """
    if text == "none":
        return QuotaEntries(text)
    named: list[tuple[str, Owner, Limits]] = []
    others: Limits | None = None
    for part in text.split(";"):
        name, colon, said = (word.strip() for word in part.partition(":"))
        if not name or not colon:
            raise ValueError("write none, or WHO: LIMIT=VALUE, LIMIT=VALUE; WHO: ...")
        limits = _limits(name, said)
        owner = None if name == OTHERS else _owner(name)
        if owner in [known for _, known, _ in named] or (owner is None and others is not None):
            raise EntryError(name, "there are two entries for it")
        if owner is None:
            others = limits
        else:
            named.append((name, owner, limits))
    return QuotaEntries(text, tuple(named), others or NO_LIMITS)


def _owner(name: str) -> Owner:
    try:
        group = name.startswith("@")
        return Owner(group, callers.gid_of(name[1:]) if group else callers.uid_of(name))
    except ValueError as error:
        raise EntryError(name, str(error)) from None


def _limits(name: str, text: str) -> Limits:
    found: dict[str, int] = {}
    for item in text.split(","):
        key, _, value = (word.strip() for word in item.partition("="))
        if key not in LIMITS:
            near = difflib.get_close_matches(key, LIMITS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(LIMITS)}"
            raise EntryError(name, f"no limit is called {key!r} ({hint})")
        if key in found:
            raise EntryError(name, f"{key} is there twice")
        try:
            found[key] = _size(value) if key in _SIZES else _count(value)
        except ValueError as error:
            raise EntryError(name, f"{key} = {value}: {error}") from None
    limits = Limits(**found)
    if None not in (limits.bytes, limits.soft_bytes) and found["soft_bytes"] >= found["bytes"]:
        raise EntryError(name, "soft_bytes is not below bytes, so nobody is ever above it")
    return limits


def _size(text: str) -> int:
    return 0 if text == "0" else int(option_parsing.budget(text))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("write a whole number")
    return int(text)
