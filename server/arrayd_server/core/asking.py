"""Requests for arrays: what is in memory is granted, what is on its way joined, the rest begun."""

from __future__ import annotations

from arrayd.errors import NoRoom
from arrayd_server.core import error_texts, users
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.counters import Counters
from arrayd_server.core.effects import Effect, Probe, Reply, Result
from arrayd_server.core.holds import Holds
from arrayd_server.core.jobs import JobTable
from arrayd_server.core.model import Asker, AwaitedItem, Block, Job, Stage, Wanted


class Asking:
    """What becomes of a request for one source."""

    def __init__(
        self, blocks: BlockTable, holds: Holds, jobs: JobTable, counters: Counters
    ) -> None:
        self._blocks = blocks
        self._holds = holds
        self._jobs = jobs
        self._counters = counters

    def get(self, to: Asker, wanted: Wanted, waiter: AwaitedItem, now: float) -> list[Effect]:
        """Grant an array, or let `to` wait for the job that makes it."""
        place, waiter.whole_source = wanted.served_by(self._blocks.locate)
        if place is not None and self._is_hidden(wanted, place.block, to):
            return [Reply(to, error_texts.no_such_name(str(wanted.name)))]
        if place is not None and self._holds.may_grant(place, [to.nonce]):
            self._counters.hits += 1
            place.part.outdated = False  # the file may be again what it was
            waiter.member = place.member
            return self._holds.grant(place.block, to, waiter, now)
        if wanted.name is not None and waiter.timeout <= 0:
            return [Reply(to, error_texts.no_such_name(wanted.name))]
        found, whole = wanted.served_by(self._jobs.locate)
        job, member = found or (None, None)
        peer = self._holds.sessions[to.nonce].peer
        if job is not None and (member is None or (peer.members and peer.user == job.user)):
            self._counters.joins += 1
            known = job.waiters.get(to, AwaitedItem(late=True))
            waiter.late = job.stage is Stage.PROBING and known.late
            waiter.member, waiter.whole_source = member, whole
            self._jobs.join(job, to, waiter, now)
            return []
        waiter.member, waiter.whole_source = None, False
        refusal = self._refusal(to, wanted, now)
        if refusal is not None:
            return [Reply(to, refusal)]
        job, effects = self._begin(to, wanted, now)
        self._jobs.join(job, to, waiter, now)
        return effects

    def prefetch(
        self, to: Asker, wanted: Wanted, now: float, *, bound: bool = False
    ) -> list[Effect]:
        """Have an array loaded that nobody waits for; `bound`: as long as the session lasts."""
        block = wanted.served_by(self._blocks.find)[0]
        if block is not None and not self._is_hidden(wanted, block, to):
            return [Reply(to, Result({"resident": True}))]
        if wanted.name is not None:
            return [Reply(to, error_texts.no_such_name(wanted.name))]
        job, member = wanted.served_by(self._jobs.locate)[0] or (None, None)
        effects: list[Effect] = []
        if job is None:
            refusal = self._refusal(to, wanted, now)
            if refusal is not None:
                return [Reply(to, refusal)]
            job, effects = self._begin(to, wanted, now)
        if bound:
            self._jobs.join(job, to, AwaitedItem(ahead=True, member=member), now)
        else:
            job.detached = True
        return [Reply(to, Result({"resident": False})), *effects]

    def _is_hidden(self, wanted: Wanted, block: Block, to: Asker) -> bool:
        """Say whether a published block is another user's, and not shared with who asks."""
        peer = self._holds.sessions[to.nonce].peer
        return wanted.name is not None and not users.may_use(block, peer)

    def _refusal(self, to: Asker, wanted: Wanted, now: float) -> NoRoom | None:
        """Return why no load may begin for a session; to wait for a name is none."""
        peer = self._holds.sessions[to.nonce].peer
        return self._holds.quotas.load(peer, wanted.identity, now) if wanted.name is None else None

    def _begin(self, to: Asker, wanted: Wanted, now: float) -> tuple[Job, list[Effect]]:
        """Have a source looked at, or its name waited for, by a job of its own."""
        stage = Stage.PROBING if wanted.name is None else Stage.AWAITING
        job = self._jobs.new(stage, wanted.identity, now, [wanted.alias])
        job.edition = wanted.edition
        self._jobs.assign(job, self._holds.sessions[to.nonce].peer.user)
        return job, [Probe(job.number, wanted.identity)] if stage is Stage.PROBING else []
