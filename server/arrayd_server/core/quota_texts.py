"""What a user is told whose quota has no room: whose it is, what it is used for, what helps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from arrayd.common.bytesize import format_bytes
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
    "bytes": "Release arrays",
    "blocks": "Release arrays",
    "pinned": "Ask without pin= or keep=, evict what is kept (`arrayd evict`)",
    "sessions": "Close clients (each arrayd.connect is one), end processes (`arrayd kick`)",
    "loads": "Ask again when some are done, for fewer files at a time",
}
"""What a user can do, by the name of the limit."""


def over(
    name: str,
    owner: Owner,
    user: int | None,
    what: Any,
    size: int,
    blocks: BlockTable,
    sessions: Mapping[Nonce, Session],
    now: float,
) -> NoRoom:
    """Explain to a user, who asks for `what`, that the limit of that `name` is reached."""
    quotas = blocks.accounts.quotas
    entry, most = quotas.entry(owner), int(getattr(quotas.of(owner), name))
    in_bytes = name in ("bytes", "pinned")
    amount = format_bytes if in_bytes else str
    held = _held(name, owner, blocks, now)
    group = entry.removeprefix("@")
    whose = f"group {group} together has" if owner.group else f"user {owner.id} has"
    unit = _UNITS[name].format("" if held == 1 else "s")
    lines = _lines(name, user, blocks, sessions, now)
    needs = f"{what} needs {format_bytes(size)}" if in_bytes else f"{what} is one more"
    raised = f'{name} of "{entry}" in its option quotas'
    raised += ", or its option user_budget" if (name, entry) == ("bytes", "*") else ""
    return NoRoom(
        f"{needs}; {whose} {amount(held)}{unit} and may have {amount(most)}"
        f"{': yours are ' if lines else ''}{_shortened(lines)}. {_REMEDIES[name]}, or have the "
        f"daemon's administrator raise {raised}.",
        needed=size,
        quota=most,
        held=held,
    )


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


def _lines(
    name: str,
    user: int | None,
    blocks: BlockTable,
    sessions: Mapping[Nonce, Session],
    now: float,
) -> list[str]:
    """Return what a user's part of a sum is used for."""
    if name == "sessions":
        uid = blocks.accounts.uid(user)
        peers = (one.peer for one in sessions.values() if one.peer.uid == uid)
        return [f"{peer.pid} {peer.program}".strip() for peer in peers if not peer.own]
    if name == "loads":
        return [str(job.identity) for job in blocks.accounts.loads.get(user, {}).values()]
    mine = _blocks_of(user, blocks, sessions)
    if name == "pinned":
        pinned = blocks.accounts.pins.blocks
        chosen = [one for one in mine if one.segment in pinned and one.user == user]
    else:
        chosen = [b for b in mine if b.segment not in blocks.idle or not blocks.may_go(b, now)]
    largest = sorted(chosen, key=lambda one: -one.size)
    return [f"{_words(b, user, sessions)} {format_bytes(b.size)}".strip() for b in largest]


def _blocks_of(
    user: int | None, blocks: BlockTable, sessions: Mapping[Nonce, Session]
) -> Iterable[Block]:
    if user is None:
        return [one for one in blocks.table.values() if one.user is None]
    return users.blocks_of(blocks, sessions, user)


def _words(block: Block, user: int | None, sessions: Mapping[Nonce, Session]) -> str:
    """Return in which words a user is told of a block that counts in its quota."""
    if block.user == user or user is None:
        return str(block.identity)
    mine = users.holds_of(block, user, sessions)
    return str(next((hold.asked for hold in mine if hold.asked is not None), ""))


def _shortened(lines: list[str]) -> str:
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return ", ".join(lines[:_SHOWN]) + more
