"""Sources that are made of several files (HDF5 with external links, say).

A request says the state of one file only, so equal requests may mean different values. The job
and the block of such a source are found by their key alone, which a probe finds out; and a request
is served by no probe that began before it came.
"""

from __future__ import annotations

from arrayd_server.core.effects import Effect, Probe
from arrayd_server.core.jobs import JobTable
from arrayd_server.core.model import Job, Stage


def split_off_late(jobs: JobTable, job: Job, now: float) -> list[Effect]:
    """Keep of a job's waiters those who came before its probe; probe once more for the others.

    What the probe found may be older than their requests.
    """
    job.linked, aliases = True, jobs.forget_aliases(job)
    late = [(to, waiter) for to, waiter in job.waiters.items() if waiter.late]
    if not late:
        return []
    again = jobs.new(Stage.PROBING, job.identity, now, aliases)
    for to, waiter in late:
        jobs.remove_waiter(job, to)
        waiter.late = False
        jobs.join(again, to, waiter, now)
    return [Probe(again.number, again.identity)]
