"""A process with threads, a `HoldTable`, and a daemon that knows nothing but numbers.

The daemon is naive: it numbers grants, and believes releases and claims. Messages go both ways in
order, one step at a time. A thread's call is a chain of steps between which anything else may
happen, and which a Ctrl-C may cut off: between two steps, or within a method of the table, at each
moment at which CPython looks for signals (where a function begins, after a call, where a loop goes
back).
"""

from __future__ import annotations

import contextlib
import dis
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from arrayd.session import holds
from arrayd.session.holds import HoldTable, Release

_LOOKS = {dis.opmap[name] for name in dis.opmap if name.startswith(("CALL", "JUMP_BACKWARD"))}


@contextlib.contextmanager
def interrupt(moment: int) -> Iterator[None]:
    """Raise KeyboardInterrupt at that moment of what runs in the table; 0: never."""
    before, seen, looked = sys.gettrace(), 0, False
    over = False  # a generator that lives on keeps its trace function

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen, looked
        if over or frame.f_code.co_filename != holds.__file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "call" or (event == "opcode" and looked):
            seen += 1
            if seen == moment:
                raise KeyboardInterrupt
        looked = event == "opcode" and frame.f_code.co_code[frame.f_lasti] in _LOOKS
        return trace

    if moment:
        sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
        over = True


@dataclass(eq=False)
class NaiveDaemon:
    """What a daemon is to one session: numbered holds of blocks that exist."""

    blocks: set[str]
    seq: int = 0
    known: bool = False  # the session
    holds: dict[str, tuple[int, int]] = field(default_factory=dict)  # latest grant and claim
    inbox: deque[tuple[Any, ...]] = field(default_factory=deque)
    outbox: deque[tuple[Any, ...]] = field(default_factory=deque)

    def work(self, in_use: Callable[[], set[str]]) -> None:
        """Answer one message; assert that no release ends a hold that is used."""
        op, *rest = self.inbox.popleft()
        if op == "hello":
            said, latest, number = rest
            self.known, self.seq = True, max(self.seq, latest)
            self.holds = {s: self._grant(s) for s in said if s in self.blocks}
            seqs = {segment: seq for segment, (seq, _) in self.holds.items()}
            self.outbox.append(("welcome", said, seqs, number))
        elif not self.known:
            self.outbox.append(("unknown",))
        elif op == "release":
            for segment, seq, *claim in rest[0]:
                if self._ends(segment, seq, *(claim or [0])):
                    assert segment not in in_use(), f"{segment} is used, and was released"
        elif op == "claim":
            for segment, number in rest[0]:
                if segment in self.blocks:
                    seq, claim = self.holds.get(segment, (0, 0))
                    self.holds[segment] = (seq, max(claim, number))
        elif rest[1] in self.blocks:
            call, segment = rest
            self.holds[segment] = self._grant(segment)
            self.outbox.append(("grant", call, segment, self.seq))

    def _grant(self, segment: str) -> tuple[int, int]:
        self.seq += 1
        return self.seq, self.holds.get(segment, (0, 0))[1]

    def _ends(self, segment: str, seq: int, claim: int) -> bool:
        """Take a release in; say whether the hold ends."""
        if segment not in self.holds:
            return False
        latest, claimed = self.holds.pop(segment)
        left = (latest if seq < latest else 0, claimed if claim < claimed else 0)
        if left != (0, 0):
            self.holds[segment] = left
        return left == (0, 0)

    def restart(self, lost: str) -> None:
        """Die, and start again without a block."""
        self.seq, self.known = 0, False
        self.holds.clear()
        self.inbox.clear()
        self.outbox.clear()
        self.blocks.discard(lost)


@dataclass(eq=False)
class FakeHold:
    """A hold without a block."""

    segment: str
    seq: int
    mappings: set[Any] = field(default_factory=set)
    released: bool = False


@dataclass(eq=False)
class FakeMapping:
    """Pages, with as many arrays over them."""

    hold: FakeHold
    arrays: int = 0


@dataclass(eq=False)
class FakeCall:
    """A thread between the request and the attach of one block."""

    segment: str
    guard: AbstractContextManager[None]
    releases: list[Release]
    seq: int = 0  # of the grant that has come; 0: none yet


