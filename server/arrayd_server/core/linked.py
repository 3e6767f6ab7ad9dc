"""Sources that are made of more files than the one whose state a request tells.

Equal requests for one may mean different values, so its job and its block are found by their key
alone, which only a probe can tell; and the probe must have begun after the request came.
"""

from __future__ import annotations

from arrayd_server.core.effects import Effect, Probe
from arrayd_server.core.jobs import JobTable
from arrayd_server.core.model import Job, Stage


def part_late(jobs: JobTable, job: Job, now: float) -> list[Effect]:
    """Leave a job to those who came before its probe; probe once more for the others.

    What was found may be older than their requests, and `job` is found by them no more.
    """
    job.linked, aliases = True, jobs.forget_aliases(job)
    late = [(to, waiter) for to, waiter in job.waiters.items() if waiter.late]
    if not late:
        return []
    again = jobs.new(Stage.PROBING, job.identity, now, aliases)
    for to, waiter in late:
        jobs.leave_out(job, to)
        waiter.late = False
        jobs.join(again, to, waiter, now)
    return [Probe(again.number, again.identity)]
