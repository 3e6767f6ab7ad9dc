"""`HeldBlocks`: the blocks that this process holds, with their mappings and arrays.

`HoldTable` decides what is held and what is to be released; here are the lock, the mappings, the
arrays, and the way from a finalizer to the table. Finalizers run anywhere, even inside another
call of the same thread with the lock held, so they only unmap, append the ended mapping to a
queue, and wake the flusher.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arrayd import array
from arrayd.array import Held, HoldOwner, SharedArray, cut
from arrayd.common import failpoints
from arrayd.session.holds import Attaching, Claim, HoldTable, Release
from arrayd.session.request import FileRequest
from arrayd.session.shortcuts import Shortcuts
from arrayd.system import mapping, writers
from arrayd.system.mapping import MappingFinalizer, SegmentMapping
from arrayd.system.signal_safe import drain
from arrayd.wire.grant import Grant


class HeldBlocks:
    """What a session holds.

    Parameters
    ----------
    owner
        Whose holds these are.
    wake
        Wakes the flusher, whatever its arguments; allowed inside a garbage collection.
    """

    def __init__(self, owner: HoldOwner, wake: Callable[..., None]) -> None:
        self.lock = threading.RLock()
        self._owner = owner
        self._wake = wake
        self._table = HoldTable[Held]()
        self.shortcuts = Shortcuts(self._table.find)
        self._by_key: dict[bytes, tuple[Grant, Held]] = {}  # of requests
        self._ended: deque[MappingFinalizer] = deque()
        self._will_tell = False  # the flusher is awake, and will tell what is claimed

    @property
    def has_claims(self) -> bool:
        """Whether the daemon has not been told of all holds."""
        return self._table.has_claims

    @property
    def claims(self) -> int:
        """How many holds were begun without asking."""
        return self._table.claims

    @property
    def highest_seq(self) -> int:
        """The highest number of a grant that came."""
        return self._table.highest_seq

    # ---- arrays --------------------------------------------------------------------------

    def local(
        self, request: FileRequest, key: bytes, mode: str, words: tuple[object, Mapping[str, Any]]
    ) -> SharedArray | None:
        """Return the array that a request means, if this process holds its block.

        `key` is the request's. `words` are the arguments that it was made of: they find the block
        sooner the next time.

        Raises
        ------
        Vanished
            Its name is gone.
        """
        if key not in self._by_key:
            return None
        with self.lock:
            grant, held = self._by_key.get(key, (None, None))
            if grant is None or held is None:
                return None
            if held.hold.released or self._table.find(held.segment) is not held.hold:
                return None
            result = cut(array.wrap(held, self._pages(held.hold, mode)), grant, request.source)
            if mode == "r" and request.stat is not None:
                self.shortcuts.add(words, request.source, request.stat, grant, held)
            return result

    def attach(self, grant: Grant, mode: str, request: FileRequest | None = None) -> SharedArray:
        """Map what was granted and return the array of the whole block, or of the member.

        Raises
        ------
        Vanished
            The segment is gone, or another one has its name.
        """
        with self.lock:
            hold = self._table.find(grant.segment)
            if hold is None or not grant.extent:
                hold = self._table.held(Held(self._owner, grant, grant.seq))
            hold.seq = max(hold.seq, grant.seq)
            held = Held(self._owner, grant, grant.seq, hold) if grant.extent else hold
            result = array.wrap(held, self._pages(hold, mode))
            failpoints.hit("client.mapped")
            if request is not None:
                self._remember(hold, held, grant, request, request.key())
            self._table.attached(grant.segment, grant.seq)
            return result

    def attach_indexed(
        self, grant: Grant, mode: str, request: FileRequest, key: bytes
    ) -> SharedArray:
        """Map what the index leads to, and return the array of the block, or of the member.

        `grant` has no number: the daemon hears of it later.

        Raises
        ------
        Vanished
            The segment is gone, or another one has its name: the index was out of date.
        """
        with self.lock:
            hold = self._table.find(grant.segment)
            if hold is None or not hold.mappings or not grant.extent:
                hold = self._table.claimed(Held(self._owner, grant, 0))
            held = Held(self._owner, grant, 0, hold) if grant.extent else hold
            try:
                result = array.wrap(held, self._pages(hold, mode))
            except Exception:
                self._table.unclaimed(hold)
                raise
            self._remember(hold, held, grant, request, key)
        if not self._will_tell:
            self._will_tell = True
            self._wake()
        return result

    def _remember(
        self, hold: Held, held: Held, grant: Grant, request: FileRequest, key: bytes
    ) -> None:
        """Note what a block, or a member of it, was asked as."""
        if request.stat is None:
            return
        if not grant.key:
            hold.keys[key] = None
            self._by_key[key] = (grant, held)
        # What loads this very block again: a window is a part of a whole one.
        loaded = request.source.whole() if grant.window else request.source
        held.request = (loaded, request.stat)

    def _pages(self, held: Held, mode: str) -> SegmentMapping:
        """Return a mapping of a held block; one read-only mapping serves a whole process."""
        pages = held.pages() if held.pages is not None and mode == "r" else None
        if pages is None:
            nbytes = held.grant.extent or held.grant.spec.nbytes
            pages = SegmentMapping(held.segment, nbytes, mode, held, self._ended.append, self._wake)
            self._table.mapped(held, pages.end)
            if mode == "r":
                held.pages = weakref.ref(pages)
        return pages

    def sealed(self, held: Held, grant: Grant) -> None:
        """Record that a block which this process has written is final."""
        with self.lock:
            held.grant = grant
            self.renewed(grant)

    def moved(self, held: Held, new: Held) -> None:
        """Record that what lay in one block lies in another from now on, with its hold."""
        with self.lock:
            for end in new.mappings:
                end.owner = held
            held.grant = new.grant
            self._table.moved(held, new)

    def renewed(self, grant: Grant) -> None:
        """Record that a hold of ours was granted again, with a higher number."""
        with self.lock:
            self._table.renewed(grant.segment, grant.seq)

    # ---- holds that end ------------------------------------------------------------------

    def release(self, held: Held) -> None:
        """End a hold now: it is due for release."""
        with self.lock:
            self._table.released(held)
            self._forget_sources(held)

    def granted(self, grant: Grant) -> None:
        """Record a grant, as it comes in: unless it is attached, it will be released.

        So there is no moment in which a Ctrl-C, a timeout or an error can lose one.
        """
        if self._table.granted(grant.segment, grant.seq):  # nobody waits for it
            self._wake()

    def releases_due(self) -> list[Release]:
        """Return the holds to release: without a mapping, or granted but never attached.

        Until `sent` they are returned again; to release one twice changes nothing.
        """
        if not self._ended and not self._table.has_grants():
            return []
        with self.lock:
            self._take_ended(self._table.pending() if self._ended else {})
            due = self._table.releases_due()
            if due:
                failpoints.hit("client.releasing")
            return due

    def sent(self, releases: Sequence[Release]) -> None:
        """Record that the daemon will read these releases."""
        with self.lock:
            self._table.sent(releases)

    def claims_due(self) -> tuple[list[Claim], list[str]]:
        """Return the holds to tell of, and the blocks that were used and are not held any more.

        Until `claims_sent` they are returned again; to tell twice changes nothing.
        """
        self._will_tell = False
        with self.lock:
            self._take_ended(self._table.pending() if self._ended else {})
            return self._table.claims_due()

    def claims_sent(self, claims: Sequence[Claim], used: Sequence[str]) -> None:
        """Record that the daemon will read these claims."""
        with self.lock:
            self._table.claims_sent(claims, used)

    def attaching(self) -> Attaching:
        """Let no grant be released between a request and its attach, in a ``with``."""
        return self._table.attaching(self._attached)

    def _attached(self) -> None:
        """After an attach: have what was granted, and not attached, released."""
        if self._table.has_grants():
            with self.lock:
                left = bool(self._table.releases_due())
            if left:
                self._wake()

    def _take_ended(self, pending: Mapping[str, int]) -> None:
        """Tell the table of the mappings that have ended."""

        def ended(end: MappingFinalizer) -> None:
            held: Held = end.owner
            self._table.unmapped(held, end, pending)
            if held.released:
                self._forget_sources(held)
            mapping.discard(end)

        drain(self._ended, ended)

    def _forget_sources(self, held: Held) -> None:
        self.shortcuts.forget(held)
        for key in held.keys:
            known = self._by_key.get(key)
            if known is not None and known[1].hold is held:
                self._by_key.pop(key, None)

    # ---- sessions ------------------------------------------------------------------------

    def stated(self) -> list[str]:
        """Return the blocks that a hello states: what is mapped, and what is about to be."""
        with self.lock:
            return self._table.stated()

    def welcomed(self, said: Sequence[str], seqs: Mapping[str, int]) -> bool:
        """Record what a hello was answered; say whether to say hello again."""
        with self.lock:
            late = self._table.welcomed(said, seqs)
        self._wake()
        return late

    def forked(self) -> None:
        """Begin anew in a forked child: same blocks, fresh lock and queues."""
        self.lock = threading.RLock()
        self._take_ended({})  # they ended before the fork: the parent releases them
        self._table.forked()
        if writers.is_worker():
            self._inherited_by_accident()

    def _inherited_by_accident(self) -> None:
        """Let it be known that this process, a pool's worker, did not ask for what is written."""
        for held in self._table.all():
            for end in held.mappings:
                pages = end()
                if pages is not None and pages.mode == "w":
                    pages.inherited()