class Process:
    """The client: what `Session`, `Connection` and `HeldBlocks` do, in steps."""

    def __init__(self, segments: set[str]) -> None:
        self.table = HoldTable[FakeHold]()
        self.daemon = NaiveDaemon(segments)
        self.known, self.greeting, self.said = False, 0, list[str]()
        self.outbox: deque[tuple[Any, ...]] = deque()
        self.calls: list[FakeCall] = []
        self.mappings: list[FakeMapping] = []
        self.ended: deque[FakeMapping] = deque()

    # ---- a call, step by step ------------------------------------------------------------

    def ask(self, segment: str) -> None:
        """Send a request, with what is due ahead of it."""
        guard = self.table.attaching()
        guard.__enter__()
        self.tell()
        call = FakeCall(segment, guard, self.releases_due())
        if call.releases:
            self.outbox.append(("release", call.releases))
        self.outbox.append(("get", call, segment))
        self.calls.append(call)

    def attach(self, call: FakeCall, cut: int, *, shared: bool) -> None:
        """Map what was granted, and end the call; maybe cut off after so many steps."""
        hold = self.table.held(FakeHold(call.segment, call.seq))
        if cut == 1:
            return
        mapping = self._mapping(hold, shared=shared)
        try:
            self.table.mapped(hold, mapping)
            if cut == 2:
                raise KeyboardInterrupt
            self.table.attached(call.segment, call.seq)
            if cut == 3:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            self.drop(mapping)
            raise

    def attach_indexed(self, segment: str, cut: int, *, shared: bool) -> None:
        """Map what the index leads to, maybe cut off; it may be out of date."""
        hold = self.table.claimed(FakeHold(segment, 0))
        if cut == 1:
            return
        if segment not in self.daemon.blocks:
            self.table.unclaimed(hold)
            return
        mapping = self._mapping(hold, shared=shared)
        try:
            self.table.mapped(hold, mapping)
            if cut == 2:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            self.drop(mapping)
            raise

    def _mapping(self, hold: FakeHold, *, shared: bool) -> FakeMapping:
        """Return a mapping with an array more."""
        known = [one for one in self.mappings if one.hold is hold and one.arrays and shared]
        mapping = known[0] if known else FakeMapping(hold)
        mapping.arrays += 1
        if not known:
            self.mappings.append(mapping)
        return mapping

    def end(self, call: FakeCall) -> None:
        """Leave the call, finished or not; a Ctrl-C here is one amid its end."""
        if call in self.calls:
            self.calls.remove(call)
        call.guard.__exit__(None, None, None)
        self.table.releases_due()

    # ---- arrays that end -----------------------------------------------------------------

    def drop(self, mapping: FakeMapping) -> None:
        """Drop one array; with the last one the mapping ends, as by a finalizer."""
        mapping.arrays -= 1
        if not mapping.arrays:
            self.mappings.remove(mapping)
            self.ended.append(mapping)

    def releases_due(self) -> list[Release]:
        """Take the ended mappings in, and return what is due."""
        self.take_ended()
        return self.table.releases_due()

    def take_ended(self) -> None:
        """Take the ended mappings in."""
        pending = self.table.pending()
        while self.ended:
            self.table.unmapped(self.ended[0].hold, self.ended[0], pending)
            self.ended.popleft()

    def flush(self) -> None:
        """Send what is due, as the flusher does: claims first."""
        self.tell()
        releases = self.releases_due()
        if releases:
            self.outbox.append(("release", releases))
            self.table.sent(releases)

    def tell(self) -> None:
        """Send the claims that are due."""
        self.take_ended()
        claims, used = self.table.claims_due()
        if claims or used:
            self.outbox.append(("claim", claims))
            self.table.claims_sent(claims, used)

    # ---- the connection ------------------------------------------------------------------

    def send(self) -> None:
        """Send the outbox; a hello alone, while the daemon does not know us."""
        if self.known:
            self.daemon.inbox.extend(self.outbox)
            self.outbox.clear()
            return
        self.greeting += 1
        self.said = self.table.stated()
        self.daemon.inbox.append(("hello", self.said, self.table.highest_seq, self.greeting))

    def receive(self) -> None:
        """Hear one answer; it stays until that is done."""
        if not self.daemon.outbox:
            return
        kind, *rest = self.daemon.outbox[0]
        if kind == "unknown":
            self.known = False
        elif kind == "grant":
            call, segment, seq = rest
            self.table.granted(segment, seq)
            if call in self.calls and not call.seq:
                call.seq = seq
                self.table.sent(call.releases)
        elif rest[2] == self.greeting:
            late = self.table.welcomed(rest[0], rest[1])
            self.known = not late
            waiting = [("get", call, call.segment) for call in self.calls if not call.seq]
            self.outbox.extend(one for one in waiting if one not in self.outbox)
        self.daemon.outbox.popleft()

    def talk(self, step: int) -> None:
        """Do one of the steps by which requests travel and answers come."""
        if step % 3 == 0:
            self.send()
        elif step % 3 == 2:
            self.receive()
        elif self.daemon.inbox:
            self.daemon.work(self.known_use)

    def fork(self) -> None:
        """Go on as a child: same arrays, no call of other threads, a session of its own."""
        for call in self.calls:
            call.guard.__exit__(None, None, None)
        self.calls.clear()
        self.outbox.clear()
        while self.ended:
            ended = self.ended.popleft()
            self.table.unmapped(ended.hold, ended, {})
        self.table.forked()
        self.daemon.restart("")

    def in_use(self) -> set[str]:
        """Return the blocks with an array whose hold nobody has ended."""
        return {one.hold.segment for one in self.mappings if not one.hold.released}

    def known_use(self) -> set[str]:
        """Return the same without those of which a claim has yet to arrive."""
        coming = [rest[0] for op, *rest in [*self.outbox, *self.daemon.inbox] if op == "claim"]
        told = {segment for claims in coming for segment, _ in claims}
        return self.in_use() - told - self.table.untold()

    def settle(self) -> None:
        """End all calls, and let all messages arrive: what is held is what is used."""
        for call in list(self.calls):
            self.end(call)
        for _ in range(6):
            self.flush()
            self.send()
            while self.daemon.inbox:
                self.daemon.work(self.known_use)
            while self.daemon.outbox:
                self.receive()
        assert set(self.daemon.holds) == self.in_use() & self.daemon.blocks
        assert not self.releases_due()
        assert not self.table.has_claims
