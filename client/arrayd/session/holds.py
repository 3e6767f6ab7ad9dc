"""What this process holds: blocks, their mappings, and the holds that have ended.

No I/O but mapping. Finalizers run anywhere, even inside another call of the same thread
with the lock held, so they only unmap, append the ended hold to a queue, and ring.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from arrayd import array
from arrayd.array import Held, HoldOwner, SharedArray, cut
from arrayd.common import failpoints
from arrayd.source import Source
from arrayd.system import mapping, writers
from arrayd.system.mapping import MappingFinalizer, SegmentMapping
from arrayd.system.signal_safe import drain
from arrayd.wire.grant import Grant
from arrayd.wire.protocol import Stat

_Number = tuple[str, int]
"""Segment, and number of a grant."""

Release = list[Any]
"""Segment and number: the hold that ends, by the number of its latest grant."""


class Holdings:
    """The client's side of the relation *session holds block*.

    Parameters
    ----------
    owner
        Whose holds these are.
    wake
        Wakes the flusher, whatever its arguments; allowed inside a garbage collection.
    """

    def __init__(self, owner: HoldOwner, wake: Callable[..., None]) -> None:
        self.lock = threading.RLock()
        self.highest_seq = 0  # the highest number of a grant that came; see `Registry.hello`
        self._owner = owner
        self._wake = wake
        self._held: dict[str, Held] = {}
        self._by_source: dict[Source, tuple[Stat, Grant, Held]] = {}
        self._pages: dict[
            str, weakref.ref[SegmentMapping]
        ] = {}  # the one read-only mapping of each
        # Nothing leaves one of these before it is in the next: a Ctrl-C finds all in order.
        self._ended: deque[MappingFinalizer] = deque()
        self._grants: dict[_Number, None] = {}  # not attached, or not yet known to be
        self._untold: dict[str, int] = {}  # holds to give back: segment, number
        # Calls between a request and the attach of what it brings, each a token on its stack:
        # a Ctrl-C in the very moment when one is counted cannot leave it counted.
        self._attaching: weakref.WeakSet[_Attaching] = weakref.WeakSet()

    # ---- arrays --------------------------------------------------------------------------

    def local(self, source: Source, stat: Stat | None, mode: str) -> SharedArray | None:
        """Return the array that a request means, if this process holds its block.

        Raises
        ------
        Vanished
            Its name is gone.
        """
        with self.lock:
            known, grant, held = self._by_source.get(source, (None, None, None))
            if grant is None or held is None or held.released or stat is None or known != stat:
                return None
            return cut(array.wrap(held, self.pages(held, mode)), grant, source)

    def attach(
        self, grant: Grant, mode: str, request: tuple[Source, Stat] | None = None
    ) -> SharedArray:
        """Map what was granted and return the array of the whole block.

        Raises
        ------
        Vanished
            The segment is gone, or another one has its name.
        """
        with self.lock:
            fresh = Held(self._owner, grant, grant.seq)
            # In one step: a signal handler or a finalizer may attach the same block meanwhile.
            held = self._held.setdefault(grant.segment, fresh)
            held.seq = max(held.seq, grant.seq)
            result = array.wrap(held, self.pages(held, mode))
            failpoints.hit("client.mapped")
            if request is not None:
                source, stat = request
                if not grant.key:
                    self._by_source[source] = (stat, grant, held)
                # What loads this very block again: a window is a part of a whole one.
                loaded = source.whole() if grant.window else source
                held.request = (loaded.to_wire(), stat)
            self._grants.pop((grant.segment, grant.seq), None)
            return result

    def pages(self, held: Held, mode: str) -> SegmentMapping:
        """Return a mapping of a held block; one read-only mapping serves a whole process."""
        segment = held.grant.segment
        with self.lock:
            known = self._pages.get(segment)
            pages = known() if known is not None and mode == "r" else None
            if pages is None:
                nbytes = held.grant.spec.nbytes
                pages = SegmentMapping(segment, nbytes, mode, held, self._ended.append, self._wake)
                held.ends.add(pages.end)
                if mode == "r":
                    self._pages[segment] = weakref.ref(pages)
            return pages

    def find(self, segment: str) -> Held | None:
        """Return the hold of a block, if it still counts."""
        with self.lock:
            return self._held.get(segment)

    def sealed(self, held: Held, grant: Grant) -> None:
        """Take note that a block this process has written is final."""
        with self.lock:
            held.grant = grant
            self.renewed(grant)

    def moved(self, held: Held, new: Held) -> None:
        """Take note that what lay in one block lies in another from now on, with its hold."""
        with self.lock:
            self._held.pop(held.grant.segment, None)
            held.grant, held.block = new.grant, new.block
            held.seq = max(held.seq, new.seq)
            for end in new.ends:
                end.owner = held
            held.ends |= new.ends
            self._held[held.grant.segment] = held

    def renewed(self, grant: Grant) -> None:
        """Take note that a hold of ours was granted again, with a higher number."""
        with self.lock:
            held = self._held.get(grant.segment)
            if held is not None:
                held.seq = max(held.seq, grant.seq)
                self._grants.pop((grant.segment, grant.seq), None)

    # ---- holds that end ------------------------------------------------------------------

    def release(self, held: Held) -> None:
        """MappingFinalizer a hold now: `releases_due` gives it back."""
        with self.lock:
            if held.released:
                return
            segment, seq = held.grant.segment, held.seq
            awaited = self._awaited(segment, seq, self._pending())
            latest = max(seq, self._untold.get(segment, 0))
            self._forget(held)
            held.released = True
            if not awaited:  # in one step with the line before: no call is in between
                self._untold[segment] = latest

    def granted(self, grant: Grant) -> None:
        """Take note of a grant, as it comes in: unless it is attached, it is given back.

        So there is no moment in which a Ctrl-C, a timeout or an error can lose one.
        """
        self.highest_seq = max(self.highest_seq, grant.seq)
        self._grants[grant.segment, grant.seq] = None
        if not self._attaching:  # nobody waits for it
            self._wake()

    def releases_due(self) -> list[Release]:
        """Return the holds to give back: without a mapping, or granted but never attached.

        Until `sent` they are returned again; to give one back twice changes nothing.
        """
        with self.lock:
            pending = self._pending() if self._ended else {}
            drain(self._ended, lambda end: self._end(end, pending))
            self._look_through()
            if self._untold:
                failpoints.hit("client.releasing")
            return [[segment, seq] for segment, seq in self._untold.items()]

    def sent(self, releases: list[Release]) -> None:
        """Take note that the daemon will hear of these."""
        with self.lock:
            for segment, seq in releases:
                if self._untold.get(segment) == seq:
                    del self._untold[segment]

    @contextlib.contextmanager
    def attaching(self) -> Iterator[None]:
        """Let no grant be given back between a request and its attach."""
        token = _Attaching()
        self._attaching.add(token)
        try:
            yield
        finally:
            self._attaching.discard(token)
            self._settle()

    def _settle(self) -> None:
        """See which of the grants that came were attached; ring for the others."""
        with self.lock:
            self._look_through()
            left = bool(self._untold)
        if left:
            self._wake()

    def _end(self, end: MappingFinalizer, pending: Mapping[str, int]) -> None:
        """Count one mapping less; give the hold back if it was the last."""
        held: Held = end.owner
        held.ends.discard(end)
        if not held.ends:
            segment, seq = held.grant.segment, held.seq
            if not held.released and not self._awaited(segment, seq, pending):
                self._give_back(segment, seq)
            held.released = True
            self._forget(held)
        mapping.discard(end)

    def _look_through(self) -> None:
        """Give the grants back that were not attached; the others have renewed holds of ours."""
        if self._attaching:
            return
        for grant in tuple(self._grants):
            segment, seq = grant
            held = self._held.get(segment)
            if held is not None and held.ends:
                held.seq = max(held.seq, seq)
            else:
                self._give_back(segment, seq)
                if held is not None:  # an attach that a Ctrl-C cut off
                    self._forget(held)
            self._grants.pop(grant, None)

    def _pending(self) -> dict[str, int]:
        """Return the lowest number of each block that was granted and is not attached yet."""
        lowest: dict[str, int] = {}
        for segment, seq in tuple(self._grants):
            lowest[segment] = min(seq, lowest.get(segment, seq))
        return lowest

    def _awaited(self, segment: str, seq: int, pending: Mapping[str, int]) -> bool:
        """Say whether a hold must go on, for another thread is about to attach its block.

        What was granted to that thread before would end with it. So it counts as granted
        itself, not attached; what is granted later has a higher number, and needs no care.
        """
        if segment not in pending or pending[segment] > seq:
            return False
        self._grants[segment, seq] = None
        return True

    def _give_back(self, segment: str, seq: int) -> None:
        self._untold[segment] = max(seq, self._untold.get(segment, 0))

    def _forget(self, held: Held) -> None:
        segment = held.grant.segment
        if self._held.get(segment) is held:
            del self._held[segment]
            self._pages.pop(segment, None)
        for source in [s for s, (_, _, other) in self._by_source.items() if other is held]:
            del self._by_source[source]

    # ---- sessions ------------------------------------------------------------------------

    def stated(self) -> list[str]:
        """Return the blocks that a hello states: what is mapped, and what is about to be."""
        with self.lock:
            mapped = {segment for segment, held in self._held.items() if held.ends}
            return sorted(mapped.union(segment for segment, _ in tuple(self._grants)))

    def welcomed(self, said: Sequence[str], seqs: Mapping[str, int]) -> bool:
        """Take the daemon's word on what we said we hold; what it does not know stays readable.

        Returns
        -------
        bool
            Whether that has to be said again: something was granted since, and the hello,
            which states all there is, may have ended its hold.
        """
        with self.lock:
            for segment in said:
                if segment not in seqs and segment in self._held:
                    self._forget(self._held[segment])
            late = not set(self.stated()).issubset(said)
            # The numbers of these holds are new, and some ended while the hello was under way.
            self._grants.update(dict.fromkeys(seqs.items()))
            self.highest_seq = max(self.highest_seq, *seqs.values(), 0)
        self._wake()
        return late

    def forked(self) -> None:
        """Begin anew in a forked child: same blocks, fresh lock and queues."""
        self.lock = threading.RLock()
        self._grants.clear()
        drain(self._ended, lambda end: self._end(end, {}))  # before the fork: not ours to state
        self._untold.clear()
        self._attaching = weakref.WeakSet()
        if writers.is_worker():
            self._inherited_by_accident()

    def _inherited_by_accident(self) -> None:
        """Let it be known that this process, a pool's worker, did not ask for what is written."""
        for held in tuple(self._held.values()):
            for end in held.ends:
                pages = end()
                if pages is not None and pages.mode == "w":
                    pages.inherited()


class _Attaching:
    """One call that may attach; see `Holdings.attaching`."""

    __slots__ = ("__weakref__",)
