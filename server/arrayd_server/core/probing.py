"""Jobs whose source is looked at: what a file holds, and what becomes of the job then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arrayd_server.core.admission import Admission
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.effects import Cancel, Describe, Effect, Reply, Result
from arrayd_server.core.holds import Holds
from arrayd_server.core.jobs import JobTable
from arrayd_server.core.linked import split_off_late
from arrayd_server.core.model import Asker, AwaitedItem, Job, ProbedFacts, Stage


class Probing:
    """The step from a probe to an answer, or to a block: it may be there, or on its way."""

    def __init__(
        self, blocks: BlockTable, holds: Holds, jobs: JobTable, admission: Admission
    ) -> None:
        self._blocks = blocks
        self._holds = holds
        self._jobs = jobs
        self._admission = admission

    def describe(self, to: Asker, identity: Any, now: float) -> list[Effect]:
        """Let a session wait for what a file holds; who asks again waits for the same."""
        question = ("info", to)
        if self._jobs.find(question) is not None:
            return []
        peer = self._holds.sessions[to.nonce].peer
        refusal = self._holds.quotas.load(peer, identity, now)
        if refusal is not None:
            return [Reply(to, refusal)]
        job = self._jobs.new(Stage.PROBING, identity, now, [question])
        self._jobs.assign(job, peer.user)
        job.info = True
        self._jobs.join(job, to, AwaitedItem(), now)
        return [Describe(job.number, identity)]

    def described(self, job: Job, fields: Mapping[str, Any]) -> list[Effect]:
        """Answer who waits for what a file holds."""
        self._jobs.remove(job)
        return [Reply(to, Result(fields)) for to in job.waiters]

    def answered(self, job: Job, found: ProbedFacts, now: float) -> list[Effect]:
        """Let a job wait for room for its block, or join what makes or has the same block."""
        effects = self._holds.outdate(job.edition, now)
        effects += split_off_late(self._jobs, job, now) if found.linked else []
        if not job.waiters and not job.detached:
            return effects + self._jobs.end(job)
        place, other = self._blocks.locate(found.key), self._jobs.find(found.key)
        if place is not None and self._holds.may_grant(place, job.sessions):
            place.part.outdated = False
            return [*effects, Cancel(job.number), *self._jobs.finish(job, place, now)]
        if other is not None and other is not job:
            return [*effects, Cancel(job.number), *self._jobs.merge(job, other, now)]
        self._jobs.add_alias(job, found.key)
        job.spec, job.size, job.total = found.spec, found.size, found.rows
        timeout = max((waiter.timeout for waiter in job.waiters.values()), default=1.0)
        self._jobs.enter(job, Stage.QUEUED)
        return effects + self._admission.admit(job, timeout, now)
