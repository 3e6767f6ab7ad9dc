"""A naive model of the core, for its tests: what must be so, kept as plain sets.

`Naive` watches what goes into the core and what comes out, and compares after every event.
It is written without a look at how the core does it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from arrayd.errors import InUse, NoRoom
from arrayd.wire.grant import Grant
from arrayd_server.core.effects import (
    Fill,
    Make,
    Measure,
    Probe,
    Reply,
    Result,
    Seal,
    Welcome,
)
from arrayd_server.core.holds import STALE_AFTER
from arrayd_server.core.lends import LEND_SECONDS
from arrayd_server.core.model import Asker, Block, Draft, Stage, State, Wanted, own_alias
from tests.support import core_naive_room
from tests.support.core_files import SPEC, Batch, File, member_alias
from tests.support.core_quotas import NaiveQuotas

if TYPE_CHECKING:
    from tests.support.core_model import Shell


STRANGERS = {b"c": 8}
"""The sessions of another user than the daemon's, and which: its members are its own."""


class Naive:
    """What must be so, kept as plain sets without a rule of the core's in sight."""

    def __init__(self, shell: Shell) -> None:
        self._shell, self.quotas = shell, NaiveQuotas(shell)
        self.sessions: dict[bytes, int] = {}
        #: session and segment -> latest grant, latest claim, since when
        self.holds: dict[tuple[bytes, str], tuple[int, int, float]] = {}
        self.lends: dict[tuple[str, bytes], tuple[bytes, float]] = {}  # by whom, and when
        self.orphans: dict[tuple[str, bytes], tuple[int, float]] = {}  # whose, and until when
        self.sizes: dict[str, int] = {}  # everything charged
        self.holding: dict[str, Hashable] = {}  # segment -> key of the contents, or its Draft
        self.inside: dict[str, dict[int, Hashable]] = {}  # segment -> offset -> key of a member
        self.batches: dict[str, Batch] = {}  # segment -> what was to be in it together
        self.final, self.unlinked, self.spares = set[str](), set[str](), set[str]()
        self.pinned: dict[str, float] = {}
        self.names: dict[str, str] = {}
        self.learned: dict[Hashable, str] = {}
        self.kept, self.floor = set[str](), 0
        self.seqs: dict[bytes, int] = {}  # session -> its latest grant's number
        self.asked: dict[Asker, Wanted | Draft | None] = {}
        self.sent: Counter[Asker] = Counter()
        self.owed: set[Asker] = set()
        self.pins: dict[Asker, float] = {}
        self.evicting = False  # the event is a request to evict
        self.latest: Hashable = None  # the alias asked for last
        self.probing: dict[int, Hashable] = {}
        self.version = 0  # of what linked files refer to
        self.since: dict[Asker, int] = {}  # request -> the version when it was sent first
        self.looked: dict[int, int] = {}  # job -> the version when its probe began

    # ---- what goes in --------------------------------------------------------------------

    def ask(self, to: Asker, what: Wanted | Draft | None = None, pin: float = 0.0) -> Asker:
        """Note that a request is sent."""
        self.asked[to], self.pins[to] = what, pin
        self.sent[to] += 1
        self.owed.add(to)
        self.since.setdefault(to, self.version)
        self.latest = what.alias if isinstance(what, Wanted) else self.latest
        return to

    def excuse(self, left: Callable[[Asker], bool]) -> None:
        """Note that no answer is owed, nor wanted, any more."""
        for to in [to for to in self.asked if left(to)]:
            self.owed.discard(to)
            self.sent[to] = 0

    def come(self, nonce: bytes, pid: int, latest: int) -> None:
        """Note that a client says who it is, and the highest number that it has seen."""
        self.sessions[nonce] = pid
        self.seqs[nonce] = max(self.seqs.get(nonce, 0), latest)

    def end(self, nonce: bytes) -> None:
        """Note that a session ends; what it sent may be with others of its process group."""
        pid = self.sessions.pop(nonce, None)
        for lend, (sender, _) in self.lends.items():
            if sender == nonce and lend not in self.orphans and pid is not None:
                self.orphans[lend] = (pid, self._shell.now + LEND_SECONDS)
        self.seqs.pop(nonce, None)
        self.holds = {k: v for k, v in self.holds.items() if k[0] != nonce}
        self.excuse(lambda to: to.nonce == nonce)

    def release(self, nonce: bytes, segment: str, seq: int, claim: int = 0) -> None:
        """Note a release: it counts if it names the latest grant and the latest claim."""
        latest, claimed, since = self.holds.pop((nonce, segment), (0, 0, 0.0))
        left = (latest * (seq < latest), claimed * (claim < claimed))
        self.holds |= {(nonce, segment): (*left, since)} if any(left) else {}

    def claim(self, nonce: bytes, segment: str, number: int) -> None:
        """Note that a session has attached a final block without asking."""
        if (
            nonce in self.sessions.keys() - STRANGERS.keys()
            and segment in self.final - self.unlinked
        ):
            seq, claim, _ = self.holds.get((nonce, segment), (0, 0, 0.0))
            self.holds[nonce, segment] = (seq, max(claim, number), self._shell.now)

    def lend(self, nonce: bytes, segment: str, token: bytes) -> None:
        """Note a reference in flight, if its sender has the block."""
        if (nonce, segment) in self.holds:
            self.arrive(segment, token)
            self.lends[segment, token] = (nonce, self._shell.now)

    def arrive(self, segment: str, token: bytes) -> None:
        """Note that a reference is in flight no more."""
        self.lends.pop((segment, token), None)
        self.orphans.pop((segment, token), None)

    def expire(self) -> None:
        """Note which references nobody is left to redeem, a minute after their sender ended."""
        now = self._shell.now
        for lend, (group, due) in list(self.orphans.items()):
            if due <= now and group in self._shell.kernel.groups:
                self.orphans[lend] = (group, now + LEND_SECONDS)
            elif due <= now:
                self.arrive(*lend)

    def adopt(self, block: Block, mapped: bool) -> None:
        """Note a segment that an earlier run left."""
        self.sizes[block.segment] = block.size
        self.floor += block.size
        self.kept |= {block.segment} if block.keep else set()
        if block.state is State.SEALED:
            self.final.add(block.segment)
            self.learned.update(dict.fromkeys(block.aliases, block.segment))
            if block.name is not None:
                self.names[block.name] = block.segment
        draft = Draft(SPEC, block.size, block.identity, block.name, block.keep)
        self.holding[block.segment] = draft if block.published else block.identity.key
        self._shell.kernel.make(block.segment, block.size)
        if mapped:
            self._shell.kernel.attach(block.segment, "earlier")

    # ---- what comes out ------------------------------------------------------------------

    def began(self, effect: Probe | Measure | Fill | Make | Seal) -> None:
        """Note new work, and that nothing is done twice."""
        if isinstance(effect, Probe):
            self.looked[effect.job] = self.version
            if effect.identity.linked:  # it may be looked at again for who came meanwhile
                return
            twins = [alias for job, alias in self.probing.items() if job in self._shell.work]
            asked = self.latest or member_alias(effect.identity)  # or it was a member
            alias = self.probing.setdefault(effect.job, asked)  # it may be tried again
            assert alias not in twins, "the same source is probed twice"
            return
        job = self._shell.registry.jobs.table[effect.job]
        if isinstance(effect, Fill):
            found = self.found(effect.job, job.identity)
            assert found not in [
                key for segment, key in self.holding.items() if segment not in self.unlinked
            ], "the same contents are loaded twice"
            self.holding[effect.segment] = found
            if isinstance(job.identity, Batch):
                self.batches[effect.segment] = job.identity
            self.sizes[effect.segment] = job.identity.size
        elif isinstance(effect, Make):
            assert job.draft is not None
            self.holding[effect.segment] = job.draft
            self.sizes[effect.segment] = job.draft.size

    def found(self, job: int, file: File) -> Hashable:
        """Return the key of what a probe has found."""
        return (file.key, self.looked[job]) if file.linked else file.key

    def replied(self, reply: Reply) -> None:
        """Note an answer: it is wanted, and a grant gives what was asked for."""
        to, body = reply.to, reply.body
        if self.sent[to] == 0 and isinstance(body, InUse | Result):
            return  # an eviction goes on when its asker has left
        assert self.sent[to] > 0, "an answer that nobody waits for"
        self.sent[to] -= 1
        self.owed.discard(to)
        if isinstance(body, Grant):
            self._granted(to, body)
        elif isinstance(body, NoRoom) and "budget" in body.details:  # the core's own
            core_naive_room.check(self, self._shell, body.details["needed"])
        elif isinstance(body, NoRoom) and to.nonce in STRANGERS and "quota" in body.details:
            self.quotas.refused(body)
        elif isinstance(body, Welcome):
            stated = {(to.nonce, segment) for segment in body.holds}
            self.holds = {k: v for k, v in self.holds.items() if k[0] != to.nonce or k in stated}
            for segment, seq in body.holds.items():
                self._hold(to.nonce, segment, seq)

    def _hold(self, nonce: bytes, segment: str, seq: int) -> None:
        assert seq > self.seqs.get(nonce, 0), "rule 7: grants are numbered in order"
        assert segment in self.sizes, "rule 2: a hold without a segment"
        assert segment not in self.unlinked, "rule 2: a hold of what is unlinked"
        self.seqs[nonce] = seq
        claim = self.holds.get((nonce, segment), (0, 0, 0.0))[1]
        self.holds[nonce, segment] = (seq, claim, self._shell.now)

    def _granted(self, to: Asker, grant: Grant) -> None:
        segment, what = grant.segment, self.asked[to]
        self._hold(to.nonce, segment, grant.seq)
        assert grant.sealed == (segment in self.final)
        if isinstance(what, Draft):
            assert self.holding[segment] is what
        if not isinstance(what, Wanted):
            return
        owner = self._shell.registry.blocks.table[segment].user
        if owner is not None or to.nonce not in STRANGERS:  # else it is not theirs to keep
            until = self._shell.now + self.pins[to]
            self.pinned[segment] = max(self.pinned.get(segment, 0.0), until)
        assert grant.sealed
        if what.name is not None:
            assert self.names[what.name] == segment
            return
        file = replace(what.identity, rows=None) if grant.window else what.identity
        if file.linked:
            assert self.holding[segment] == grant.key, "another key"
            key, version = cast(tuple[Hashable, int], grant.key)
            assert key == file.key, "the wrong contents"
            assert version >= self.since[to], "old contents"
            return
        inside = self.inside[segment][grant.offset] if grant.extent else self.holding[segment]
        assert inside == file.key, "the wrong contents"
        user = STRANGERS.get(to.nonce)
        assert not grant.extent or self.batches[segment].user == user, "rule 9: another's member"
        assert not grant.key
        if not grant.window:
            self.learned[own_alias(what.alias, user)] = segment

    def sealed(self, segment: str) -> None:
        """Note that a segment is final, and published if it is a client's."""
        self.final.add(segment)
        draft = self.holding[segment]
        if isinstance(draft, Draft):
            self.kept |= {segment} if draft.keep else set()
            if draft.name is not None:
                self.kept.discard(self.names.get(draft.name, ""))
                self.names[draft.name] = segment

    def seen_unmapped(self, segment: str, *, mapped: bool) -> None:
        """Note which holds the core may and must drop now (rule 2)."""
        if not mapped and self._shell.registry.jobs.queued():
            oldest = self._shell.now - STALE_AFTER
            for nonce in self.holders(segment):
                if self.holds[nonce, segment][2] <= oldest:
                    del self.holds[nonce, segment]

    def unlinking(self, segment: str, *, force: bool) -> None:
        """Assert that a block may go now."""
        assert segment in self.sizes, "unlinked twice"
        assert segment not in self.unlinked, "unlinked twice"
        self.unlinked.add(segment)
        self.spares.discard(segment)
        if force or segment not in self.final:
            gone = segment not in self._shell.kernel.named  # somebody removed it
            assert gone or segment not in self.final, "force is for unfinished blocks"
            self.holds = {k: v for k, v in self.holds.items() if k[1] != segment}
            self._give_up(segment)
            return
        assert segment in self.final
        assert not self.holders(segment), "rule 2: unlinked though held"
        lent = any(held == segment for held, _ in self.lends)
        assert not lent or self.is_old(segment), "unlinked though a reference is in flight"
        self._give_up(segment)
        if not self.evicting:
            assert segment not in self.kept, "a kept block was evicted for room"
            assert not self.is_pinned(segment), "a pinned block was evicted for room"
            queue = sum(job.size for job in self._shell.registry.jobs.queued())
            coming = core_naive_room.coming(self, self._shell)
            needed = queue > core_naive_room.without(self, self._shell, coming - {segment})
            useless = self.published(segment) or self._shell.outdated(segment)
            for_quota = self.quotas.limited and self.quotas.is_strangers(segment)
            assert needed or for_quota or (useless and not lent), "evicted without need"

    def _give_up(self, segment: str) -> None:
        """Note that the references to a segment mean nothing any more."""
        for lend in [lend for lend in self.lends if lend[0] == segment]:
            self.arrive(*lend)

    def is_old(self, segment: str) -> bool:
        """Say whether all references to a segment were sent long ago."""
        times = [when for (held, _), (_, when) in self.lends.items() if held == segment]
        return all(self._shell.now - when >= LEND_SECONDS for when in times)

    def recycled(self, segment: str, heir: str) -> None:
        """Note that a spare has the pages of a segment."""
        self.sizes[heir], self.holding[heir] = self.sizes[segment], None
        self.forget(segment)
        self.spares.add(heir)

    def forget(self, segment: str) -> None:
        """Note that the kernel has the pages of a segment."""
        self.unlinked.remove(segment)
        del self.sizes[segment], self.holding[segment]
        self.final.discard(segment)
        self.kept.discard(segment)

    # ---- what must be so -----------------------------------------------------------------

    def holders(self, segment: str) -> list[bytes]:
        """Return the sessions that hold a segment."""
        return [nonce for nonce, held in self.holds if held == segment]

    def published(self, segment: str) -> bool:
        """Say whether a client made it."""
        return isinstance(self.holding[segment], Draft)

    def is_pinned(self, segment: str) -> bool:
        """Say whether somebody wants it kept warm."""
        return self.pinned.get(segment, 0.0) > self._shell.now

    def unused(self) -> set[str]:
        """Return what nobody holds, lends or maps."""
        mapped = {segment for segment, _ in self._shell.kernel.mappers}
        held = {segment for _, segment in self.holds} | {segment for segment, _ in self.lends}
        return set(self.sizes) - self.unlinked - mapped - held

    def idle(self) -> set[str]:
        """Return the final blocks that nobody uses."""
        return self.unused() & self.final

    def resident(self, what: Wanted) -> bool:
        """Say whether a request must be answered at once, without a probe."""
        if what.name is not None:
            segments = [self.names.get(what.name)]
        else:
            spelled = [one for one in (what.alias, what.whole) if one is not None]
            mine = [own_alias(one, what.user) for one in spelled]
            segments = [self.learned.get(one) for one in spelled + mine]
        others = {segment for segment, one in self.batches.items() if one.user != what.user}
        return bool(self.final.intersection(filter(None, segments)) - self.unlinked - others)

    def compare(self) -> None:
        """Assert that the registry says the same."""
        registry, blocks = self._shell.registry, self._shell.registry.blocks
        assert {n: s.peer.pid for n, s in registry.sessions.items()} == self.sessions
        holds = {
            (nonce, segment): (hold.seq, hold.claim, hold.since)
            for nonce, session in registry.sessions.items()
            for segment, hold in session.holds.items()
        }
        assert holds == self.holds, "rules 2, 5, 7: the holds"
        every = blocks.table.values()
        lends = {(b.segment, t): (u.sender, u.since) for b in every for t, u in b.lends.items()}
        assert lends == self.lends, "the references in flight"
        orphans = {(b.segment, t): due for b in every for t, due in b.orphans.items()}
        assert orphans == {k: due for k, (_, due) in self.orphans.items()}, "and their ends"
        assert {b.segment: b.size for b in every} == self.sizes, "rule 1"
        assert blocks.charged == sum(self.sizes.values()), "rule 1: the charge"
        assert blocks.charged <= max(blocks.budget, self.floor), "rule 1: over budget"
        self.quotas.compare()
        for to in self.owed:
            what = self.asked[to]
            waits = isinstance(what, Wanted) and what.name is not None and self.resident(what)
            assert not waits, "a published block, and a session that waits for it"
        self._compare_idle()

    def _compare_idle(self) -> None:
        shell, blocks = self._shell, self._shell.registry.blocks
        mapped = {segment for segment, _ in shell.kernel.mappers}
        assert mapped <= set(blocks.table), "rule 1: mapped, but credited"
        idle = set(blocks.idle)
        # Somebody may map an idle block and the core need not know; but it must hear of the end.
        assert idle - mapped <= self.idle(), "rule 4: idle, but in use"
        assert self.idle() - set(shell.closed) <= idle, "rule 4: forgotten"
        jobs = self._shell.registry.jobs.table.values()
        writing = {s for job in jobs if job.stage is Stage.WRITING for s in [job.segment]}
        assert not (self.unused() & writing) - set(shell.closed), "rule 3: written by nobody"
        for segment in idle:
            lost = self.published(segment) and segment not in self.kept
            assert not lost or segment in self.pinned, "published, unused, but not freed"
