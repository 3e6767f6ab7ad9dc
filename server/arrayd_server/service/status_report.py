"""What `arrayd status` shows: a snapshot of the registry as plain data."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from arrayd.wire import layout, protocol
from arrayd_server.core import users
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.failed_loads import FailedLoad
from arrayd_server.core.model import AwaitedItem, Block, Job, Peer, State
from arrayd_server.core.registry import Registry
from arrayd_server.core.streams import Streams
from arrayd_server.identity import BlockIdentity, of_members
from arrayd_server.service import quota_report

MAX_BLOCKS = 10_000
"""Blocks in one report, or fewer if they have many holders: 0.1 s of the daemon, and 3 MB."""

MAX_WORDS = 300
"""Characters of the first line of an error."""

MAX_JOBS = 100
"""Jobs without a block in one report; of the others only their number is given."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a status says of the daemon itself, besides its registry.

    Parameters
    ----------
    started
        The time, as `build` gets it.
    scope
        The part of segment names that is this daemon's.
    leases
        Whether the kernel tells who maps a segment.
    garbage
        Messages that were none.
    draining
        Nothing new is begun, for it is to stop.
    """

    private: bool
    started: float
    endpoint: str
    scope: str
    leases: bool
    garbage: int
    draining: bool = False


def build(
    registry: Registry, streams: Streams, facts: Facts, caller: Peer, now: float
) -> dict[str, Any]:
    """Return the answer to a status request; ages in seconds, sizes in bytes.

    Another user than the daemon's gets the sums, and of blocks, loads and sessions its own.
    """
    report = _whole(registry, streams, facts, caller, now)
    return _mine(registry, report, caller) if _is_other(caller) else report


def of_some(
    registry: Registry, blocks: Iterable[Block], jobs: Iterable[Job], caller: Peer, now: float
) -> dict[str, Any]:
    """Return what `build` says of blocks and jobs that the caller may be told of."""
    report = {
        "blocks": [_block(registry, block, now) for block in blocks if _is_told(block)],
        "sessions": [],
        "jobs": [_job(registry, job, caller, now) for job in jobs],
    }
    told = _mine(registry, report, caller) if _is_other(caller) else report
    return {key: told[key] for key in ("blocks", "jobs")}


def _is_told(block: Block) -> bool:
    return block.state is not State.SPARE


def _is_other(caller: Peer) -> bool:
    """Say whether a process is told of its own user's alone."""
    return caller.foreign and not caller.admin


def _may_see(caller: Peer, peer: Peer) -> bool:
    return peer.uid == caller.uid or not _is_other(caller)


def bare_jobs(registry: Registry, caller: Peer) -> list[Job]:
    """Return the jobs without a block that a process may be told of: all, or its user's."""
    jobs = registry.jobs
    if not _is_other(caller):
        return [job for job in jobs.table.values() if job.segment is None]
    nonces = [one.nonce for one in registry.sessions.values() if _may_see(caller, one.peer)]
    mine = {job.number: job for nonce in nonces for job in jobs.of_session(nonce)}
    return [job for job in mine.values() if job.segment is None and _of_job(registry, job, caller)]


def _of_job(registry: Registry, job: Job, caller: Peer) -> list[AwaitedItem]:
    """Return what a user waits for of a job."""
    waiters = job.waiters.items()
    return [one for to, one in waiters if registry.sessions[to.nonce].peer.uid == caller.uid]


def asked(registry: Registry, job: Job, caller: Peer) -> list[BlockIdentity]:
    """Return the identities by which a process may be told of a job."""
    if not _is_other(caller) or job.user == caller.uid:
        return [job.identity, *(member.identity for member in job.members)]
    return [one.asked for one in _of_job(registry, job, caller) if one.asked is not None]


def _mine(registry: Registry, report: dict[str, Any], caller: Peer) -> dict[str, Any]:
    """Leave out who else holds what is the caller's, and by which path others have asked for it."""
    return {
        **report,
        "sessions": _of(report["sessions"], caller),
        "blocks": [_part(registry, block, caller) for block in report["blocks"]],
        "jobs": [{**job, "waiters": _of(job["waiters"], caller)} for job in report["jobs"]],
        "streams": [],
    }


