"""Who is heard next, and what may be kept for whom. No socket and no clock is in here.

Theory of operation
-------------------
The daemon is one thread, so what one process asks for delays all others. Shares are counted
per *user*, and of each user's per *process*: a user may have as many processes as it likes, and a
process as many connections.

*Who is heard next.* Each user has a sum `used` of the processor seconds that the handling of its
messages took, and of those with something to hear, the one with the smallest sum gets one message
handled; which of its processes that is, is decided alike. So over any longer time all users that
are busy get equal shares, a flood waits behind everybody else, and what an occasional request
waits for is the message being handled, not the queue of the flood.

Who was silent would come back with a small sum, and be heard alone until it had caught up. It
starts at the *virtual time* instead, the sum at which the one heard last began its turn: silence
saves up no credit, and costs none. (This is start-time fair queueing, which its authors divide
among classes, and those among their flows, in the same way: Goyal, Vin, Cheng, SIGCOMM 1996.)

*Who pauses.* A message cannot be interrupted. A process whose message took long, while others
were there, is not heard for as long again: it leaves at least half of the time to them, even
where each of them asks for little at a time. So it is with a user, while other users are there.

*What is kept.* Half of a message must be kept until the rest comes, and an answer until it is
read. There is one limit for all; when it is passed, of the user that has most of it, the process
that has most loses the connection that has most. Who hoards is the first to go, whoever was the
last to add.

Between processes of one user, who could kill the daemon as well, this protects from accidents: a
loop that never pauses, a client that is stopped in the middle of a message.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Generic, TypeVar

LONG_TURN = 0.002
"""Processor seconds of one message after which its process pauses, if others are there."""

OTHERS_SEEN = 1.0
"""Seconds for which others count as being there, since the turn last changed hands."""

C = TypeVar("C", bound=Hashable)
"""A connection."""


class _Turns:
    """Whose turn it is among some: the virtual time, and who was heard last."""

    __slots__ = ("last", "switched", "virtual_time")

    def __init__(self) -> None:
        self.virtual_time = 0.0
        self.last: object = None  # the one that was heard last
        self.switched = -math.inf  # when another one was heard before it

    def charge(self, one: _User[C] | ProcessQueue[C], cost: float, now: float) -> None:
        """Count a turn; let it pause if it was long and others are there."""
        one.used += cost
        if one is not self.last:
            self.switched = now if self.last is not None else self.switched
            self.last = one
        if cost > LONG_TURN and now - self.switched < OTHERS_SEEN:
            one.paused_until = max(one.paused_until, now + cost)


class _User(Generic[C]):
    """One user: what it has used, and its processes that have something to hear; see there."""

    __slots__ = ("paused_until", "processes", "ready", "turns", "used")

    def __init__(self) -> None:
        self.used = 0.0
        self.paused_until = 0.0
        self.turns = _Turns()  # of its processes
        self.processes: set[ProcessQueue[C]] = set()
        self.ready: set[ProcessQueue[C]] = set()


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

    __slots__ = ("buffered", "paused_until", "ready", "used", "user")

    def __init__(self, user: _User[C]) -> None:
        self.user = user
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
        self._users: dict[Hashable, _User[C]] = {}
        self._processes: dict[tuple[Hashable, Hashable], ProcessQueue[C]] = {}
        self._ready: set[_User[C]] = set()
        self._turns = _Turns()  # of the users

    def process(self, key: Hashable, user: Hashable = None) -> ProcessQueue[C]:
        """Return the queue of a user's process, a new one if it is unknown."""
        found = self._processes.get((user, key))
        if found is None:
            owner = self._users.setdefault(user, _User())
            found = self._processes[user, key] = ProcessQueue(owner)
            owner.processes.add(found)
        return found

    def join(self, process: ProcessQueue[C], connection: C) -> None:
        """Add a connection to its process."""
        process.buffered[connection] = 0

    def leave(self, process: ProcessQueue[C], connection: C) -> None:
        """Remove a connection, and what is kept for it."""
        self.buffered -= process.buffered.pop(connection)
        process.ready.pop(connection, None)
        self._rest(process)

    def _rest(self, process: ProcessQueue[C]) -> None:
        """Let a process, and its user, wait for no turn if nothing is to be heard of it."""
        if not process.ready:
            process.user.ready.discard(process)
            if not process.user.ready:
                self._ready.discard(process.user)

    def prune(self) -> None:
        """Forget processes without a connection. To be called now and then.

        Not when the last connection leaves: a process that comes again at once is still paused.
        """
        self._processes = {key: one for key, one in self._processes.items() if one.buffered}
        for user in self._users.values():
            user.processes = {process for process in user.processes if process.buffered}
        self._users = {key: user for key, user in self._users.items() if user.processes}

    def wake(self, process: ProcessQueue[C], connection: C) -> None:
        """Queue a connection that may have something to hear."""
        process.ready[connection] = None
        user = process.user
        if process not in user.ready:
            process.used = max(process.used, user.turns.virtual_time)
            user.ready.add(process)
        if user not in self._ready:
            user.used = max(user.used, self._turns.virtual_time)
            self._ready.add(user)

    def next(self, now: float) -> ProcessQueue[C] | None:
        """Return the process that is to be heard now; None: there is none, or all pause."""
        found: ProcessQueue[C] | None = None
        for user in self._ready:
            if user.paused_until <= now and (found is None or user.used < found.user.used):
                heard = [process for process in user.ready if process.paused_until <= now]
                found = min(heard, key=lambda process: process.used, default=found)
        return found

    def resume_at(self) -> float | None:
        """Return when the first of the processes that pause is to be heard; None: none waits."""
        ready = ((user, process) for user in self._ready for process in user.ready)
        return min((max(user.paused_until, one.paused_until) for user, one in ready), default=None)

    def take(self, process: ProcessQueue[C]) -> C:
        """Begin the turn of a process; return which of its connections is to be heard."""
        self._turns.virtual_time = process.user.used
        process.user.turns.virtual_time = process.used
        connection = next(iter(process.ready))
        del process.ready[connection]
        self._rest(process)
        return connection

    def charge(self, process: ProcessQueue[C], cost: float, now: float) -> None:
        """End the turn of a process, which took `cost` processor seconds."""
        process.user.turns.charge(process, cost, now)
        self._turns.charge(process.user, cost, now)

    def buffer(self, process: ProcessQueue[C], connection: C, nbytes: int) -> None:
        """Set how many bytes are kept for a connection."""
        self.buffered += nbytes - process.buffered[connection]
        process.buffered[connection] = nbytes

    def excess(self) -> C | None:
        """Return the connection to hang up on; None: what is kept is within the limit."""
        if self.buffered <= self._max_buffered:
            return None
        user = max(self._users.values(), key=lambda one: sum(map(_kept, one.processes)))
        worst = max(user.processes, key=_kept)
        return max(worst.buffered, key=worst.buffered.__getitem__)


def _kept(process: ProcessQueue[C]) -> int:
    return sum(process.buffered.values())
