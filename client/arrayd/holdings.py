"""What this process holds: blocks, their mappings, and the holds that have ended.

No I/O but mapping. Finalizers run anywhere, even inside another call of the same thread
with the lock held, so they only unmap, put the ended hold on a queue, and ring.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from arrayd import array
from arrayd.array import Held, SharedArray
from arrayd.mapping import Mapping as Pages
from arrayd.protocol import Stat
from arrayd.source import Source
from arrayd.spec import Grant
from arrayd.wish import cut

if TYPE_CHECKING:
    from arrayd.session import Session

_T = TypeVar("_T")

Release = list[object]
"""``[segment, seq]``: the hold that ends, by the number of its latest grant."""


class Holdings:
    """The client's side of the relation *session holds block*.

    Parameters
    ----------
    client
        Whose holds these are.
    ring
        Wakes the keeper; allowed inside a garbage collection.
    """

    def __init__(self, client: Session, ring: Callable[[], None]) -> None:
        self.lock = threading.RLock()
        self._client = client
        self._ring = ring
        self._held: dict[str, Held] = {}
        self._latest: dict[Source, tuple[Stat, Grant, Held]] = {}
        self._pages: dict[str, weakref.ref[Pages]] = {}  # the one read-only mapping of each
        self._ended: queue.SimpleQueue[Held] = queue.SimpleQueue()
        self._orphans: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._attaching = 0  # calls between a request and the attach of what it brings

    # ---- arrays --------------------------------------------------------------------------

    def local(self, source: Source, stat: Stat | None, mode: str) -> SharedArray | None:
        """Return the array that a request means, if this process holds its block.

        Raises
        ------
        Vanished
            Its name is gone.
        """
        with self.lock:
            known, grant, held = self._latest.get(source, (None, None, None))
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
            held = self._held.get(grant.segment) or Held(self._client, grant, grant.seq)
            held.seq = max(held.seq, grant.seq)
            result = array.wrap(held, self.pages(held, mode))
            self._held[grant.segment] = held
            if request is not None:
                source, stat = request
                self._latest[source] = (stat, grant, held)
                # What loads this very block again: a window is a part of a whole one.
                loaded = source.whole() if grant.window else source
                held.request = (loaded.to_wire(), stat)
            return result

    def pages(self, held: Held, mode: str) -> Pages:
        """Return a mapping of a held block; one read-only mapping serves a whole process."""
        segment = held.grant.segment
        with self.lock:
            known = self._pages.get(segment)
            pages = known() if known is not None and mode == "r" else None
            if pages is None:
                nbytes = held.grant.spec.nbytes
                pages = Pages(segment, nbytes, mode, lambda: self._on_end(held))
                held.maps += 1
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
            held.seq = max(held.seq, grant.seq)
            held.grant = grant

    # ---- holds that end ------------------------------------------------------------------

    def release(self, held: Held) -> Release | None:
        """End a hold now; None if it has ended already."""
        with self.lock:
            if held.released:
                return None
            held.released = True
            self._forget(held)
            return [held.grant.segment, held.seq]

    def orphan(self, grant: Grant) -> None:
        """Take note of a grant that nobody waits for: it is to be given back."""
        self._orphans.put((grant.segment, grant.seq))
        self._ring()

    def finished(self) -> list[Release]:
        """Return the holds to give back: without a mapping, or granted but never attached."""
        with self.lock:
            ended = [held for held in _drained(self._ended) if self._has_ended(held)]
            releases: list[Release] = [[held.grant.segment, held.seq] for held in ended]
            if not self._attaching:
                releases += filter(None, map(self._given_up, _drained(self._orphans)))
            return releases

    @contextlib.contextmanager
    def attaching(self) -> Iterator[None]:
        """Let no orphaned grant be given back between a request and its attach."""
        with self.lock:
            self._attaching += 1
        try:
            yield
        finally:
            with self.lock:
                self._attaching -= 1

    def _on_end(self, held: Held) -> None:
        self._ended.put(held)
        self._ring()

    def _has_ended(self, held: Held) -> bool:
        """Count one mapping less; say whether the hold ends with it."""
        held.maps -= 1
        if held.maps or held.released:
            return False
        held.released = True
        self._forget(held)
        return True

    def _given_up(self, orphan: tuple[str, int]) -> Release | None:
        """Return the release of an orphaned grant; None where it renewed a hold of ours."""
        segment, seq = orphan
        held = self._held.get(segment)
        if held is None:
            return [segment, seq]
        held.seq = max(held.seq, seq)
        return None

    def _forget(self, held: Held) -> None:
        segment = held.grant.segment
        if self._held.get(segment) is held:
            del self._held[segment]
            self._pages.pop(segment, None)
        for source in [s for s, (_, _, other) in self._latest.items() if other is held]:
            del self._latest[source]

    # ---- sessions ------------------------------------------------------------------------

    def stated(self) -> list[str]:
        """Return the blocks that a hello states."""
        with self.lock:
            return [segment for segment, held in self._held.items() if held.maps]

    def welcomed(self, seqs: Mapping[str, int]) -> None:
        """Take the daemon's word on what we hold; what it does not know stays readable."""
        with self.lock:
            for held in list(self._held.values()):
                if held.grant.segment not in seqs:
                    self._forget(held)
            # The numbers of these holds are new, and some ended while the hello was under way.
            for hold in seqs.items():
                self._orphans.put(hold)
        self._ring()

    def forked(self) -> None:
        """Begin anew in a forked child: same blocks, fresh lock and queues."""
        self.lock = threading.RLock()
        for held in _drained(self._ended):  # unmapped before the fork, so not ours to state
            self._has_ended(held)
        self._ended = queue.SimpleQueue()
        self._orphans = queue.SimpleQueue()
        self._attaching = 0


def _drained(waiting: queue.SimpleQueue[_T]) -> Iterator[_T]:
    with contextlib.suppress(queue.Empty):
        while True:
            yield waiting.get_nowait()
