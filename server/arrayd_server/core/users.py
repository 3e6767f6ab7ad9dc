"""Users other than the daemon's: what they may open, what is theirs, how much they may have.

A segment is a file of the daemon's user with mode 0600. Another user is *let in* to one (an entry
in its access control list) with the grant of a hold, and *let out* when the user's last hold ends;
what is mapped by then stays mapped. An idle block lets nobody in. Who is let in is kept with the
file, so after a restart of the daemon a session may state the holds that its user was let in to,
and no others: the names of segments are no secret.

That a user may read a *file* is found out before a request comes here (`arrayd_server.access`).
How much a user may have is in `quotas`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.effects import Effect, Share
from arrayd_server.core.model import Block, Hold, Nonce, Peer, Session


def let_in(block: Block, peer: Peer) -> bool:
    """Let a holder open the block, and say whether its user could not; the shell sees to it."""
    if is_in(block, peer):
        return False
    block.readers.add(peer.uid)
    block.exposed = True
    return True


def is_in(block: Block, peer: Peer) -> bool:
    """Say whether a process may hold a block that it says it holds."""
    return not peer.foreign or peer.uid in block.readers


def let_out(block: Block, peer: Peer, holders: Iterable[Peer]) -> list[Effect]:
    """Let a user out whose hold has ended, unless one of the other `holders` is of that user."""
    if peer.uid not in block.readers or any(other.uid == peer.uid for other in holders):
        return []
    block.readers.discard(peer.uid)
    return [Share(block.segment)]


def let_all_out(block: Block) -> list[Effect]:
    """Let nobody in to a block that is idle."""
    if not block.readers:
        return []
    block.readers.clear()
    return [Share(block.segment)]


def holds_of(block: Block, user: int, sessions: Mapping[Nonce, Session]) -> list[Hold]:
    """Return the holds that a user's sessions have of a block."""
    holds = block.holders.items()
    return [hold for nonce, hold in holds if sessions[nonce].peer.user == user]


def told_of(blocks: BlockTable, sessions: Mapping[Nonce, Session], peer: Peer) -> list[Block]:
    """Return the blocks that a process may be told of: all, or those made for its user or held.

    Of others' there may be a hundred thousand: they are not looked at.
    """
    if peer.admin or not peer.foreign:
        return list(blocks.table.values())
    return blocks_of(blocks, sessions, peer.uid)


def blocks_of(blocks: BlockTable, sessions: Mapping[Nonce, Session], user: int) -> list[Block]:
    """Return the blocks that were made for another user than the daemon's, or are held by it."""
    found = made_or_held(blocks, sessions, user)
    return sorted(found.values(), key=lambda block: block.number)


def made_or_held(
    blocks: BlockTable, sessions: Mapping[Nonce, Session], user: int
) -> dict[str, Block]:
    """Return the same by their segments, in any order."""
    found = dict(blocks.by_user.get(user, {}))
    for session in sessions.values():
        if session.peer.user == user:
            found |= {one: blocks.table[one] for one in session.holds if one not in found}
    return found


def may_redeem(block: Block, peer: Peer, token: bytes) -> bool:
    """Say whether a process may turn a reference into a hold: it is of its user, or was let in."""
    lend = block.lends.get(token)
    return is_in(block, peer) or (lend is not None and lend.user == peer.user)


def owns(block: Block, peer: Peer) -> bool:
    """Say whether a process may end a block that nobody uses, or see who does."""
    return peer.admin or not peer.foreign or block.user == peer.uid


def shown(block: Block, peer: Peer, holds: Iterable[Hold] = ()) -> Any:
    """Return the identity by which a process is told of a block; None: by none.

    Two users may ask for one file by different paths, or links, and that of the first, for whom
    the block was made, is nothing that the other could see. So to each it has the identity by
    which that user asks for it, if one of its `holds` knows that.
    """
    return next(iter(known(block, peer, holds)), None)


def known(block: Block, peer: Peer, holds: Iterable[Hold]) -> list[Any]:
    """Return all identities by which a process may be told of a block; the first is the latest."""
    asked = [hold.asked for hold in holds if hold.asked is not None]
    if not owns(block, peer):
        return asked
    return [*asked, block.identity, *(member.identity for member in block.members)]


def may_use(block: Block, peer: Peer) -> bool:
    """Say whether a process may have a block by its name: it is its user's, or shared with it."""
    mine = not peer.foreign or block.user == peer.uid
    return mine or block.share in {"all", *(f"group:{number}" for number in peer.groups)}


def stored_name(name: str, peer: Peer) -> str:
    """Return a name that a process gives to what it publishes: each user has names of its own."""
    return f"~{peer.uid}/{name}" if peer.foreign else name


def wanted_name(name: str, peer: Peer, own: int) -> str:
    """Return the stored name of what a process asks for: its own ``x``, or user 7's ``~7/x``.

    `own` is the daemon's user, whose names are stored as they are.
    """
    owner = re.match(r"~([0-9]{1,10})/", name)
    if owner is None:
        return stored_name(name, peer)
    return name[owner.end() :] if int(owner[1]) == own else name


def shown_name(stored: str) -> str:
    """Return a name as its user gave it."""
    return re.sub(r"\A~[0-9]{1,10}/", "", stored)
