"""References in flight: what was sent is kept for whoever may still redeem it.

A message may lie in a queue for hours, so no clock ends a lend while its sender's session lives.
When that has ended, others may have the message: those who wait for a child's results, or read
from a queue that outlives it. They belong to the sender's process group, as a rule: it is what a
shell, a batch system or a notebook server starts as one job. So after `LEND_SECONDS`, and again
and again, the kernel is asked whether anybody of the group is left. A lend ends with the last
one; for somebody of another group `LEND_SECONDS` must do.

What nobody will ever redeem stays, then, as long as the job: results thrown away, a queue that
is not read to its end. That is what the last rule is for: when room is needed and nothing idle
makes it, blocks that are only lent, and whose latest lend is older than `LEND_SECONDS`, go too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping

from arrayd_server.core.effects import Effect, Trace
from arrayd_server.core.model import Block, Lend, Session, State

LEND_SECONDS = 60.0
"""How long a reference keeps its block when its sender is gone, and when room is needed."""

MAX_LENDS = 1024
"""References in flight that are remembered of one block."""


def lend(session: Session, block: Block, token: bytes, now: float) -> list[tuple[Lend, bytes]]:
    """Keep a block while a reference to it travels; return the lends that this one ends."""
    known = block.lends.get(token)
    ended = [] if known is None else [(known, token)]
    if known is None and len(block.lends) >= MAX_LENDS:
        oldest = next(iter(block.lends))  # any one of them keeps the block
        ended.append((block.lends[oldest], oldest))
    for _, other in ended:
        del block.lends[other]
        block.orphans.pop(other, None)
    block.lends[token] = Lend(session.nonce, session.peer.group, now, session.peer.user)
    return ended


def ask(block: Block, now: float) -> list[Effect]:
    """Ask who is left of the senders of a block's references that are due."""
    late = [token for token, _ in itertools.takewhile(lambda o: o[1] <= now, block.orphans.items())]
    if not late:
        return []
    block.asking = True
    return [Trace(block.segment, frozenset(block.lends[token].group for token in late))]


def answer(block: Block, groups: Mapping[int, bool], now: float) -> list[bytes]:
    """Return the tokens that nobody can redeem any more: their process groups have ended."""
    block.asking = False
    late = list(itertools.takewhile(lambda o: o[1] <= now, block.orphans.items()))
    over: list[bytes] = []
    for token, _ in late:
        lives = groups.get(block.lends[token].group)
        if lives:
            del block.orphans[token]
            block.orphans[token] = now + LEND_SECONDS  # put last: all last equally long
        elif lives is not None:
            over.append(token)
    return over


def next_question(block: Block) -> float:
    """When to ask who may still redeem a block's references; inf: never, or asked already."""
    return math.inf if block.asking else next(iter(block.orphans.values()), math.inf)


def latest(block: Block) -> float:
    """When a reference to a block was last sent, of those in flight; -inf: there are none."""
    last = next(reversed(block.lends.values()), None)
    return -math.inf if last is None else last.since


def spare(blocks: Iterable[Block], now: float) -> list[Block]:
    """Return the blocks that only old references keep, in the order in which to unlink them.

    What can be loaded again comes first, then what was sent first.
    """
    lent = [block for block in blocks if _only_lent(block, now)]
    return sorted(lent, key=lambda block: (block.published, latest(block)))


def _only_lent(block: Block, now: float) -> bool:
    """Say whether only references keep a block, all sent long ago."""
    return (
        block.state is State.SEALED
        and bool(block.lends)
        and not block.holders
        and not block.keep
        and block.pinned_until <= now
        and now - latest(block) >= LEND_SECONDS
    )
