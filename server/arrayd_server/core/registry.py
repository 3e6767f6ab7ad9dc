"""Every rule of a block's life. Pure: events and the time go in, effects come out.

No socket, file, clock, thread or lock is known here. Each public method is an event;
it changes the state and returns the effects that `service.executor` performs, whose results
come back as further events. The rules, asserted by `invariants.check`:

1. Charged bytes never exceed max(budget, bytes there when it was set): a block is charged
   before it is made, and credited only when the kernel, or another block, has its pages.
2. A held block has a segment and is never evicted; a hold counts from its decision. The
   kernel overrules holds upwards (nobody holds it, but it is mapped: it stays) and, when
   room is needed, downwards (holds older than `STALE_AFTER` on a block nobody maps go).
3. Every block is sealed, unlinked, or has exactly one job in flight.
4. The idle list is exactly the sealed blocks with no holder, no lend and no mapper.
5. ``session.holds`` and ``block.holders`` are one relation seen from both ends; so are lends.
6. Segment names are never used twice.
7. Repeating a request changes nothing: one hold per session and block, numbered grants and
   claims, and a release that names an older one than the latest does not end it, be it of
   another run.
8. An unknown session (see `admit`), block or hold is an answer, never an assertion.
9. The members of a block (see `members`) share its life. An alias leads to one of them, or to a
   block without any; a member is granted only to a session that understands that.
10. A user other than the daemon's may open the segments that it holds, and no others (`users`).

Of the arguments, `now` is in seconds of a clock that never goes back, `number` is a job's, `to` is
whom to answer, sizes are bytes of whole segments. An event that comes too late changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from arrayd.errors import ArraydError, NoRoom
from arrayd_server.core import bounds, error_texts, lifecycle, users
from arrayd_server.core.admission import Admission
from arrayd_server.core.asking import Asking
from arrayd_server.core.blocks import BlockTable, Naming
from arrayd_server.core.bounds import Bound
from arrayd_server.core.counters import Counters
from arrayd_server.core.effects import Answer, Cancel, Effect, Inspect, Reply, Seal
from arrayd_server.core.evict_requests import Evictions
from arrayd_server.core.holds import Holds
from arrayd_server.core.jobs import RESERVED, JobTable
from arrayd_server.core.members import Members, Places
from arrayd_server.core.model import (
    Asker,
    AwaitedItem,
    Block,
    Claims,
    Draft,
    Job,
    LoadedMember,
    Nonce,
    Peer,
    Place,
    ProbedFacts,
    Release,
    Session,
    Stage,
    State,
    Wanted,
)
from arrayd_server.core.probing import Probing
from arrayd_server.core.publishing import Publishing


class Registry:
    """All state of the daemon, and the only one to change it.

    Parameters
    ----------
    name
        How segments are called; no other run of the daemon calls one alike.
    budget, bound
        Bytes the daemon may keep in segments, and what sets this limit.
    """

    def __init__(self, name: Naming, budget: int, bound: Bound = bounds.GIVEN) -> None:
        self.counters = Counters()
        self.blocks = BlockTable(name, budget, bound)
        self.holds = Holds(self.blocks, self.counters)
        self.jobs = JobTable(self.blocks, self.holds)
        self.admission = Admission(self.blocks, self.holds, self.jobs)
        self.probing = Probing(self.blocks, self.holds, self.jobs, self.admission)
        self.members = Members(self.blocks, self.holds, self.jobs, self.admission)
        self.asking = Asking(self.blocks, self.holds, self.jobs, self.counters)
        self.publishing = Publishing(self.blocks, self.holds, self.jobs)
        self.evictions = Evictions(self.blocks, self.holds)

    @property
    def sessions(self) -> dict[Nonce, Session]:
        """The open sessions."""
        return self.holds.sessions

    @property
    def waits_for_room(self) -> bool:
        """Whether a job waits for room: any event may start it, if `headroom` tells of enough."""
        return bool(self.jobs.queued())

    def block(self, segment: str) -> tuple[Block | None, Job | None]:
        """Return the block in a segment, and the job that makes it, if there is one."""
        block = self.blocks.table.get(segment)
        return block, None if block is None else self.jobs.table.get(block.job or 0)

    # ---- sessions ------------------------------------------------------------------------

    def admit(self, nonce: Nonce, pid: int, uid: int) -> Answer | None:
        """Return why a request (but an unknown session's hello) goes no further; None: it does."""
        return self.holds.admit(nonce, pid, uid)

    def hello(
        self, to: Asker, peer: Peer, holds: Iterable[str], latest: int, now: float
    ) -> list[Effect]:
        """Hello from a client: open its session, or replace the holds known of it.

        `holds` are the segments that it maps, `latest` the highest number of a grant that it
        has seen, be it of an earlier run of the daemon; the answer has the new numbers.
        """
        session = self.holds.open(to.nonce, peer, now)
        return self.holds.restate(session, to, holds, latest, now)

    def ended(self, nonce: Nonce, now: float) -> list[Effect]:
        """Session `nonce` has ended: it said goodbye, or its process died."""
        if (session := self.sessions.get(nonce)) is None:
            return []
        effects = self.jobs.forget(nonce) + self.holds.end(session, now)
        return effects + self.admission.start_queued(now)

    # ---- requests ------------------------------------------------------------------------

    def get(self, to: Asker, wanted: Wanted, waiter: AwaitedItem, now: float) -> list[Effect]:
        """Someone asks for an array: grant it, or let `to` wait for the job that makes it.

        A name that nothing is published under is waited for only with a timeout.
        """
        self.counters.requests += 1
        return self.asking.get(to, wanted, waiter, now)

    def get_together(
        self, identity: Any, size: int | None, asks: Sequence[tuple[Asker, AwaitedItem]], now: float
    ) -> list[Effect]:
        """Someone asks for small files: load them into one block, see `members`.

        `size` is None where they are to be measured first. Each of `asks` says which member it
        wants; no request could be served with one of them.
        """
        self.counters.requests += len(asks)
        return self.members.load(identity, size, asks, now)

    def prefetch(
        self, to: Asker, wanted: Wanted, now: float, *, bound: bool = False
    ) -> list[Effect]:
        """Someone asks for a load, and does not wait for it: the answer comes at once."""
        return self.asking.prefetch(to, wanted, now, bound=bound)

    def info(self, to: Asker, identity: Any, now: float) -> list[Effect]:
        """Someone asks what a file holds: no block comes of it. Repeated, it is one question."""
        return self.probing.describe(to, identity, now)

    def cancel(self, nonce: Nonce, request: int, now: float) -> list[Effect]:
        """Nobody waits for a session's request any more."""
        return self.jobs.forget(nonce, request) + self.admission.start_queued(now)

    def claim(self, nonce: Nonce, claims: Claims, now: float) -> list[Effect]:
        """Session `nonce` says what it has attached without asking, as the index allows."""
        if nonce in self.sessions:
            self.holds.claim(self.sessions[nonce], claims, now)
        return []

    def release(self, nonce: Nonce, holds: Iterable[Release], now: float) -> list[Effect]:
        """Session `nonce` gives holds back, each with the grant and the claim that it means.

        A block granted again since stays held: the client has yet to see that grant (rule 7).
        """
        if (session := self.sessions.get(nonce)) is None:
            return []
        return self.holds.release(session, holds, now) + self.admission.start_queued(now)

    def lend(self, nonce: Nonce, segment: str, token: bytes, now: float) -> list[Effect]:
        """Session `nonce` has sent a reference, named `token`, to a block that it holds."""
        if (session := self.sessions.get(nonce)) is not None and segment in session.holds:
            self.holds.lend(session, self.blocks.table[segment], token, now)
        return []

    def redeem(self, to: Asker, segment: str, token: bytes, now: float) -> list[Effect]:
        """Session of `to` has received a reference: it holds that block from now on.

        The answer to an unknown segment is NoSuchBlock. An unknown token does no harm.
        """
        block, peer = self.blocks.table.get(segment), self.sessions[to.nonce].peer
        if block is None or not block.usable or not users.may_redeem(block, peer, token):
            return [Reply(to, error_texts.no_block(segment))]
        return self.holds.receive(block, to, token, now)

    def evict(self, to: Asker, matches: Callable[[Block], bool]) -> list[Effect]:
        """Free the matching blocks of the asker, kept and pinned ones too, unless one is in use."""
        return self.evictions.begin(to, matches)

    # ---- blocks that clients write -------------------------------------------------------

    def create(self, to: Asker, draft: Draft, timeout: float, now: float) -> list[Effect]:
        """Someone wants to write a block, and waits up to `timeout` seconds for room."""
        begun = next((job for job in self.jobs.of_session(to.nonce) if job.writer == to), None)
        if begun is not None:
            return self.publishing.grant_to_writer(begun, now)  # repeated
        if draft.name is not None and not draft.replace and self.publishing.name_taken(draft.name):
            return [Reply(to, error_texts.name_taken(draft.name))]
        job = self.jobs.new(Stage.QUEUED, draft.identity, now, [])
        self.jobs.assign(job, self.sessions[to.nonce].peer.user)
        self.jobs.set_draft(job, draft)
        self.jobs.set_writer(job, to)
        return self.admission.admit(job, timeout, now)

    def made(self, number: int, now: float) -> list[Effect]:
        """Segment and pages of a client's block are there: the client may write."""
        if (job := self.jobs.at(number, Stage.MAKING)) is None:
            return []
        self.jobs.enter(job, Stage.WRITING)
        return self.publishing.grant_to_writer(job, now)

    def seal(self, to: Asker, segment: str, now: float) -> list[Effect]:
        """Someone has written a block, and asks to make it final."""
        return self.publishing.seal(to, segment, now)

    def unsealable(self, number: int, error: ArraydError, now: float) -> list[Effect]:
        """Somebody can still write to a block: its writer gets `error`, and may try again."""
        if (job := self.jobs.at(number, Stage.SEALING)) is None:
            return []
        return self.publishing.unsealable(job, error) or self.failed(number, error, now)

    def abort(self, nonce: Nonce, segment: str, now: float) -> list[Effect]:
        """Session `nonce` gives up the block that it writes."""
        job = self.publishing.written_by(nonce, segment)
        return self.jobs.end(job) + self.admission.start_queued(now) if job else []

    # ---- loads ---------------------------------------------------------------------------

    def probed(self, number: int, found: ProbedFacts, now: float) -> list[Effect]:
        """Job `number` has been probed: let it wait for room, or join what is there already."""
        if number not in self.jobs.table:
            return [Cancel(number)]
        job = self.jobs.at(number, Stage.PROBING)
        return [] if job is None else self.probing.answered(job, found, now)

    def measured(self, number: int, places: Places, size: int, now: float) -> list[Effect]:
        """Job `number` has measured its members: these go into a block of `size`, at `places`."""
        job = self.jobs.at(number, Stage.PROBING)
        return [] if job is None else self.members.measured(job, places, size, now)

    def described(self, number: int, fields: Mapping[str, Any]) -> list[Effect]:
        """Job `number` was to find out what a file holds, and has: these `fields`."""
        job = self.jobs.at(number, Stage.PROBING)
        return self.probing.described(job, fields) if job else []

    def progress(self, number: int, rows: int, now: float) -> list[Effect]:
        """Job `number` has loaded so many rows more."""
        return self.jobs.advance(job, rows, now) if (job := self.jobs.table.get(number)) else []

    def filled(self, number: int, lost: int) -> list[Effect]:
        """Job `number` has written all rows; the cast has changed `lost` of the values."""
        job = self.jobs.at(number, Stage.FILLING)
        if job is None or job.segment is None:
            return []
        self.jobs.enter(job, Stage.SEALING)
        self.blocks.table[job.segment].lost = lost
        return [Seal(job.number, job.segment)]

    def loaded(self, number: int, found: Mapping[int, LoadedMember], now: float) -> list[Effect]:
        """Job `number` has read its members: these, by position; the others it could not."""
        job = self.jobs.at(number, Stage.FILLING)
        return [] if job is None else self.members.loaded(job, found, now)

    def sealed(self, number: int, now: float) -> list[Effect]:
        """Job `number` has sealed its block: grant it to all who wait."""
        job = self.jobs.at(number, Stage.SEALING)
        if job is None or job.segment is None:
            return []
        block = self.blocks.table[job.segment]
        lifecycle.set_state(block, State.SEALED)
        block.job, block.used, block.mapped = None, now, False
        effects = self.publishing.rewrite_older(job) + self.jobs.finish(job, Place(block), now)
        if job.draft is not None:
            self.counters.published += 1
            effects += self.publishing.publish(job, block, now)
        else:
            self.counters.loads += len(block.members) or 1
        if not block.claimed:
            effects += self.holds.retire(block, now)
        return effects + self.admission.start_queued(now)

    def failed(self, number: int, error: ArraydError, now: float) -> list[Effect]:
        """Job `number` cannot be done: everyone who waits gets `error`.

        But where the kernel had no pages for a block it is tried once more, and nobody hears
        of the first time. Members are loaded alone.
        """
        if (job := self.jobs.table.get(number)) is None:
            return []
        if job.members:
            return self.jobs.scatter(job, now) + self.admission.start_queued(now)
        if isinstance(error, NoRoom) and job.stage in RESERVED and not job.retried:
            return self.admission.retry(job, now)
        self.counters.failures += not job.info
        return self.jobs.fail(job, error, now) + self.admission.start_queued(now)

    # ---- what the kernel says ------------------------------------------------------------

    def headroom(self, free: int, tightest: Bound) -> None:
        """/dev/shm and the memory cgroup still give `free` bytes; `tightest` gives no more."""
        self.blocks.headroom, self.blocks.tightest = free, tightest

    def inspected(self, segment: str, mapped: bool, now: float) -> list[Effect]:
        """Somebody maps a block, or nobody does: the kernel was asked."""
        block = self.blocks.table.get(segment)
        if block is None or not block.usable:
            return []
        dropped = not mapped and self.jobs.queued() and self.holds.drop_stale(block, now)
        if block.claimed:  # after `drop_stale` perhaps by references alone
            return self.admission.search_again(now) if dropped and not block.holders else []
        block.mapped = mapped
        if mapped:
            self.blocks.unmark_idle(block)
            return self.admission.start_queued(now)
        job = self.publishing.of_writer(block)
        if job is not None and job.stage is not Stage.WRITING:
            return []  # a request is under way, whose end decides
        ending = self.holds.retire(block, now) if job is None else self.jobs.end(job, force=False)
        return ending + self.admission.start_queued(now)

    def traced(self, segment: str, groups: Mapping[int, bool], now: float) -> list[Effect]:
        """Process groups were looked for: whether each has any process left."""
        block = self.blocks.table.get(segment)
        return self.holds.traced(block, groups, now) if block else []

    def unlink_refused(self, segment: str, now: float) -> list[Effect]:
        """Somebody maps a block, so it was not unlinked: it stays."""
        block = self.blocks.table.get(segment)
        if block is None or block.state is not State.UNLINKED:
            return []
        block.mapped = True
        if block.draft is None:
            self.blocks.restore(block, State.SEALED)
            self.blocks.index(block)
        else:
            self.blocks.restore(block, State.WRITING)
            self.publishing.resume(block, now)
        # The shell watches what it finds mapped, and says when the last mapper has gone.
        return [Inspect(segment), *self.evictions.decided(block)]

    def still_mapped(self, segment: str) -> list[Effect]:
        """Somebody still maps an unlinked block: it stays charged until `freed`."""
        block = self.blocks.table.get(segment)
        if block is None or block.state is not State.UNLINKED:
            return []
        self.blocks.mark_mapped(block)
        self.admission.recheck_queue()
        return self.evictions.decided(block)

    def segment_removed(self, segment: str, now: float) -> list[Effect]:
        """Somebody has removed a block's file: nobody can attach to it any more.

        Who waits for an unfinished one gets an error; a sealed one lives on with its mappers.
        """
        block = self.blocks.table.get(segment)
        if block is None or not block.usable:
            return []
        if block.job is not None:
            return self.failed(block.job, error_texts.removed(block), now)
        return self.holds.unlink(block, force=True)

    def freed(self, segment: str, now: float) -> list[Effect]:
        """Nobody maps an unlinked block any more: the kernel has its pages back."""
        block = self.blocks.table.get(segment)
        if block is None or block.state is not State.UNLINKED:
            return []
        self.blocks.remove(block)
        return self.evictions.decided(block) + self.admission.start_queued(now)

    def adopt(self, block: Block, now: float) -> list[Effect]:
        """Take over a segment of an earlier run of the daemon; before any request.

        `block` is as its metadata say: SEALED or WRITING. Whether anybody maps it is asked.
        """
        self.blocks.add(block)
        self.blocks.excused_bytes += block.size
        self.counters.adopted += 1
        block.mapped = True
        return [*self.publishing.adopt(block, now), Inspect(block.segment)]

    # ---- time ----------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: timeouts of the queue, lends and pins may be over."""
        effects = self.holds.expire(now) + self.admission.tick(now)
        # While something may still make room nobody gives up: the next tick is due at once.
        return effects or self.admission.give_up(now)

    def wake_at(self) -> float:
        """When `tick` is to come next; inf: no time has been set."""
        return min(self.admission.wake_at(), self.holds.wake_at())
