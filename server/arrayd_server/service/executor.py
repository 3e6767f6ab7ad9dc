"""Perform the core's effects on segments, workers and the wire, and feed results back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic, thread_time
from typing import Any, ParamSpec

from arrayd.common import failpoints
from arrayd.errors import ArraydError
from arrayd.wire import layout
from arrayd.wire.grant import Grant
from arrayd_server.core import invariants, stream_invariants
from arrayd_server.core.effects import (
    AskAgain,
    Cancel,
    ChangeRing,
    Describe,
    Effect,
    Fill,
    Inspect,
    Make,
    Measure,
    Probe,
    ReadWindow,
    Recycle,
    Reply,
    ReportProgress,
    Rewrite,
    Seal,
    Share,
    StartReader,
    StopReader,
    Trace,
    Unlink,
    Work,
)
from arrayd_server.core.model import BlockMember, LoadedMember, ProbedFacts, Stage
from arrayd_server.core.registry import Registry
from arrayd_server.core.streams import Streams
from arrayd_server.kernel import memory_limits
from arrayd_server.kernel.close_watch import CloseWatch
from arrayd_server.loading.loads import Callbacks, Loads, Probed
from arrayd_server.loading.member_loads import Ended
from arrayd_server.loading.worker_pool import Pool
from arrayd_server.segments.block_metadata import metadata, placed, planned
from arrayd_server.segments.member_metadata import describable, places
from arrayd_server.segments.outcome import Outcome
from arrayd_server.segments.store import Segments
from arrayd_server.service.link_check import LinkCheck
from arrayd_server.service.page_threads import PageThreads
from arrayd_server.service.published_index import PublishedIndex
from arrayd_server.service.reading import ReaderEffects
from arrayd_server.service.seals import Seals
from arrayd_server.streams.readers import ReaderPool
from arrayd_server.transport import peers

log = logging.getLogger(__name__)

DEAF = 30
"""How many times as long as it took to hear of names that are none of ours we hear of none."""

P = ParamSpec("P")
Answer = Callable[[Sequence[Reply | ReportProgress]], None]
_Members = Sequence[BlockMember]


class EffectExecutor:
    """The shell around the core.

    `act` performs the effects of one event, and those of the events that they cause at once,
    before any other event can come: nothing is decided on what is out of date meanwhile.

    Parameters
    ----------
    registry, streams, segments, index
        What to keep in step.
    pool, readers, answer
        The loader processes, those of streams, and what sends replies and progress messages.
    on_ended
        Told of each load that has ended, if anybody counts them.
    check
        Assert the core's rules after every event.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        registry: Registry,
        streams: Streams,
        segments: Segments,
        index: PublishedIndex,
        pool: Pool,
        readers: ReaderPool,
        answer: Answer,
        on_ended: Ended | None = None,
        *,
        check: bool,
    ) -> None:
        self._loop, self._registry, self._streams = loop, registry, streams
        self._segments, self._index = segments, index
        self._answer, self._check = answer, check
        self._todo: deque[Effect] = deque()
        self._answers: list[Reply | ReportProgress] = []  # of this event, not sent yet
        self._acting = False
        self._links = LinkCheck(registry, segments, self.take)
        self._making: dict[str, bool] = {}  # segment -> it was given up meanwhile
        self._alarm: asyncio.TimerHandle | None = None
        self._threads = PageThreads(loop)
        self._watch = CloseWatch(layout.SHM, segments.family)
        self._listens_again: asyncio.TimerHandle | None = None
        self._listen()
        on = (self._on_probed, self._on_info, self._on_progress, self._on_filled, self._on_failed)
        of_members = (self._on_measured, self._on_loaded)
        self._loads = Loads(pool, Callbacks(*on, *of_members), on_ended)
        events = (self.take, self._described, self._share)
        self._seals = Seals(loop, registry, segments, self._threads, *events)
        self._reading = ReaderEffects(readers, streams, self.take, segments.path)

    def act(self, effects: Sequence[Effect]) -> None:
        """Perform effects, and the effects of their results; then send all their answers."""
        self._todo.extend(effects)
        if self._acting:
            return
        self._acting = True
        self._links.begin()
        try:
            while self._todo:
                self._index.sync()
                self._perform(self._todo.popleft())
            self._index.sync()
        finally:
            self._acting = False
            answers, self._answers = self._answers, []
            if answers:
                self._answer(answers)
        if self._check:
            invariants.check(self._registry)
            stream_invariants.check(self._streams)
        self._set_alarm()

    def take(self, event: Callable[P, Sequence[Effect]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Let an event of the core happen, and perform its effects.

        While jobs wait for room, what there is is measured first: any event may let one start,
        and what was measured before is spent as loads fill.
        """
        if self._registry.waits_for_room:
            self.update_headroom()
        self.act(event(*args, **kwargs))

    def update_headroom(self) -> None:
        """Tell the core what /dev/shm and the cgroup still give; before it may reserve."""
        headroom = memory_limits.headroom()
        self._registry.headroom(headroom.free, headroom.tightest)

    def recheck(self) -> None:
        """Inspect what is mapped by others again, and check that links are there."""
        for segment in list(self._watch.names):
            self._inspect(segment)
        self._links.look()

    def close(self) -> None:
        """Stop; the threads finish what they have begun, which nobody will use."""
        if self._listens_again is not None:
            self._listens_again.cancel()
        self._loop.remove_reader(self._watch.fileno())
        self._watch.close()
        if self._alarm is not None:
            self._alarm.cancel()
        self._threads.close()
        for segment in self._making:
            self._segments.discard(segment)
        self._segments.close()

    # ---- effects -------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Reply():
                self._reply(effect)
            case ReportProgress():
                self._answers.append(effect)
            case Inspect(segment):
                self._inspect(segment)
            case Trace(segment, groups):
                lives = {group: peers.group_lives(group) for group in groups}
                self.take(self._registry.traced, segment, lives, monotonic())
            case Unlink(segment, force):
                self._unlink(segment, force=force)
            case Recycle(segment, heir):
                self._ended(segment, *self._segments.recycle(segment, heir))
            case Rewrite(segment):
                self._rewrite(segment)
            case Share(segment):
                with contextlib.suppress(ArraydError):  # it has gone; who asks for it is told
                    self._share(segment)
            case StartReader() | ReadWindow() | ChangeRing() | StopReader():
                self._reading.perform(effect)
            case _:
                self._work(effect)

    def _work(self, effect: Work) -> None:
        match effect:
            case Probe(job, source):
                self._loads.probe(job, source)
            case Measure(job, members):
                self._loads.measure(job, members)
            case Describe(job, source):
                self._loads.describe(job, source)
            case Fill(job, segment):
                self._fill(job, segment)
            case Make(job, segment):
                self._make(job, segment)
            case Seal(job, segment):
                self._seals.seal(job, segment)
            case Cancel(job):
                self._loads.cancel(job)

    def _reply(self, reply: Reply) -> None:
        body = reply.body
        if reply.to.nonce == self._streams.nonce:  # of the daemon itself
            self.take(self._streams.answered, reply.to.request, body, monotonic())
            return
        if isinstance(body, Grant):
            try:
                if body.segment not in self._making and not self._links.ensure(body.segment):
                    reply = Reply(reply.to, AskAgain())
                else:
                    self._share(body.segment)
            except ArraydError as error:  # it is there, but its name cannot be
                ends = [(body.segment, body.seq, 0)]
                self.take(self._registry.release, reply.to.nonce, ends, monotonic())
                reply = Reply(reply.to, error)
        self._answers.append(reply)

    def _share(self, segment: str) -> None:
        """Let exactly those other users open a segment whom the core has let in."""
        block, job = self._registry.block(segment)
        if block is not None and block.usable:
            writes = job is not None and job.stage is Stage.WRITING
            self._segments.share(segment, block.readers, block.readers if writes else ())

    def _inspect(self, segment: str) -> None:
        """Ask the kernel whether a segment is mapped, and go on asking while nobody holds it."""
        fd = self._segments.take_unmapped(segment)
        if fd is not None:
            self._watch.discard(segment)
            self._close(segment, fd)
            return
        block, _ = self._registry.block(segment)
        if block is None or self._segments.is_unlinked(segment):
            return
        mapped = self._segments.mapped(segment)
        if mapped and not block.holders:
            self._watch.add(segment)
        else:
            self._watch.discard(segment)
        self.take(self._registry.inspected, segment, mapped, monotonic())

    def _unlink(self, segment: str, *, force: bool) -> None:
        if segment in self._making:
            self._making[segment] = True  # as soon as the thread has made it
            return
        self._ended(segment, *self._segments.unlink(segment, force=force))

    def _ended(self, segment: str, outcome: Outcome, fd: int) -> None:
        """Tell the core what became of a segment that was to be unlinked or recycled."""
        if outcome is Outcome.RECYCLED:
            self._watch.discard(segment)
            self.take(self._registry.admission.recycled, segment, monotonic())
        elif outcome is Outcome.REFUSED:
            self._watch.add(segment)
            self.take(self._registry.unlink_refused, segment, monotonic())
        elif outcome is Outcome.UNLINKED:
            self._watch.add(segment)
            self.act(self._registry.still_mapped(segment))
        else:
            self._watch.discard(segment)
            self._close(segment, fd)

    def _close(self, segment: str, fd: int) -> None:
        """Free the pages of an unlinked segment, by closing it: in a thread, if that takes long."""
        failpoints.hit("daemon.unlinked")

        def freed(error: BaseException | None) -> None:
            assert error is None
            self.take(self._registry.freed, segment, monotonic())

        if fd < 0:
            freed(None)
        else:
            self._threads.run(lambda: os.close(fd), freed, os.fstat(fd).st_size)

    def _fill(self, job: int, segment: str) -> None:
        try:
            self._segments.make(*self._described(segment))
        except ArraydError as error:
            self._on_failed(job, error)
            return
        block, _ = self._registry.block(segment)
        self._loads.fill(job, self._segments.path(segment), block.members if block else [])

    def _make(self, job: int, segment: str) -> None:
        described = self._described(segment)
        self._making[segment] = False

        def work() -> None:
            self._segments.make(*described)
            self._segments.reserve(segment, described[1].data_bytes)

        self._threads.run(work, partial(self._on_made, job, segment), described[1].data_bytes)

    def _described(self, segment: str) -> tuple[str, layout.SegmentPlan, dict[str, Any]]:
        """Return name, layout and metadata of a segment, with what its job is to publish."""
        block, job = self._registry.block(segment)
        assert block is not None
        return segment, placed(block), metadata(block, job)

    def _rewrite(self, segment: str) -> None:
        with contextlib.suppress(OSError, ArraydError):  # it may have gone meanwhile
            self._segments.describe(*self._described(segment))

    # ---- results -------------------------------------------------------------------------

    def _on_probed(self, job: int, found: Probed) -> None:
        failpoints.hit("daemon.probed")
        self.update_headroom()
        size = planned(found.spec, found.identity).size
        facts = ProbedFacts(found.key, found.spec, size, found.rows, found.linked)
        self.take(self._registry.probed, job, facts, monotonic())

    def _on_measured(self, job: int, members: _Members, sizes: Mapping[int, int]) -> None:
        self.update_headroom()
        self.take(self._registry.measured, job, *places(members, sizes), monotonic())

    def _on_info(self, job: int, fields: Mapping[str, Any]) -> None:
        self.act(self._registry.described(job, fields))

    def _on_progress(self, job: int, rows: int) -> None:
        self.take(self._registry.progress, job, rows, monotonic())

    def _on_filled(self, job: int, lost: int) -> None:
        failpoints.hit("daemon.filled")
        self.act(self._registry.filled(job, lost))

    def _on_loaded(self, job: int, members: _Members, found: Mapping[int, LoadedMember]) -> None:
        self.take(self._registry.loaded, job, describable(members, found), monotonic())

    def _on_failed(self, job: int, error: ArraydError) -> None:
        self.update_headroom()  # if it is for want of room, it may be tried again
        self.take(self._registry.failed, job, error, monotonic())

    def _on_made(self, job: int, segment: str, error: BaseException | None) -> None:
        if self._making.pop(segment):  # given up in between
            self._unlink(segment, force=True)
        elif isinstance(error, ArraydError):
            self._on_failed(job, error)
        else:
            assert error is None
            self.take(self._registry.made, job, monotonic())

    def _listen(self) -> None:
        self._listens_again = None
        self._loop.add_reader(self._watch.fileno(), self._on_heard)

    def _on_heard(self) -> None:
        began = thread_time()
        heard = self._watch.read()
        for segment in heard.closed:
            self._inspect(segment)
        for segment in heard.gone:
            self._links.relink(segment)
        if heard.others > len(heard.closed) + len(heard.gone):  # somebody fills /dev/shm with files
            self._loop.remove_reader(self._watch.fileno())
            pause = DEAF * (thread_time() - began)
            self._listens_again = self._loop.call_later(pause, self._listen)

    # ---- the loop ------------------------------------------------------------------------

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        at = min(self._registry.wake_at(), self._streams.wake_at())
        if at < float("inf"):
            self._alarm = self._loop.call_at(max(at, self._loop.time()), self._tick)

    def _tick(self) -> None:
        self._alarm = None
        self.update_headroom()
        self.take(self._registry.tick, monotonic())
        self.take(self._streams.tick, monotonic())
