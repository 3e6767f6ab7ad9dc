"""The core, walked at random against a naive model (`core_naive`) in a fake world (`core_model`).

Three sessions in two processes, one of another user with members and quotas of its own, ask, map,
release, fork, exec and die; loads end well, badly, late or never; strangers map blocks at the worst
moment; the clock is late.
``ARRAYD_TEST_WALKS=20000`` walks longer, from random seeds.
"""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis.stateful import initialize, precondition, rule

from arrayd.errors import AccessDenied, NameTaken, NoRoom, NoSuchBlock
from arrayd.wire.grant import Grant
from arrayd_server.core import effects
from arrayd_server.core.model import Asker, AwaitedItem, Claims, Draft, Peer, Wanted
from tests.support.core_files import Batch, File, wanted
from tests.support.core_kernel import OTHERS
from tests.support.core_kernel_walk import KernelWalk
from tests.support.core_model import Shell, one
from tests.support.core_naive import STRANGERS
from tests.support.core_strategies import (
    PIDS,
    WALKS,
    drafts,
    files,
    picks,
    pins,
    requests,
    sessions,
    small_files,
    waits,
)

BUDGET = 100


class Walk(KernelWalk):
    """Everything that can happen to a daemon, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0
        self.claims = dict.fromkeys(PIDS, 0)
        self.past: list[tuple[Asker, Wanted | Draft, AwaitedItem]] = []

    @initialize(
        capacity=st.sampled_from([1000, 120, 70, 70]),
        found=st.lists(st.tuples(st.sampled_from([25, 60]), *[st.booleans()] * 4), max_size=3),
    )
    def start(self, capacity: int, found: list[tuple[int, bool, bool, bool, bool]]) -> None:
        """Start a daemon that adopts what an earlier run left."""
        self.shell = Shell(BUDGET, capacity + sum(size for size, *_ in found))
        self.naive, self.registry = self.shell.naive, self.shell.registry
        for index, (size, mapped, sealed, published, keep) in enumerate(found):
            block = self.shell.left(index, size, sealed, published or not sealed, keep)
            self.naive.adopt(block, mapped)
            if mapped:
                self.granted[b"a"][block.segment] = 0
            self.shell.do(self.registry.adopt, block, self.shell.now)
        for nonce in PIDS:
            self._hello(nonce, PIDS[nonce], set(self.granted[nonce]))

    def _ask(self, nonce: bytes, what: Wanted | Draft | None = None, pin: float = 0.0) -> Asker:
        self.requests += 1
        return self.naive.ask(Asker(nonce, self.requests), what, pin)

    def _hello(self, nonce: bytes, pid: int, holds: set[str], latest: int = 0) -> None:
        to, known = self._ask(nonce), self.naive.sessions.get(nonce, pid)
        if known == pid:
            self.naive.come(nonce, pid, latest)
        [reply, *_] = self.shell.do(
            self.registry.hello, to, _peer(nonce, pid), holds, latest, self.shell.now
        )
        assert isinstance(reply.body, AccessDenied) == (known != pid)
        if isinstance(reply.body, effects.Welcome):
            self.granted[nonce] = dict(reply.body.holds)

    @rule(
        nonce=sessions,
        pid=st.sampled_from([0, 0, 0, 0, 0, 3]),
        keep=st.sampled_from("aaammns"),
        latest=st.sampled_from([0, 0, 1, 1000]),
    )
    def hello(self, nonce: bytes, pid: int, keep: str, latest: int) -> None:
        """Let a client come, or come back: with all, none, the mapped, or too many holds."""
        known = set(self.granted[nonce])
        mapped = {s for s in known if (s, nonce) in self.shell.kernel.mappers}
        stated = {"a": known, "n": set(), "m": mapped, "s": known | set(self.segments)}[keep]
        self._hello(nonce, pid or PIDS[nonce], stated, latest)

    @precondition(lambda self: len(self.naive.sessions) > 1)
    @rule(nonce=sessions, unmaps=st.booleans())
    def ended(self, nonce: bytes, unmaps: bool) -> None:
        """Let a client say goodbye with its arrays mapped, or die."""
        if unmaps:
            self._unmap_all(nonce)
        self.naive.end(nonce)
        self.shell.do(self.registry.ended, nonce, self.shell.now)
        self.granted[nonce] = {}

    # ---- requests ------------------------------------------------------------------------

    @rule(nonce=sessions, what=requests, timeout=waits, pin=pins)
    def get(self, nonce: bytes, what: Wanted, timeout: float, pin: float) -> None:
        """Ask for an array."""
        waiter, what = AwaitedItem(pin=pin, timeout=timeout), _of(nonce, what)
        self._get(self._ask(nonce, what, pin), what, waiter)

    def _get(self, to: Asker, what: Wanted, waiter: AwaitedItem) -> None:
        known, hidden = to.nonce in self.naive.sessions, self._is_hidden(what, to.nonce)
        resident = self.naive.resident(what) and not hidden
        self.shell.do(self.registry.get, to, what, waiter, self.shell.now)
        self.naive.latest = None
        self._read()
        first = next((r.body for r in self.shell.replies if r.to == to), None)
        assert not (resident and effects.Probe in map(type, self.shell.seen)), "loaded again"
        if not known:
            assert first == effects.IntroduceYourself()
        elif resident:
            over = isinstance(first, NoRoom) and to.nonce in STRANGERS  # see `NaiveQuotas`
            assert isinstance(first, Grant) or first == effects.AskAgain() or over
        elif what.name is not None and (waiter.timeout == 0 or hidden):
            assert isinstance(first, NoSuchBlock)
        else:
            self.past.append((to, what, waiter))

    def _is_hidden(self, what: Wanted, nonce: bytes) -> bool:
        """Say whether a published block is none that another user may have."""
        block = self.registry.blocks.find(what.alias)
        if what.name is None or block is None or nonce not in STRANGERS:
            return False
        return block.user != _peer(nonce, 0).uid and block.share is None

    @rule(
        nonce=st.sampled_from([b"a", b"b", b"c", b"c"]),
        some=st.lists(small_files, min_size=1, max_size=3, unique=True),
        timeout=waits,
        measured=st.booleans(),
        hurry=st.booleans(),
    )
    def get_together(
        self, nonce: bytes, some: list[File], timeout: float, measured: bool, hurry: bool
    ) -> None:
        """Ask for small files in one request; those that are not served go into one block."""
        blocks, jobs, user = self.registry.blocks, self.registry.jobs, STRANGERS.get(nonce)
        some = [replace(file, user=user) for file in some]
        asked = [file for file in some if not wanted(file).served_by(blocks.find)[0]]
        asked = [file for file in asked if not wanted(file).served_by(jobs.find)[0]]
        if not asked or nonce not in self.naive.sessions:
            return
        batch = Batch(tuple(asked), self.requests, user)
        waiters = []
        for member in batch.members():
            what = wanted(member.identity)
            waiter = AwaitedItem(timeout=timeout, member=member)
            waiters.append((self._ask(nonce, what), waiter))
            self.past.append((waiters[-1][0], what, AwaitedItem(timeout=timeout)))
        self.naive.latest = None
        event = self.registry.get_together
        self.shell.do(event, batch, None if measured else batch.size, waiters, self.shell.now)
        self._read()
        if hurry:
            self._work_off()

    @precondition(lambda self: self.past)
    @rule(pick=picks)
    def repeat(self, pick: int) -> None:
        """Send a request again, perhaps after the answer."""
        to, what, waiter = one(self.past[-12:], pick)
        if to.nonce in self.naive.sessions and self.naive.sent[to] > 0:
            self.naive.ask(to, what, self.naive.pins[to])
            if isinstance(what, Draft):
                self._create(to, what, waiter.timeout)
            else:
                self._get(to, what, replace(waiter))  # another message, another object

    @rule(nonce=sessions, what=requests, wait=st.booleans(), bound=st.booleans())
    def prefetch(self, nonce: bytes, what: Wanted, wait: bool, bound: bool) -> None:
        """Begin a load; the answer comes at once, and is the only one."""
        what = _of(nonce, what)
        to, resident = self._ask(nonce, what), self.naive.resident(what)
        self.shell.do(self.registry.prefetch, to, what, self.shell.now, bound=bound)
        self.naive.latest = None
        assert to not in self.naive.owed
        assert not (resident and effects.Probe in map(type, self.shell.seen)), "loaded again"
        if wait:
            self._work_off()

    @precondition(lambda self: self.naive.owed)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        """Give up waiting; the request may be answered already, or unknown."""
        asked = [*self.naive.asked][-12:]
        to = one([*asked, Asker(b"?", 1)], pick)
        self.naive.excuse(lambda asker: asker == to)
        self.shell.do(self.registry.cancel, to.nonce, to.request, self.shell.now)

    @rule(nonce=sessions, pick=picks, maps=st.booleans(), early=st.booleans())
    def claim(self, nonce: bytes, pick: int, maps: bool, early: bool) -> None:
        """Attach a block that the index shows, and tell of it later, or of what is not there."""
        public = sorted({found for found, _ in self.registry.blocks.aliases.values()})
        segment = one([*public, *public, *self.segments], pick)
        if maps and segment in public:
            self.shell.kernel.attach(segment, nonce)
        self.claims[nonce] += 1
        number = max(1, self.claims[nonce] - early)
        self.naive.claim(nonce, segment, number)
        claims = Claims([(segment, number)], [one(self.segments, pick)], self.claims[nonce])
        assert not self.shell.do(self.registry.claim, nonce, claims, self.shell.now)
        there = segment in self.naive.final - self.naive.unlinked
        if nonce in self.naive.sessions and nonce not in STRANGERS and there:
            self.granted[nonce].setdefault(segment, 0)

    @rule(
        nonce=sessions,
        pick=picks,
        age=st.sampled_from([0, 0, 0, 1, 100]),
        unmaps=st.booleans(),
        late=st.sampled_from([0, 0, 1]),
    )
    def release(self, nonce: bytes, pick: int, age: int, unmaps: bool, late: int) -> None:
        """Let go: of a grant or claim, of an older one, of what was never held."""
        segment = one([*self.granted[nonce], *self.segments], pick)
        seq = self.granted[nonce].get(segment, 0) - age
        if unmaps and not age:
            self.shell.unmap(segment, nonce)
            self.granted[nonce].pop(segment, None)
        claim = self.claims[nonce] - late
        self.naive.release(nonce, segment, seq, claim)
        self.shell.do(self.registry.release, nonce, [(segment, seq, claim)], self.shell.now)

    @rule(nonce=sessions, pick=picks, token=st.sampled_from([b"t", b"u"]))
    def lend(self, nonce: bytes, pick: int, token: bytes) -> None:
        """Send a reference to another process."""
        segment = one([*self.granted[nonce], *self.segments], pick)
        self.naive.lend(nonce, segment, token)
        self.shell.do(self.registry.lend, nonce, segment, token, self.shell.now)

    @rule(nonce=sessions, pick=picks, token=st.sampled_from([b"t", b"u", b"?"]))
    def redeem(self, nonce: bytes, pick: int, token: bytes) -> None:
        """Receive a reference, perhaps too late, perhaps twice."""
        flying = [segment for segment, _ in self.naive.lends]
        segment, to = one([*flying, *self.segments], pick), self._ask(nonce)
        alive = segment in self.naive.sizes.keys() - self.naive.unlinked
        alive = alive and self._may_redeem(nonce, segment, token)
        if nonce in self.naive.sessions and alive:
            self.naive.arrive(segment, token)
        [reply, *_] = self.shell.do(self.registry.redeem, to, segment, token, self.shell.now)
        self._read()
        assert alive or not isinstance(reply.body, Grant)
        assert to not in self.naive.owed

    def _may_redeem(self, nonce: bytes, segment: str, token: bytes) -> bool:
        """Say whether a reference is of the receiver's user, or the block is open to it."""
        sender, _ = self.naive.lends.get((segment, token), (b"", 0.0))
        open_to = nonce not in STRANGERS or self.registry.blocks.table[segment].readers
        return bool(open_to) or sender in STRANGERS

    @rule(nonce=sessions, pick=picks, everything=st.sampled_from([False, False, True]))
    def evict(self, nonce: bytes, pick: int, everything: bool) -> None:
        """Ask for memory back: of one block, or of all."""
        segment, to = one([*sorted(self.naive.idle()), *self.segments], pick), self._ask(nonce)
        self.naive.evicting = True
        self.shell.do(self.registry.evict, to, lambda b: everything or b.segment == segment)
        self.naive.evicting = False

    # ---- blocks that clients write -------------------------------------------------------

    @rule(nonce=sessions, draft=drafts, timeout=waits)
    def create(self, nonce: bytes, draft: Draft, timeout: float) -> None:
        """Ask for a block to write."""
        draft = replace(draft)  # one of its own: the model tells drafts apart
        self._create(self._ask(nonce, draft), draft, timeout)

    def _create(self, to: Asker, draft: Draft, timeout: float) -> None:
        self.shell.do(self.registry.create, to, draft, timeout, self.shell.now)
        self._read()
        taken = [r for r in self.shell.replies if isinstance(r.body, NameTaken)]
        assert not (taken and draft.replace)
        self.past.append((to, draft, AwaitedItem(timeout=timeout)))

    @rule(nonce=sessions, draft=drafts)
    def put(self, nonce: bytes, draft: Draft) -> None:
        """Publish a block, as far as that goes without a hitch."""
        self.create(nonce, draft, 0.0)
        self._work_off()
        self.seal(nonce, 0)
        self._work_off()

    @precondition(lambda self: self.registry.jobs.table)
    @rule(nonce=sessions, pick=picks)
    def seal(self, nonce: bytes, pick: int) -> None:
        """Ask to seal a block, one's own or not."""
        mine = [s for s in reversed(self.granted[nonce]) if s not in self.naive.final]
        segment, to = one([*mine, *self.segments], pick), self._ask(nonce)
        self.shell.do(self.registry.seal, to, segment, self.shell.now)
        self._read()

    @precondition(lambda self: self.registry.jobs.table)
    @rule(nonce=sessions, pick=picks)
    def abort(self, nonce: bytes, pick: int) -> None:
        """Give up a block; whoever seals it is not answered."""
        segment = one([*self.granted[nonce], *self.segments], pick)
        job = self.registry.publishing.of_writer(self.registry.blocks.table.get(segment))
        if job is not None and job.writer is not None and job.writer.nonce == nonce:
            self.naive.excuse(job.writer.__eq__)
        self.shell.do(self.registry.abort, nonce, segment, self.shell.now)

    # ---- work ----------------------------------------------------------------------------

    def _work_off(self) -> None:
        while self.shell.work:
            self.shell.finish(next(iter(self.shell.work)))
            self._read()

    @rule(nonce=sessions, what=files, then=st.sampled_from(["map", "hold", "let go"]))
    def load(self, nonce: bytes, what: File, then: str) -> None:
        """Get an array, as far as that goes without a hitch."""
        self.get(nonce, wanted(what), 0.0, 0.0)
        self._work_off()
        for segment in self.granted[nonce] if then == "map" else ():
            self.shell.kernel.attach(segment, nonce)
        for _ in range(len(self.granted[nonce]) if then == "let go" else 0):
            self.release(nonce, 0, 0, unmaps=True, late=0)  # the first of them

    @precondition(lambda self: self.shell.work)
    @rule(pick=picks, outcome=st.sampled_from(["ok", "ok", "ok", "progress", "fail"]))
    def work(self, pick: int, outcome: str) -> None:
        """Let some work end, or go on."""
        self.shell.finish(one([*self.shell.work], pick), outcome)
        self._read()

    @rule(pick=picks)
    def late(self, pick: int) -> None:
        """Bring word of a job that is over: it changes nothing."""
        over = [job for job in self.shell.dead if job not in self.registry.jobs.table]
        assert not any(self.shell.late(one(over, pick)))
        self.naive.compare()

    @precondition(lambda self: self.shell.closing)
    @rule(pick=picks)
    def freed(self, pick: int) -> None:
        """Give some pages back to the kernel."""
        self.shell.free(pick)
        self._read()

    @rule()
    def changed(self) -> None:
        """Let something change that linked files refer to."""
        self.naive.version += 1

    # ---- the end -------------------------------------------------------------------------

    def teardown(self) -> None:
        """Expect everybody to be answered and, when all are gone, nothing to be left."""
        if not hasattr(self, "shell"):
            return
        self.shell.ambush = None
        self.shell.kernel.pages.pop(OTHERS, None)
        self.shell.drain()
        for to in list(self.naive.owed):
            what = self.naive.asked[to]
            assert isinstance(what, Wanted), f"{to} was never answered"
            assert what.name is not None, f"{to} was never answered"
        for nonce in PIDS:
            self.ended(nonce, unmaps=True)
        self.shell.kernel.groups.clear()
        for segment, who in sorted(self.shell.kernel.mappers, key=str):
            self.shell.unmap(segment, who)
        self.shell.drain()
        assert not self.registry.jobs.table
        assert set(self.registry.blocks.table) == set(self.registry.blocks.idle)
        self._hello(b"a", 1, set())
        self.evict(b"a", 0, everything=True)
        self.shell.drain()
        assert self.registry.blocks.charged == 0
        assert not (self.shell.kernel.named | self.shell.kernel.pages.keys())


def _peer(nonce: bytes, pid: int) -> Peer:
    if nonce in STRANGERS:
        groups = frozenset({8})
        return Peer(8, pid, "walk", pid, members=True, foreign=True, groups=groups)
    return Peer(7, pid, "walk", pid, members=True)


def _of(nonce: bytes, what: Wanted) -> Wanted:
    """Return a request as its session's user makes it."""
    return what if what.name is not None else what._replace(user=STRANGERS.get(nonce))


TestWalk = Walk.TestCase
TestWalk.settings = WALKS
