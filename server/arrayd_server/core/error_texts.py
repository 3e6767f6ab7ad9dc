"""The core's errors in words: what happened, the numbers, who is in the way, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from arrayd.common.bytesize import format_apart, format_bytes
from arrayd.errors import (
    AccessDenied,
    ArraydError,
    InUse,
    LoadError,
    NameTaken,
    NoRoom,
    NoSuchBlock,
    NoSuchStream,
    NotOwner,
    NotSealed,
    SpecMismatch,
)
from arrayd_server.core import users
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.model import Block, Job, Nonce, Peer, Session, State

_SHOWN = 5


def no_such_name(name: str) -> NoSuchBlock:
    """Nothing is published under a name."""
    name = users.shown_name(name)
    return NoSuchBlock(
        f"No block is published as {name!r}. Publish it with arrayd.put(array, name={name!r}), "
        "or wait for it with timeout=."
    )


def name_taken(name: str) -> NameTaken:
    """Another block is published under the name."""
    name = users.shown_name(name)
    return NameTaken(
        f"A block is already published as {name!r}. Choose another name, evict it, or pass "
        "replace=True (holders of the old block keep it)."
    )


def not_in_memory() -> NoSuchBlock:
    """There is nothing to evict."""
    return NoSuchBlock("No block of that source is in memory.")


def no_block(segment: str) -> NoSuchBlock:
    """Explain that a reference, or a request to seal, names no block."""
    return NoSuchBlock(f"The block {segment} is gone, or is not yours.")


def not_creator(segment: str) -> NotOwner:
    """Only the creator seals a block."""
    return NotOwner(f"{segment} is sealed by the session that created it.")


def sealing(segment: str) -> NotSealed:
    """Explain that an earlier request seals the block."""
    return NotSealed(f"{segment} is being sealed already; wait for that request.")


def no_consumer(number: int) -> NoSuchStream:
    """Explain that a session has no consumer of this number."""
    return NoSuchStream(
        f"The daemon knows no consumer {number} of this client: it was closed or moved to another "
        "stream, or the daemon was restarted. Open the stream again at the cursor's position."
    )


def bad_cursor(number: int, cursor: int, low: int, head: int) -> SpecMismatch:
    """Explain that a cursor went backwards, or beyond what can be read."""
    return SpecMismatch(
        f"Consumer {number} says that its cursor is {cursor}. It is at {low}, and the rows below "
        f"{head} can be read, so only {low} to {head} is possible: a bug of its client. Nothing "
        "was changed."
    )


def not_your_session(session: Session, pid: int) -> AccessDenied:
    """Explain that a session has one process."""
    return AccessDenied(f"This session is process {session.peer.pid}'s, not {pid}'s.")


def removed(block: Block) -> ArraydError:
    """Somebody removed the file of a block that was being written or loaded."""
    what = f"{block.identity}: somebody removed its file from /dev/shm."
    return (
        NoSuchBlock(f"{what} Write it again.")
        if block.published
        else LoadError(f"{what} Ask again.")
    )


def in_use(blocks: Iterable[Block], sessions: Mapping[Nonce, Session], to: Peer) -> InUse:
    """Explain to a process that blocks cannot be evicted: who is using them."""
    user = None if to.admin else to.user
    lines = [f"{b.identity} ({_user(b, sessions, user)})" for b in blocks]
    return InUse(f"In use: {_shorten(lines)}. Release the arrays or end these processes first.")


def no_room(
    job: Job, blocks: BlockTable, sessions: Mapping[Nonce, Session], unfilled: int, now: float
) -> NoRoom:
    """Explain why there is no room for a job."""
    reason = _reason(job, blocks, sessions, unfilled, now)
    return NoRoom(reason, needed=job.size, budget=blocks.budget, charged=blocks.charged)


def _reason(
    job: Job, blocks: BlockTable, sessions: Mapping[Nonce, Session], unfilled: int, now: float
) -> str:
    if job.size > blocks.budget:
        size, budget = format_apart(job.size, blocks.budget)
        return (
            f"{job.identity} needs {size}, more than the whole budget of "
            f"{budget}{blocks.bound.words}. Ask for a part (rows=), for fewer bits (cast=), or "
            f"{blocks.bound.remedy}."
        )
    free = max(0, blocks.budget - blocks.charged)
    system = max(0, blocks.headroom - unfilled)
    size, budget, left = format_apart(job.size, blocks.budget, min(free, system))
    if free <= system:
        bound = blocks.bound
        limit = f"the budget of {budget}{bound.words} has {left} free"
    else:
        bound = blocks.tightest
        limit = f"{bound.words} gives {left}"
    kept = [
        f"{b.identity} {format_bytes(b.size)} ({_user(b, sessions, job.user)})"
        for b in sorted(blocks.unevictable(now), key=lambda b: -b.size)
        if job.user is None or b.user == job.user  # others' are not its business
    ]
    held = f" Not to be evicted: {_shorten(kept)}." if kept else ""
    return f"{job.identity} needs {size}; {limit}.{held} Release arrays, or {bound.remedy}."


def _user(block: Block, sessions: Mapping[Nonce, Session], user: int | None) -> str:
    """Return who uses a block; to another `user` than the daemon's its own processes are named."""
    peers = [sessions[nonce].peer for nonce in block.holders]
    mine = [peer for peer in peers if user is None or peer.uid == user]
    if peers:
        others = len(peers) - len(mine)
        named = [f"{p.pid} {p.program}".strip() for p in mine]
        return "held by " + _shorten([*([f"{others} of other users"] if others else []), *named])
    if block.state is not State.SEALED:
        return str(block.state.value)
    if block.lends:
        return "a reference to it is in flight"
    if block.mapped:
        return "mapped by a process that is no client"
    return "kept" if block.keep else "pinned"


def _shorten(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
