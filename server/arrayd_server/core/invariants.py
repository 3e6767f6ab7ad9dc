"""The ten rules of `registry.py`, as assertions over a whole registry."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from arrayd_server.core.accounts import is_charged
from arrayd_server.core.model import Block, Stage, State
from arrayd_server.core.quotas import Owner

if TYPE_CHECKING:
    from arrayd_server.core.registry import Registry

_STAGES = {
    State.LOADING: {Stage.FILLING, Stage.SEALING},
    State.WRITING: {Stage.MAKING, Stage.WRITING, Stage.SEALING},
}


def check(registry: Registry) -> None:
    """Assert the rules; call it when the effects of the last event have been performed."""
    _budget(registry)
    _blocks(registry)
    _jobs(registry)
    _stages(registry)
    _holds(registry)
    _lends(registry)
    _index(registry)
    _accounts(registry)


def _budget(registry: Registry) -> None:
    blocks = registry.blocks
    assert blocks.charged == sum(b.size for b in blocks.table.values()), "rule 1: charge book"
    assert blocks.charged <= max(blocks.budget, blocks.excused_bytes), "rule 1: over budget"


def _blocks(registry: Registry) -> None:
    blocks = registry.blocks
    for segment, block in blocks.table.items():
        assert segment == block.segment, "rule 6: a block under another name"
        if block.holders:
            assert block.usable, "rule 2: held but not there"
        if block.state in _STAGES:
            job = registry.jobs.table.get(block.job or 0)
            assert job is not None, "rule 3: an unfinished block without a job"
            assert job.segment == segment, "rule 3: the job makes another block"
            assert job.stage in _STAGES[block.state], "rule 3: the job is at another stage"
        else:
            assert block.job is None, "rule 3: a finished block with a job"
        if block.linked and block.state is State.SEALED:
            assert len(block.aliases) == 1, "found by more than its key"
        resting = block.state is State.SEALED and not block.claimed and not block.mapped
        assert resting == (segment in blocks.idle), "rule 4: the idle list"
    of_users = {s for mine in blocks.by_user.values() for s in mine}
    assert of_users == {s for s, b in blocks.table.items() if b.user is not None}, "made for whom"
    assert set(blocks.idle) <= set(blocks.table), "rule 4: idle but gone"
    assert blocks.idle_bytes == sum(blocks.table[s].size for s in blocks.idle), "the idle bytes"
    unlinked = {s for s, block in blocks.table.items() if block.state is State.UNLINKED}
    assert set(blocks.unlinked) == unlinked, "the unlinked blocks"
    spares = {s: block for s, block in blocks.table.items() if block.state is State.SPARE}
    assert blocks.spares == spares, "the spares"
    assert blocks.spare_bytes == sum(b.size for b in spares.values()), "the bytes of spares"
    assert not any(b.claimed or b.mapped or b.aliases for b in spares.values()), "a spare in use"
    heirs = [b.heir for b in blocks.table.values() if b.heir is not None]
    assert not {blocks.name(heir) for heir in heirs} & set(blocks.table), "rule 6: an heir's name"
    assert all(b.heir is None for b in blocks.table.values() if b.state is not State.UNLINKED)
    ends = map(registry.holds.expires_at, blocks.table.values())
    assert registry.holds.wake_at() == min(ends, default=math.inf), "the alarm of lends and pins"
    of_files = {
        (file, segment, id(part))
        for file, alike in blocks.files.items()
        for segment, parts in alike.items()
        for part in parts
    }
    assert of_files == {
        (part.edition.file, block.segment, id(part))
        for block in blocks.table.values()
        for part in block.parts()
        if part.edition is not None
    }, "the blocks of files"
    numbers = [b.number for b in blocks.table.values()]
    assert len(numbers) == len(set(numbers)), "rule 6: a number used twice"


def _jobs(registry: Registry) -> None:
    for number, job in registry.jobs.table.items():
        assert number == job.number, "rule 3: a job under another number"
        if job.segment is not None:
            block = registry.blocks.table.get(job.segment)
            assert block is not None, "rule 3: a job without its block"
            assert block.job == number, "rule 3: two jobs for one block"
        else:
            assert job.stage in (Stage.PROBING, Stage.AWAITING, Stage.QUEUED), "rule 3: no block"
        members = [w.member for w in job.waiters.values() if w.member is not None]
        assert all(member in job.members for member in members), "rule 9: not one of its members"
        assert len(members) == len(job.waiters) or not job.members, "rule 9: for no member"
        if job.stage is not Stage.WRITING and job.writer is None:
            assert job.waiters or job.detached, "rule 3: for nobody"
        for to in job.waiters:
            assert to.nonce in registry.sessions, "rule 8: a waiter of no session"
        assert job.sessions == Counter(to.nonce for to in job.waiters), "whose waiters they are"


def _stages(registry: Registry) -> None:
    jobs, table = registry.jobs, registry.jobs.table.values()
    queued = [job for job in table if job.stage is Stage.QUEUED]
    assert jobs.queued() == queued, "the queue"
    reserved = (job for job in table if job.stage in (Stage.FILLING, Stage.MAKING))
    assert jobs.unfilled == sum(job.unfilled for job in reserved), "the bytes still to come"
    pairs = {(to.nonce, j.number) for j in table for to in (*j.waiters, *filter(None, [j.writer]))}
    known = {(nonce, number) for nonce, some in jobs.by_session.items() for number in some}
    assert pairs == known, "the jobs of a session"
    waiting = Counter(to.nonce for job in table for to in job.waiters)
    assert jobs.awaited == waiting, "what sessions wait for"
    assert jobs.all_awaited == waiting.total(), "what all wait for"
    names = [j.draft.name for j in table if j.draft is not None and j.draft.name is not None]
    assert jobs.drafted == Counter(names), "the names to be published"
    checks = [job.next_check for job in queued]
    spares = registry.blocks.spares.values()
    ends = [spare.since + registry.holds.spares.seconds for spare in spares]
    assert registry.admission.wake_at() == min([*checks, *ends], default=math.inf), "the alarm"


def _holds(registry: Registry) -> None:
    blocks = registry.blocks.table
    for nonce, session in registry.sessions.items():
        for segment, hold in session.holds.items():
            assert segment in blocks, "rule 2: a hold without a segment"
            assert blocks[segment].holders.get(nonce) is hold, "rule 5: hold known at one end"
    for block in blocks.values():
        for nonce, hold in block.holders.items():
            assert nonce in registry.sessions, "rule 5: a holder without a session"
            held = registry.sessions[nonce].holds.get(block.segment)
            assert held is hold, "rule 5: holder known at one end"
        peers = (registry.sessions[nonce].peer for nonce in block.holders)
        assert {p.uid for p in peers if p.foreign} <= block.readers, "rule 10: a holder is left out"
        assert not (block.readers and block.segment in registry.blocks.idle), "rule 10: idle"
        mine = set() if block.user is None else {block.user}
        assert block.readers <= mine or not block.members, "rule 10: members are one user's"


def _lends(registry: Registry) -> None:
    sent = {(nonce, *lend) for nonce, s in registry.sessions.items() for lend in s.lends}
    known = set()
    for segment, block in registry.blocks.table.items():
        assert not block.asking, "a question without an answer"
        assert block.orphans.keys() <= block.lends.keys(), "an orphan that was not lent"
        dues = list(block.orphans.values())
        assert dues == sorted(dues), "the orphans in order"
        times = [lend.since for lend in block.lends.values()]
        assert times == sorted(times), "the lends in order"
        for token in block.lends.keys() - block.orphans.keys():
            known.add((block.lends[token].sender, segment, token))
    assert known == sent, "rule 5: a reference known at one end"


def _accounts(registry: Registry) -> None:
    """Assert that what counts in quotas is what a walk over everything finds."""
    accounts, blocks = registry.blocks.accounts, registry.blocks
    charged = [block for block in blocks.table.values() if is_charged(block)]
    sums: dict[Owner, tuple[int, int]] = {}
    for block in charged:
        for owner in accounts.where(block):
            nbytes, number = sums.get(owner, (0, 0))
            sums[owner] = (nbytes + block.size, number + 1)
    assert {o: (s.bytes, s.blocks) for o, s in accounts.sums.items()} == sums, "what users have"
    assert accounts.above == {o for o in sums if accounts.surplus(o) > 0}, "above a soft limit"
    pinned = Counter[int | None]()
    for block in charged:
        if block.keep or block.pinned_until > accounts.pins.now:
            pinned[block.user] += block.size
    assert accounts.pins.bytes == pinned, "what is pinned"
    idle = {s: None for mine in accounts.idle.values() for s in mine}
    assert idle.keys() == blocks.idle.keys(), "the idle blocks of users"
    assert all(b.user == user for user, mine in accounts.idle.items() for b in mine.values())
    uids = Counter(one.peer.uid for one in registry.sessions.values() if not one.peer.own)
    assert accounts.sessions == uids, "the sessions of users"
    loads = {n for mine in accounts.loads.values() for n in mine}
    assert loads <= registry.jobs.table.keys(), "a load that is over"
    assert all(job.user == user for user, mine in accounts.loads.items() for job in mine.values())


def _index(registry: Registry) -> None:
    blocks = registry.blocks
    for alias, (segment, member) in blocks.aliases.items():
        assert segment in blocks.table, "an alias of a block that is gone"
        block = blocks.table[segment]
        assert block.state is State.SEALED, "an alias of an unsealed block"
        assert member in block.members if block.members else member is None, "rule 9: of no member"
        assert alias in (member or block).aliases, "an alias its block does not know"
    for block in blocks.table.values():
        assert not (block.members and block.aliases), "rule 9: an alias of all members"
        if block.state is State.SEALED:
            _laid_out(block)


def _laid_out(block: Block) -> None:
    """Assert that the members of a block lie in it, one behind the other."""
    end = 0
    for member in block.members:
        assert member.spec is not None, "rule 9: a member that is not there"
        assert end <= member.offset, "rule 9: members overlap"
        assert member.spec.nbytes <= member.room, "rule 9: a member outgrew its room"
        end = member.offset + member.room
    assert end <= block.spec.nbytes or not block.members, "rule 9: a member outside of its block"
