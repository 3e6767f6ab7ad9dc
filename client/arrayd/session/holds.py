"""`HoldTable`: which blocks this process holds, and which holds it has to give back.

Theory of operation
-------------------
*Grants.* Each time the daemon grants a block to a session, or renews its hold, it gives the hold
the session's next number (``seq``). There is one hold for a segment, however many grants and
arrays there are. A release names segment and number; the daemon ignores it if it has granted the
block again since, with a higher number. So a release may be late, or sent twice: it never ends a
hold that is newer than what it means.

*From grant to array.* The thread that reads the socket reports a grant (`granted`) before the
thread that asked sees it. That one maps the segment (`mapped`) and is done (`attached`). What is
granted and never attached (a timeout, Ctrl-C, an error) is due for release as soon as no call is
between its request and its attach (`attaching`); nobody needs to know why it was not.

*Claims.* What the index (`arrayd.wire.index`) leads to is attached without a grant: the hold has no
number (0) and nobody knows of it (`claimed`). The daemon is told afterwards (`claims_due`), with a
number that counts claims. A release names both: the latest grant, and the latest claim of all; the
daemon ends a hold that has neither a later grant nor a later claim. A hold that ends before it is
told is never told, but for the fact that its block was used. While a claim is being told, until
`claims_sent`, no release of that block is due: it would overtake the claim.

*The end.* A hold ends with its last mapping (`unmapped`), or at once (`released`). If another
thread has been granted the same block before, and not attached it yet, the hold is its as well:
it is listed as granted again, instead of being due, and is settled with the rest of the grants.

*Sessions.* After a restart, or a silence, a hello states all that is held (`stated`), and the
answer gives new numbers (`welcomed`). They count as granted: what has ended in the meantime is
released. What the daemon does not know any more stays readable, and is held no longer.

*Ctrl-C.* A hold moves from `_grants`, or from its last mapping, to `_due`. It is added to the
next collection before it leaves the last, so an exception in between lists it twice, which is
harmless, and never loses it. Nothing here calls out, waits or looks at the clock. All methods but
`granted` and `attaching` need the caller's lock; `granted` only does what is one step in C.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

Release = list[Any]
"""Segment, number of the latest grant, and of the latest claim where there was any: what ends."""

Claim = tuple[str, int]
"""Segment and number: a hold that was begun without asking."""


class HoldState(Protocol):
    """A hold, as far as the table needs it: `mappings` are those that live, of any kind."""

    segment: str
    seq: int
    mappings: set[Any]
    released: bool


H = TypeVar("H", bound=HoldState)


class HoldTable(Generic[H]):
    """The client's side of the relation *session holds block*."""

    def __init__(self) -> None:
        self.highest_seq = 0  # of all grants that came; the daemon goes on from it
        self._holds: dict[str, H] = {}  # by segment: those that count
        #: returns the hold of a segment, if there is one that counts
        self.find: Callable[[str], H | None] = self._holds.get
        self._grants: dict[tuple[str, int], None] = {}  # not known to be attached
        self._due: dict[str, tuple[int, int]] = {}  # to be released: numbers of grant and claim
        self.claims = 0  # how many there were
        self._untold: dict[str, int] = {}  # segment, number of the claim
        self._telling: dict[str, int] = {}  # the same, of those that may have been sent
        self._used: dict[str, None] = {}  # held, and ended untold
        # The calls between a request and its attach, each a token on its stack. Not a counter:
        # if Ctrl-C ends the call, at whatever point, its token is collected with its frame.
        self._attaching = weakref.WeakSet[Attaching]()

    def all(self) -> list[H]:
        """Return all holds that count."""
        return list(self._holds.values())

    # ---- grants --------------------------------------------------------------------------

    def granted(self, segment: str, seq: int) -> bool:
        """Record a grant, as it comes in; say whether no call is there to attach it."""
        self.highest_seq = max(self.highest_seq, seq)
        self._grants[segment, seq] = None
        return not self._attaching

    def attaching(self, ended: Callable[[], object] = bool) -> Attaching:
        """Let no grant be due for release between a request and its attach, in a ``with``.

        `ended` is called at the end, when this one does not count any more.
        """
        return Attaching(self._attaching, ended)

    def has_grants(self) -> bool:
        """Say whether there is a grant that is not known to be attached, or a hold that is due."""
        return bool(self._grants or self._due)

    def held(self, fresh: H) -> H:
        """Return the hold of a granted block, which is `fresh` if there was none."""
        # In one step: a signal handler may do the same meanwhile.
        hold = self._holds.setdefault(fresh.segment, fresh)
        hold.seq = max(hold.seq, fresh.seq)
        return hold

    def claimed(self, fresh: H) -> H:
        """Return the hold of a block of the index, which is `fresh`, and untold, if there was none.

        It is to be `mapped` at once; if that fails, `unclaimed`.
        """
        known = self._holds.get(fresh.segment)
        if known is not None and not known.mappings:  # a Ctrl-C cut off its attach, or its end
            self._due[fresh.segment] = self._numbers(fresh.segment, known.seq, known)
            self._forget(known)
        if fresh.segment not in self._holds:
            self.claims += 1
            self._untold[fresh.segment] = self.claims
        return self._holds.setdefault(fresh.segment, fresh)

    def unclaimed(self, hold: H) -> None:
        """Forget a hold that was claimed, and could not be mapped."""
        if not hold.mappings:
            self._forget(hold)

    def mapped(self, hold: H, mapping: object) -> None:
        """Record a new mapping of a block that is held."""
        hold.mappings.add(mapping)

    def attached(self, segment: str, seq: int) -> None:
        """Record that what was granted is mapped and has its array."""
        self._grants.pop((segment, seq), None)

    def renewed(self, segment: str, seq: int) -> None:
        """Record that a hold was granted again; if it has ended, the grant stays to be settled."""
        hold = self._holds.get(segment)
        if hold is not None:
            hold.seq = max(hold.seq, seq)
            self._grants.pop((segment, seq), None)

    def moved(self, hold: H, other: H) -> None:
        """Let a hold be of the block of another, whose mappings become its own."""
        self._holds.pop(hold.segment, None)
        hold.segment, hold.seq = other.segment, max(hold.seq, other.seq)
        hold.mappings |= other.mappings
        self._holds[hold.segment] = hold

    # ---- the end of holds ----------------------------------------------------------------

    def unmapped(self, hold: H, mapping: object, pending: Mapping[str, int]) -> None:
        """Record the end of a mapping, maybe the last; `pending` is what `pending()` returned."""
        hold.mappings.discard(mapping)
        if not hold.mappings:
            if self._is_untold(hold) and not hold.released:
                self._used[hold.segment] = None
                self._untold.pop(hold.segment, None)
            elif not hold.released and not self._keep_for_another(hold, pending):
                self._due[hold.segment] = self._numbers(hold.segment, hold.seq, hold)
            # In this order: one that is released and still found would be given a new mapping,
            # whose end releases nothing.
            self._forget(hold)
            hold.released = True

    def released(self, hold: H) -> None:
        """End a hold now, whatever mappings there are."""
        if hold.released:
            return
        untold = self._is_untold(hold)
        kept = not untold and self._keep_for_another(hold, self.pending())
        due = self._numbers(hold.segment, hold.seq, hold)
        self._forget(hold)
        hold.released = True
        # In one step with the line before: no call is in between. An untold one that is not held
        # any more is not told either.
        if untold:
            self._used[hold.segment] = None
        elif not kept:
            self._due[hold.segment] = due

    def pending(self) -> dict[str, int]:
        """Return the lowest number of each block that was granted and is not attached yet."""
        lowest: dict[str, int] = {}
        for segment, seq in tuple(self._grants):
            lowest[segment] = min(seq, lowest.get(segment, seq))
        return lowest

    def releases_due(self) -> list[Release]:
        """Return the holds to release; they are returned again until they are `sent`."""
        self._settle()
        return [
            [segment, seq, claim] if claim else [segment, seq]
            for segment, (seq, claim) in self._due.items()
            if segment not in self._telling
        ]

    def sent(self, releases: Sequence[Release]) -> None:
        """Record that the daemon will read these releases before all that is sent from now on."""
        for segment, seq, *claim in releases:
            if self._due.get(segment) == (seq, *(claim or [0])):
                del self._due[segment]

    def claims_due(self) -> tuple[list[Claim], list[str]]:
        """Return the claims to tell, and what was used besides; again until they are sent."""
        for segment, number in tuple(self._untold.items()):
            hold = self._holds.get(segment)
            if hold is not None and hold.mappings:
                self._telling[segment] = number
            elif hold is not None and hold.seq == 0:  # an attach that a Ctrl-C cut off
                self._forget(hold)
            self._untold.pop(segment, None)
        return list(self._telling.items()), list(self._used)

    def claims_sent(self, claims: Sequence[Claim], used: Sequence[str]) -> None:
        """Record that the daemon will read these before all that is sent from now on."""
        for segment, number in claims:
            if self._telling.get(segment) == number:
                del self._telling[segment]
        for segment in used:
            self._used.pop(segment, None)

    def untold(self) -> set[str]:
        """Return the blocks of which a claim is still to be sent."""
        return self._untold.keys() | self._telling.keys()

    @property
    def has_claims(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self._untold or self._telling or self._used)

    def _settle(self) -> None:
        """Have the grants released that were not attached; the others have renewed a hold."""
        if self._attaching:
            return
        for segment, seq in tuple(self._grants):
            hold = self._holds.get(segment)
            if hold is not None and hold.mappings:
                hold.seq = max(hold.seq, seq)
            else:
                self._due[segment] = self._numbers(segment, seq, hold)
                if hold is not None:  # an attach that a Ctrl-C cut off
                    self._forget(hold)
            self._grants.pop((segment, seq), None)

    def _is_untold(self, hold: H) -> bool:
        """Say whether the daemon knows nothing of a hold."""
        known = hold.seq > 0 or hold.segment not in self._untold
        return not known and self._holds.get(hold.segment) is hold

    def _keep_for_another(self, hold: H, pending: Mapping[str, int]) -> bool:
        """Say whether a hold must go on, for another thread is about to attach its block.

        What was granted to that thread before would end with it. So the hold counts as granted
        itself, not attached; what is granted later has a higher number, and needs no care.
        """
        if pending.get(hold.segment, hold.seq + 1) > hold.seq:
            return False
        self._grants[hold.segment, hold.seq] = None
        return True

    def _numbers(self, segment: str, seq: int, hold: H | None) -> tuple[int, int]:
        """Return the numbers that end a hold, or a grant without one, and no hold of later."""
        before = self._due.get(segment, (0, 0))
        claim = self.claims if self._holds.get(segment, hold) is hold else 0
        return max(seq, before[0]), max(claim, before[1])

    def _forget(self, hold: H) -> None:
        if self._holds.get(hold.segment) is hold:
            del self._holds[hold.segment]

    # ---- sessions ------------------------------------------------------------------------

    def stated(self) -> list[str]:
        """Return the blocks that a hello states: what is mapped, and what is about to be."""
        mapped = {segment for segment, hold in self._holds.items() if hold.mappings}
        return sorted(mapped.union(segment for segment, _ in tuple(self._grants)))

    def welcomed(self, said: Sequence[str], seqs: Mapping[str, int]) -> bool:
        """Record what a hello was answered: `seqs` are the new numbers of what the daemon knows.

        Returns
        -------
        bool
            Whether to say hello again: something was granted since `said` was stated, and the
            hello, which states all there is, may have ended its hold.
        """
        for segment in said:
            if segment not in seqs and segment in self._holds:
                self._forget(self._holds[segment])
        late = not set(self.stated()).issubset(said)
        self._grants.update(dict.fromkeys(seqs.items()))
        self.highest_seq = max(self.highest_seq, *seqs.values(), 0)
        return late

    def forked(self) -> None:
        """Begin anew in a forked child, with the parent's holds and nothing that is under way."""
        for collection in (self._grants, self._due, self._untold, self._telling, self._used):
            collection.clear()
        self._attaching = weakref.WeakSet()


class Attaching:
    """One call that may attach; see `HoldTable.attaching`."""

    __slots__ = ("__weakref__", "_all", "_ended")

    def __init__(self, every: weakref.WeakSet[Attaching], ended: Callable[[], object]) -> None:
        self._all, self._ended = every, ended

    def __enter__(self) -> None:
        self._all.add(self)

    def __exit__(self, *_: object) -> None:
        try:
            self._all.discard(self)
        finally:
            self._ended()
