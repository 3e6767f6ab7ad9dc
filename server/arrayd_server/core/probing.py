"""What becomes of a job when it is known what its source holds."""

from __future__ import annotations

from arrayd_server.core.admission import Admission
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.effects import Cancel, Effect
from arrayd_server.core.holds import Holds
from arrayd_server.core.jobs import JobTable
from arrayd_server.core.linked import split_off_late
from arrayd_server.core.model import Job, ProbedFacts, Stage


class Probing:
    """The step from a probe to a block, which may be there already, or on its way."""

    def __init__(
        self, blocks: BlockTable, holds: Holds, jobs: JobTable, admission: Admission
    ) -> None:
        self._blocks = blocks
        self._holds = holds
        self._jobs = jobs
        self._admission = admission

    def answered(self, job: Job, found: ProbedFacts, now: float) -> list[Effect]:
        """Let a job wait for room for its block, or join what makes or has the same block."""
        effects = self._holds.outdate(job.edition, now)
        effects += split_off_late(self._jobs, job, now) if found.linked else []
        if not job.waiters and not job.detached:
            return effects + self._jobs.end(job)
        block, other = self._blocks.find(found.key), self._jobs.find(found.key)
        if block is not None:
            block.outdated = False
            return [*effects, Cancel(job.number), *self._jobs.finish(job, block, now)]
        if other is not None and other is not job:
            return [*effects, Cancel(job.number), *self._jobs.merge(job, other, now)]
        self._jobs.add_alias(job, found.key)
        job.spec, job.size, job.total = found.spec, found.size, found.rows
        timeout = max((waiter.timeout for waiter in job.waiters.values()), default=1.0)
        self._jobs.enter(job, Stage.QUEUED)
        return effects + self._admission.admit(job, timeout, now)
