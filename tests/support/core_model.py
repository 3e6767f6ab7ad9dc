"""A perfect shell around the core, for its tests.

`Shell` performs the core's effects at once and in order against a fake `Kernel`, as the
daemon does with the real one, and lets `Naive` watch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import ParamSpec, TypeVar, cast

from arrayd.errors import AccessDenied, BadFile, NoRoom, NotSealed
from arrayd.wire.grant import Grant
from arrayd_server.core import bounds, invariants
from arrayd_server.core.effects import (
    AskAgain,
    Cancel,
    Effect,
    Fill,
    Inspect,
    Make,
    Measure,
    Probe,
    Recycle,
    Reply,
    Rewrite,
    Seal,
    Trace,
    Unlink,
)
from arrayd_server.core.model import (
    Asker,
    Block,
    Edition,
    LoadedMember,
    Peer,
    ProbedFacts,
    State,
    name_alias,
)
from arrayd_server.core.registry import Registry
from tests.support.core_files import NAMES, ROWS, SPEC, File, wanted
from tests.support.core_kernel import OTHERS, Kernel
from tests.support.core_naive import Naive

P = ParamSpec("P")
T = TypeVar("T")


def one(items: list[T], pick: int) -> T:
    """Return one of `items`."""
    return items[pick % len(items)]


class Shell:
    """The daemon around a registry, with a clock that stands still."""

    def __init__(self, budget: int, capacity: int | None = None) -> None:
        self.registry = Registry("run-{}".format, budget)
        self.kernel = Kernel(budget * 10 if capacity is None else capacity)
        self.naive = Naive(self)
        self.now = 100.0
        self.tightest = bounds.SHM
        self.work: dict[int, Probe | Measure | Fill | Seal | Make] = {}
        self.dead: list[int] = [0, 9999]  # jobs of which nothing more is wanted
        self.watched: set[str] = set()
        self.closed: list[str] = []  # watched segments whose last mapper went, not yet read
        self.closing: list[str] = []  # unlinked segments whose pages are being given back
        self.editions: dict[Hashable, Edition] = {}  # file -> as it was seen last
        self.refused: set[int] = set()  # jobs for which the kernel had no pages
        # A stranger maps the next segment just before its unlink, or, having waited, just after.
        self.ambush: str | None = None
        self.replies: list[Reply] = []  # to the last event
        self.seen: list[Effect] = []  # all effects of the last event
        self.fed: list[str] = []  # that event, and those that followed
        self._todo: deque[Effect] = deque()

    def do(
        self, event: Callable[P, list[Effect]], *args: P.args, **kwargs: P.kwargs
    ) -> list[Reply]:
        """Let one event happen, with all that follows at once; return the answers."""
        self.replies, self.seen, self.fed = [], [], []
        self._feed(event, *args, **kwargs)
        while self._todo:
            effect = self._todo.popleft()
            self.seen.append(effect)
            assert len(self.seen) < 1000, "an event without end"
            self._perform(effect)
        invariants.check(self.registry)
        self.naive.compare()
        return self.replies

    def _feed(self, event: Callable[P, list[Effect]], *args: P.args, **kwargs: P.kwargs) -> None:
        self.registry.headroom(self.kernel.free, self.tightest)
        self.fed.append(getattr(event, "__name__", ""))
        refused = self._refusal(*args)
        self._todo.extend(event(*args, **kwargs) if refused is None else [refused])

    def _refusal(self, *args: object) -> Reply | None:
        """Return the answer to a request (to whom, perhaps who that is) that is not let in."""
        match args:
            case (Asker() as to, Peer(pid=pid, uid=uid), *_):
                refused = self.registry.admit(to.nonce, pid, uid)
                return Reply(to, refused) if isinstance(refused, AccessDenied) else None
            case (Asker() as to, *_):
                pid = self.naive.sessions.get(to.nonce, 0)
                known = self.registry.sessions.get(to.nonce)
                refused = self.registry.admit(to.nonce, pid, 0 if known is None else known.peer.uid)
                return None if refused is None else Reply(to, refused)
        return None

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Reply():
                self._reply(effect)
            case Inspect(segment):
                self._look(segment)
            case Unlink(segment, force):
                self._unlink(segment, force=force)
            case Recycle(segment, heir):
                self._unlink(segment, force=False, heir=heir)
            case Rewrite(segment):
                block, job_of = self.registry.block(segment)
                assert block is not None, "written anew, but gone"
                assert block.name is None is job_of, "written anew, but not without a name"
            case Cancel(job):
                self._stop(job)
            case Trace(segment, groups):
                lives = {group: group in self.kernel.groups for group in groups}
                self._feed(self.registry.traced, segment, lives, self.now)
            case Probe() | Measure() | Fill() | Make() | Seal():
                self.naive.began(effect)
                self.work[effect.job] = effect
                if isinstance(effect, Fill):
                    self._begin(effect.segment)

    def _reply(self, reply: Reply) -> None:
        body = reply.body
        if isinstance(body, Grant) and body.sealed and body.segment not in self.kernel.named:
            self._feed(self.registry.segment_removed, body.segment, self.now)
            reply = Reply(reply.to, AskAgain())
        self.naive.replied(reply)
        self.replies.append(reply)

    def _stop(self, job: int) -> None:
        if self.work.pop(job, None) is not None:
            self.dead.append(job)

    def _look(self, segment: str) -> None:
        if segment not in self.naive.sizes or segment in self.naive.unlinked:
            return
        mapped = self.kernel.mapped(segment)
        if mapped and not self.naive.holders(segment):
            self.watched.add(segment)
        else:
            self.watched.discard(segment)
            self.naive.seen_unmapped(segment, mapped=mapped)
        self._feed(self.registry.inspected, segment, mapped, self.now)

    def _begin(self, segment: str) -> None:
        """Make the segment of a load, or let it have the pages of the spare of its name."""
        if (pages := self.kernel.spares.pop(segment, None)) is None:
            self.kernel.make(segment)
        else:
            self.naive.spares.remove(segment)
            self.kernel.fill(segment, min(pages, self.naive.sizes[segment]))

    def _unlink(self, segment: str, *, force: bool, heir: str | None = None) -> None:
        for job, task in list(self.work.items()):
            if not isinstance(task, Probe | Measure) and task.segment == segment:
                self._stop(job)
        self.naive.unlinking(segment, force=force)
        self._spring("before", segment)
        if self.kernel.mapped(segment) and not force:
            self.watched.add(segment)
            self.naive.unlinked.discard(segment)
            self._feed(self.registry.unlink_refused, segment, self.now)
            return
        self._spring("after", segment)
        if heir is not None and segment in self.kernel.named and not self.kernel.mapped(segment):
            self.kernel.rename(segment, heir)
            self.naive.recycled(segment, heir)
            self.watched.discard(segment)
            self._feed(self.registry.admission.recycled, segment, self.now)
            return
        self.kernel.named.discard(segment)
        self.kernel.spares.pop(segment, None)
        if self.kernel.mapped(segment):
            self.watched.add(segment)
            self._feed(self.registry.still_mapped, segment)
        else:
            self.watched.discard(segment)
            self.closing.append(segment)

    def _spring(self, when: str, segment: str) -> None:
        if self.ambush == when and self.kernel.attach(segment, "ambush"):
            self.ambush = None

    def left(self, index: int, size: int, sealed: bool, published: bool, keep: bool) -> Block:
        """Return a block that an earlier run may have left behind."""
        name = NAMES[index] if published and index < len(NAMES) else None
        file = File(f"f{size}", size, "half" if index == 2 else None)
        aliases = [name_alias(name)] if name else [wanted(file).alias, file.key]
        twin = index == 1 or (published and name is None)  # of a block that is found first
        return Block(
            segment=f"old-{index}",
            number=self.registry.blocks.new_number(),
            spec=SPEC,
            size=size,
            identity="put" if published else File(f"old{index}", size) if twin else file,
            state=State.SEALED if sealed else State.WRITING,
            since=self.now,
            used=self.now,
            aliases=aliases if sealed and (name or not twin) else [],
            name=name,
            published=published,
            keep=keep and published,
        )

    def late(self, job: int) -> list[list[Effect]]:
        """Bring all word that there can be of a job; return the effects of each.

        But for those of a probe: what the shell still knows of it is to be forgotten.
        """
        r, now, error = self.registry, self.now, BadFile("late")
        probed = r.probed(job, ProbedFacts(("f25", None), SPEC, 25, ROWS), now)
        return [
            [e for e in probed if e != Cancel(job)],
            r.progress(job, 1, now),
            r.filled(job, 0),
            r.sealed(job, now),
            r.made(job, now),
            r.failed(job, error, now),
            r.measured(job, {0: (0, SPEC.nbytes)}, SPEC.nbytes, now),
            r.unsealable(job, error, now),
        ]

    def outdated(self, segment: str) -> bool:
        """Say whether the file of a block was seen in another state since."""
        edition = self.registry.blocks.table[segment].edition
        return edition is not None and self.editions[edition.file] != edition

    # ---- what happens by itself ----------------------------------------------------------

    def finish(self, job: int, outcome: str = "ok") -> list[Reply]:
        """Let a job's work end: "ok", "fail" or (of a load) "progress"."""
        task, now = self.work[job], self.now
        if outcome == "progress" and isinstance(task, Fill):
            return self._progress(task)
        if isinstance(task, Fill | Make) and outcome != "fail":
            size = self.naive.sizes[task.segment]
            if self.kernel.refuses(task.segment, size):
                return self._refuse(job, size)
        del self.work[job]
        self.dead.append(job) if outcome == "fail" else None
        if isinstance(task, Seal):
            if outcome == "fail":
                return self.do(self.registry.unsealable, job, NotSealed("a writer"), now)
            self.naive.sealed(task.segment)
            return self.do(self.registry.sealed, job, now)
        if outcome == "fail":
            return self.do(self.registry.failed, job, BadFile("broken"), now)
        if isinstance(task, Probe):
            file, probed = task.identity, self.registry.jobs.table.get(job)
            if probed is not None and probed.edition is not None:
                self.editions[probed.edition.file] = probed.edition
            found = ProbedFacts(self.naive.found(job, file), SPEC, file.size, ROWS, file.linked)
            return self.do(self.registry.probed, job, found, now)
        if isinstance(task, Measure):
            there = [at for at in range(len(task.members)) if (7 if job % 4 else 6) >> at & 1]
            places = {at: (at * SPEC.nbytes, SPEC.nbytes) for at in there}
            size = self.registry.jobs.table[job].identity.size
            return self.do(self.registry.measured, job, places, size, now)
        if isinstance(task, Make):
            self.kernel.make(task.segment, self.naive.sizes[task.segment])
            return self.do(self.registry.made, job, now)
        if self.registry.jobs.table[job].members:
            self.work[job] = task
            return self.load_members(job, 7 if job % 3 else 5)
        self.kernel.fill(task.segment, self.naive.sizes[task.segment])
        return self.do(self.registry.filled, job, 0)

    def load_members(self, job: int, which: int) -> list[Reply]:
        """Let the members of a block be read: those whose bit is set in `which`."""
        task, members = cast(Fill, self.work.pop(job)), self.registry.jobs.table[job].members
        self.kernel.fill(task.segment, self.naive.sizes[task.segment])
        found = {
            at: LoadedMember(member.identity.key, SPEC)
            for at, member in enumerate(members)
            if which >> at & 1
        }
        inside = {members[at].offset: one.key for at, one in found.items()}
        self.naive.inside[task.segment] = inside
        return self.do(self.registry.loaded, job, found, self.now)

    def _progress(self, task: Fill) -> list[Reply]:
        size = self.naive.sizes[task.segment]
        done = self.registry.jobs.table[task.job].done
        filled = max(self.kernel.pages[task.segment], size * min(done + 1, ROWS) // ROWS)
        if self.kernel.refuses(task.segment, filled):
            return self._refuse(task.job, size)
        self.kernel.fill(task.segment, filled)
        return self.do(self.registry.progress, task.job, 1, self.now)

    def _refuse(self, job: int, size: int) -> list[Reply]:
        """Have no pages for a block; the first time nobody hears of it: it is tried again."""
        del self.work[job]
        error, first = NoRoom("full", needed=size), job not in self.refused
        self.refused.add(job)
        replies = self.do(self.registry.failed, job, error, self.now)
        assert not (first and any(reply.body is error for reply in replies))
        assert first or job not in self.registry.jobs.table, "tried for ever"
        return replies

    def crowd(self, size: int) -> None:
        """Let other programs have so much of /dev/shm, or all that is left of it."""
        self.kernel.pages.pop(OTHERS, None)
        self.kernel.pages[OTHERS] = min(size, self.kernel.free)

    def unmap(self, segment: str, who: Hashable) -> None:
        """End a mapping; of the last one of a watched segment the kernel gives notice, later."""
        self.kernel.mappers.discard((segment, who))
        if segment in self.watched and not self.kernel.mapped(segment):
            self.closed.append(segment)

    def read_closed(self) -> None:
        """Read the kernel's notices of watched segments."""
        while self.closed:
            segment = self.closed.pop(0)
            if segment not in self.naive.unlinked:
                self.do(lambda name: [Inspect(name)], segment)
            elif segment in self.watched and not self.kernel.mapped(segment):
                self.watched.discard(segment)
                self.closing.append(segment)

    def free(self, which: int = 0) -> list[Reply]:
        """Let the pages of an unlinked segment be given back."""
        segment = self.closing.pop(which % len(self.closing))
        assert not self.kernel.mapped(segment)
        self.kernel.pages.pop(segment, None)
        self.naive.forget(segment)
        return self.do(self.registry.freed, segment, self.now)

    def tick(self) -> list[Reply]:
        """Ring the alarm as often as the core wants at this time; return all answers."""
        replies: list[Reply] = []
        for _ in range(5):
            self.naive.expire()
            replies += self.do(self.registry.tick, self.now)
            if self.registry.wake_at() > self.now:
                return replies
        raise AssertionError("the core wants to wake for ever")

    def sleep(self, seconds: float) -> list[Reply]:
        """Let time pass, ringing the alarm whenever the core asked for it."""
        replies: list[Reply] = []
        end = self.now + seconds
        while self.registry.wake_at() <= end:
            self.now = max(self.now, self.registry.wake_at())
            replies += self.tick()
        self.now = end
        return replies

    def drain(self) -> None:
        """Let everything that is under way come to its end.

        Only while a process group lives may the core go on: it asks after that once a minute.
        """
        for _ in range(1000):
            if self.work:
                self.finish(next(iter(self.work)))
            elif self.closing:
                self.free()
            elif self.closed:
                self.read_closed()
            elif self.registry.wake_at() < float("inf"):
                self.now = max(self.now, self.registry.wake_at())
                self.tick()
            else:
                return
        living = {group for group, _ in self.naive.orphans.values()} & self.kernel.groups
        assert living, "it goes on for ever"
