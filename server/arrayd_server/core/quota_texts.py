"""What a user is told whose quota has no room: whose it is, what it is used for, what helps."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import Any

from arrayd.common.bytesize import format_apart, format_bytes
from arrayd.errors import NoRoom
from arrayd_server.core import users
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.model import Block, Nonce, Session
from arrayd_server.core.quotas import Owner

_SHOWN = 5

_UNITS = {
    "bytes": " in memory",
    "blocks": " block{} in memory",
    "pinned": " pinned or kept",
    "sessions": " session{}",
    "loads": " load{} in flight",
}

_REMEDIES = {
    "pinned": "ask without pin= or keep=, evict what is pinned or kept (`arrayd evict`)",
    "sessions": "close clients (each arrayd.connect is one), end processes of yours (`kill PID`)",
    "loads": "ask again when some are done, for fewer files at a time",
}
"""What a user can do, by the name of the limit; of the others `_remedies` says it."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What a user's part of a sum is used for.

    Parameters
    ----------
    number
        Of what it consists of.
    shown
        Some of that in words: of blocks, the largest.
    blocks
        Those that it consists of; empty where it is of something else.
    """

    number: int = 0
    shown: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def __str__(self) -> str:
        more = self.number - len(self.shown)
        told = ": yours are " + ", ".join(self.shown) if self.shown else ""
        return f"{told} and {more} more" if more else told


def over(
    name: str,
    owner: Owner,
    user: int | None,
    what: Any,
    size: int,
    waiting: int,
    blocks: BlockTable,
    sessions: Mapping[Nonce, Session],
    now: float,
) -> NoRoom:
    """Explain to a user, who asks for `what`, that the limit of that `name` is reached.

    So many bytes or blocks are `waiting` for room, and counted as well.
    """
    quotas = blocks.accounts.quotas
    entry, most = quotas.entry(owner), int(getattr(quotas.of(owner), name))
    in_bytes = name in ("bytes", "pinned")
    amount = format_bytes if in_bytes else str
    held = _held(name, owner, blocks, now)
    group = entry.removeprefix("@")
    whose = f"group {group} together has" if owner.group else f"user {owner.id} has"
    unit = _UNITS[name].format("" if held == 1 else "s")
    unit += f", {amount(waiting)} more waiting for room," if waiting else ""
    part = _part(name, user, blocks, sessions, now)
    uid = blocks.accounts.uid(user)
    mine = owner if uid is None else Owner(False, uid)
    has, may, needed = format_apart(held, most, size) if in_bytes else (str(held), str(most), "")
    needs = f"{what} needs {needed}" if in_bytes else f"{what} is one more"
    raised = f'{name} of "{entry}" in its option quotas'
    raised += ", or its option user_budget" if (name, entry) == ("bytes", "*") else ""
    others = name in ("bytes", "blocks") and held > _held(name, mine, blocks, now)
    helps = [_REMEDIES[name]] if name in _REMEDIES else _remedies(part, blocks, user, now)
    helps += ["give up calls that wait for room"] if waiting else []
    helps += ["have other members of the group release arrays"] if others else []
    helps = [", ".join(helps), "have the daemon's administrator raise"]
    remedy = ", or ".join(filter(None, helps))
    return NoRoom(
        f"{needs}; {whose} {has}{unit} and may have {may}{part}. "
        f"{remedy[0].upper()}{remedy[1:]} {raised}.",
        limit=name,
        needed=size,
        quota=most,
        held=held,
        waiting=waiting,
    )


def _remedies(part: _Part, blocks: BlockTable, user: int | None, now: float) -> list[str]:
    """Return how a user has fewer blocks: what it could do without any effect is left out."""
    held = any(one.segment not in blocks.idle for one in part.blocks)
    kept = blocks.accounts.pins.of(user, now) > 0
    found = ["release arrays"] if held else []
    return found + (["evict what is pinned or kept (`arrayd evict`)"] if kept else [])


def _held(name: str, owner: Owner, blocks: BlockTable, now: float) -> int:
    accounts = blocks.accounts
    match name:
        case "pinned":
            return accounts.pinned(owner, now)
        case "sessions":
            return accounts.open_sessions(owner)
        case "loads":
            return accounts.in_flight(owner)
    return int(getattr(accounts.has(owner), name))


def _part(
    name: str,
    user: int | None,
    blocks: BlockTable,
    sessions: Mapping[Nonce, Session],
    now: float,
) -> _Part:
    """Return what a user's part of a sum is used for.

    Of the blocks, which may be many thousands at each of many refusals, only those that are shown
    are put into words.
    """
    if name == "sessions":
        uid = blocks.accounts.uid(user)
        peers = [one.peer for one in sessions.values() if one.peer.uid == uid and not one.peer.own]
        return _Part(len(peers), [f"{one.pid} {one.program}".strip() for one in peers[:_SHOWN]])
    if name == "loads":
        loads = blocks.accounts.loads.get(user, {})
        return _Part(len(loads), [str(job.identity) for job in islice(loads.values(), _SHOWN)])
    mine = _blocks_of(user, blocks, sessions)
    if name == "pinned":
        pinned = blocks.accounts.pins.blocks
        chosen = [one for segment, one in mine.items() if segment in pinned and one.user == user]
    else:
        idle, may_go = blocks.idle, blocks.may_go
        chosen = [
            one for segment, one in mine.items() if segment not in idle or not may_go(one, now)
        ]
    largest = heapq.nlargest(_SHOWN, chosen, key=attrgetter("size"))
    shown = [f"{_words(b, user, sessions)} {format_bytes(b.size)}".strip() for b in largest]
    return _Part(len(chosen), shown, chosen)


def _blocks_of(
    user: int | None, blocks: BlockTable, sessions: Mapping[Nonce, Session]
) -> dict[str, Block]:
    if user is None:
        return {segment: one for segment, one in blocks.table.items() if one.user is None}
    return users.made_or_held(blocks, sessions, user)


def _words(block: Block, user: int | None, sessions: Mapping[Nonce, Session]) -> str:
    """Return in which words a user is told of a block that counts in its quota."""
    if block.user == user or user is None:
        return str(block.identity)
    mine = users.holds_of(block, user, sessions)
    return str(next((hold.asked for hold in mine if hold.asked is not None), ""))
