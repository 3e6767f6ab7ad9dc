"""Who is heard next, and what may be kept for whom. No socket and no clock is in here.

Theory of operation
-------------------
The daemon is one thread, so what one process asks for delays all others. Shares are counted
per *process*, not per connection: a process may open as many connections as it likes.

*Who is heard next.* Each process has a sum `used` of the processor seconds that the handling
of its messages took, and of those with something to hear, the one with the smallest sum gets
one message handled. So over any longer time all that are busy get equal shares, a flood waits
behind everybody else, and what an occasional request waits for is the message being handled,
not the queue of the flood.

A process that was silent would come back with a small sum, and be heard alone until it had
caught up. It starts at the *virtual time* instead, the sum at which the process heard last
began its turn: silence saves up no credit, and costs none. (This is start-time fair queueing:
Goyal, Vin, Cheng, SIGCOMM 1996.)

*Who pauses.* A message cannot be interrupted. A process whose message took long, while others
were there, is not heard for as long again: it leaves at least half of the time to them, even
where each of them asks for little at a time.

*What is kept.* Half of a message must be kept until the rest comes, and an answer until it is
read. There is one limit for all; when it is passed, the process that has most of it loses
the connection that has most. Who hoards is the first to go, whoever was the last to add.

All clients belong to one user today, who could kill the daemon as well. This protects them from
accidents: a loop that never pauses, a client that is stopped in the middle of a message.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

LONG_TURN = 0.002
"""Processor seconds of one message after which its process pauses, if others are there."""

OTHERS_SEEN = 1.0
"""Seconds for which others count as being there, since the turn last changed hands."""

C = TypeVar("C", bound=Hashable)
"""A connection."""


class ProcessQueue(Generic[C]):
    """One process: what it has used, and its connections.

    Attributes
    ----------
    used
        Processor seconds, or the virtual time at its last return if that was more.
    buffered
        Bytes that are kept for each of its connections.
    ready
        Those of its connections that may have something to hear, in order; a set.
    """

    __slots__ = ("buffered", "key", "paused_until", "ready", "used")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.used = 0.0
        self.paused_until = 0.0
        self.buffered: dict[C, int] = {}
        self.ready: dict[C, None] = {}


class FairQueue(Generic[C]):
    """All processes; times are seconds of any one clock.

    Parameters
    ----------
    max_buffered
        Bytes that may be kept, over all connections.
    """

    def __init__(self, max_buffered: int) -> None:
        self.buffered = 0
        self._max_buffered = max_buffered
        self._virtual_time = 0.0
        self._processes: dict[Hashable, ProcessQueue[C]] = {}
        self._ready: set[ProcessQueue[C]] = set()
        self._last: ProcessQueue[C] | None = None  # the one that was heard last
        self._switched = 0.0  # when another one was heard before it

    def process(self, key: Hashable) -> ProcessQueue[C]:
        """Return the queue of a process, a new one if it is unknown."""
        return self._processes.setdefault(key, ProcessQueue(key))

    def join(self, process: ProcessQueue[C], connection: C) -> None:
        """Add a connection to its process."""
        process.buffered[connection] = 0

    def leave(self, process: ProcessQueue[C], connection: C) -> None:
        """Remove a connection, and what is kept for it."""
        self.buffered -= process.buffered.pop(connection)
        process.ready.pop(connection, None)
        if not process.ready:
            self._ready.discard(process)

    def prune(self) -> None:
        """Forget processes without a connection. To be called now and then.

        Not when the last connection leaves: a process that comes again at once is still paused.
        """
        self._processes = {key: one for key, one in self._processes.items() if one.buffered}

    def wake(self, process: ProcessQueue[C], connection: C) -> None:
        """Queue a connection that may have something to hear."""
        process.ready[connection] = None
        if process not in self._ready:
            process.used = max(process.used, self._virtual_time)
            self._ready.add(process)

    def next(self, now: float) -> ProcessQueue[C] | None:
        """Return the process that is to be heard now; None: there is none, or all pause."""
        if not self._ready:
            return None
        heard = [process for process in self._ready if process.paused_until <= now]
        return min(heard, key=lambda process: process.used, default=None)

    def resume_at(self) -> float | None:
        """Return when the first of the processes that pause is to be heard; None: none waits."""
        return min((process.paused_until for process in self._ready), default=None)

    def take(self, process: ProcessQueue[C]) -> C:
        """Begin the turn of a process; return which of its connections is to be heard."""
        self._virtual_time = process.used
        connection = next(iter(process.ready))
        del process.ready[connection]
        if not process.ready:
            self._ready.discard(process)
        return connection

    def charge(self, process: ProcessQueue[C], cost: float, now: float) -> None:
        """End the turn of a process, which took `cost` processor seconds."""
        process.used += cost
        if process is not self._last:
            self._last, self._switched = process, now
        if cost > LONG_TURN and now - self._switched < OTHERS_SEEN:
            process.paused_until = max(process.paused_until, now + cost)

    def buffer(self, process: ProcessQueue[C], connection: C, nbytes: int) -> None:
        """Set how many bytes are kept for a connection."""
        self.buffered += nbytes - process.buffered[connection]
        process.buffered[connection] = nbytes

    def excess(self) -> C | None:
        """Return the connection to hang up on; None: what is kept is within the limit."""
        if self.buffered <= self._max_buffered:
            return None
        worst = max(self._processes.values(), key=lambda process: sum(process.buffered.values()))
        return max(worst.buffered, key=worst.buffered.__getitem__)