def _part(registry: Registry, told: dict[str, Any], caller: Peer) -> dict[str, Any]:
    block = registry.blocks.table[told["segment"]]
    mine = {key: _of(told[key], caller) for key in ("holders", "waiters")}
    holds = users.holds_of(block, caller.uid, registry.sessions)
    asked: BlockIdentity | None = users.shown(block, caller, holds)
    words = "" if asked is None else str(asked)
    return {**told, **mine, "source": words, "path": "" if asked is None else asked.path}


def _of(clients: list[dict[str, Any]], caller: Peer) -> list[dict[str, Any]]:
    return [client for client in clients if client["uid"] == caller.uid]


def _whole(
    registry: Registry, streams: Streams, facts: Facts, caller: Peer, now: float
) -> dict[str, Any]:
    shm = os.statvfs(layout.SHM)
    bare = bare_jobs(registry, caller)
    sessions = [one for one in registry.sessions.values() if _may_see(caller, one.peer)]
    if _is_other(caller):
        blocks = users.told_of(registry.blocks, registry.sessions, caller)[:MAX_BLOCKS]
    else:
        blocks = _chosen(registry.blocks)
    return {
        "version": protocol.PACKAGE_VERSION,
        "pid": os.getpid(),
        "uid": os.geteuid(),
        "private": facts.private,
        "uptime": now - facts.started,
        "endpoint": facts.endpoint,
        "scope": facts.scope,
        "leases": facts.leases,
        "budget": registry.blocks.budget,
        **_sums(registry.blocks),
        "shm_used": (shm.f_blocks - shm.f_bfree) * shm.f_frsize,
        "shm_total": shm.f_blocks * shm.f_frsize,
        "garbage": facts.garbage,
        "draining": facts.draining,
        "counters": asdict(registry.counters),
        "sessions": [
            {**_named(session.peer), "age": now - session.since, "version": session.peer.version}
            for session in sessions
        ],
        "blocks": [_block(registry, block, now) for block in blocks],
        "blocks_more": len(registry.blocks.table) - len(registry.blocks.spares) - len(blocks),
        "jobs": [_job(registry, job, caller, now) for job in bare[:MAX_JOBS]],
        "jobs_more": max(0, len(bare) - MAX_JOBS),
        "streams": [_stream(registry, stream) for stream in streams.describe(now)],
        "users": _users(registry, caller),
        "quotas": quota_report.build(
            registry.blocks.accounts, caller if _is_other(caller) else None, now
        ),
        "failures": [
            _failure(failed, now)
            for failed in registry.jobs.failures.latest(caller.uid if _is_other(caller) else None)
        ],
    }


def _users(registry: Registry, caller: Peer) -> list[dict[str, Any]]:
    """Return what each user holds: of the holds, for there may be very many blocks without.

    A block that two users hold counts for both. Another user than the daemon's has its own sum,
    and what is in use besides, as one: that takes no look at what others hold.
    """
    held: dict[int, set[str]] = {}
    sessions: Counter[int] = Counter()
    for session in registry.sessions.values():
        if _may_see(caller, session.peer):
            held.setdefault(session.peer.uid, set()).update(session.holds)
            sessions[session.peer.uid] += 1
    found = [_user(registry, uid, held[uid], sessions[uid]) for uid in sorted(held)]
    if not _is_other(caller):
        return found
    blocks, mine = registry.blocks, found[0] if found else _user(registry, caller.uid, set(), 0)
    used = len(blocks.table) - len(blocks.idle) - len(blocks.spares)
    others = {
        "uid": None,
        "held": max(0, _sums(blocks)["held"] - mine["held"]),
        "blocks": max(0, used - mine["blocks"]),
        "sessions": len(registry.sessions) - mine["sessions"],
    }
    return [mine, others]


def _user(registry: Registry, uid: int, held: set[str], sessions: int) -> dict[str, Any]:
    size = sum(registry.blocks.table[segment].size for segment in held)
    return {"uid": uid, "held": size, "blocks": len(held), "sessions": sessions}


def _failure(failed: FailedLoad, now: float) -> dict[str, Any]:
    first = failed.error.message.partition("\n")[0]
    return {
        "source": str(failed.identity),
        "error": type(failed.error).__name__,
        "message": first[:MAX_WORDS],
        "age": now - failed.at,
        "askers": [_named(peer) for peer, _ in failed.askers],
    }


def summary(registry: Registry) -> str:
    """Return one line for systemd's status."""
    sums = _sums(registry.blocks)
    blocks = len(registry.blocks.table) - len(registry.blocks.spares)
    return (
        f"{blocks} blocks, {sums['charged'] >> 20} of "
        f"{registry.blocks.budget >> 20} MiB, {len(registry.sessions)} sessions"
    )


def _sums(blocks: BlockTable) -> dict[str, int]:
    idle = blocks.idle_bytes
    spare = blocks.spare_bytes
    held = blocks.charged - idle - spare
    return {"charged": blocks.charged, "idle": idle, "held": held, "spare": spare}


def _chosen(blocks: BlockTable) -> list[Block]:
    """Return the blocks to report, oldest first; if they are too many, idle ones are left out."""
    away = blocks.idle.keys() | blocks.spares.keys()
    used = (block for block in blocks.table.values() if block.segment not in away)
    idle = (blocks.table[segment] for segment in reversed(blocks.idle))
    chosen: list[Block] = []
    room = float(MAX_BLOCKS)
    for block in itertools.chain(used, idle):
        room -= max(1.0, len(block.holders) / 4)
        if room < 0:
            break
        chosen.append(block)
    return sorted(chosen, key=lambda block: block.number)


def _block(registry: Registry, block: Block, now: float) -> dict[str, Any]:
    blocks = registry.blocks
    job = registry.jobs.table.get(block.job or 0)
    array, parts = block.array, block.parts()
    spec = (array and array.spec) or block.spec
    source = (parts[0] if len(parts) == 1 else block).identity.source
    return {
        "number": block.number,
        "segment": block.segment,
        "size": block.size,
        "nbytes": spec.nbytes,
        "shape": spec.shape,
        "descr": spec.descr,
        "order": spec.order,
        "state": _state(block, idle=block.segment in blocks.idle),
        "pinned": block.keep or block.pinned_until > now,
        "done": job.done if job else 0,
        "total": job.total if job else 0,
        "eta": _eta(block, job, now),
        "source": _words(block),
        "members": len(block.members) if array is None else 0,
        "path": source.path if source is not None else "",
        "name": block.name,
        "holders": [_client(registry, n, now - h.since) for n, h in block.holders.items()],
        "waiters": _waiters(registry, job, now) if job else [],
        "lends": len(block.lends),
        "age": now - block.since,
        "unused": now - block.used,
    }


def _eta(block: Block, job: Job | None, now: float) -> float | None:
    """Return the seconds that a load still takes if it goes on as it went; None: unknown."""
    if job is None or not job.done or job.total <= job.done:
        return None
    return (now - block.since) * (job.total - job.done) / job.done


def _words(block: Block) -> str:
    origins = [member.identity for member in block.members]
    return str(of_members(origins) if origins else block.identity)


def _state(block: Block, *, idle: bool) -> str:
    if block.state is not State.SEALED:
        return str(block.state.value)
    if block.holders:
        return "held"
    if block.lends:
        return "lent"
    return "idle" if idle else "stray"


def _job(registry: Registry, job: Job, caller: Peer, now: float) -> dict[str, Any]:
    return {
        "stage": "info" if job.info else str(job.stage.value),
        "source": str(next(iter(asked(registry, job, caller)), "")),
        "size": job.size,
        "waiters": _waiters(registry, job, now),
        "age": now - job.since,
    }


def _waiters(registry: Registry, job: Job, now: float) -> list[dict[str, Any]]:
    return [_client(registry, nonce, now - job.since) for nonce in job.sessions]


def _stream(registry: Registry, described: dict[str, Any]) -> dict[str, Any]:
    identity = described.pop("identity")
    consumers = [_consumer(registry, consumer) for consumer in described.pop("consumers")]
    shown = {"source": str(identity), "order": identity.kind, "windowed": identity.windowed}
    return {**described, **shown, "consumers": consumers}


def _consumer(registry: Registry, described: dict[str, Any]) -> dict[str, Any]:
    return {**described, **_named(registry.sessions[described.pop("nonce")].peer)}


def _client(registry: Registry, nonce: bytes, since: float) -> dict[str, Any]:
    return {**_named(registry.sessions[nonce].peer), "since": since}


def _named(peer: Peer) -> dict[str, Any]:
    return {"pid": peer.pid, "uid": peer.uid, "program": peer.program}
