"""What a daemon knows at one moment, as plain data; `status_table` renders it.

The fields are those of the daemon's answer (`arrayd_server.service.status_report`). Sizes are
in bytes, times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from arrayd.wire.dtypes import descr, from_descr
from arrayd.wire.records import Record, later


@dataclass(frozen=True, slots=True)
class Holder(Record):
    """A process that holds a block or waits for one; `since`: for how long."""

    pid: int
    uid: int
    program: str
    since: float


@dataclass(frozen=True, slots=True)
class SessionStatus(Record):
    """A client of the daemon; `version` is that of its arrayd, empty if unknown."""

    pid: int
    uid: int
    program: str
    age: float
    version: str = later("")


@dataclass(frozen=True, slots=True)
class BlockStatus(Record):
    """An array in shared memory.

    Parameters
    ----------
    number
        As ``arrayd evict --block`` takes it.
    segment
        Its name in /dev/shm.
    size, nbytes
        What it takes of the budget, and the array's data alone.
    state
        ``loading``, ``writing``, ``held``, ``lent`` (a reference is on its way), ``idle``
        (kept as cache), ``stray`` (mapped by a process that has no hold) or ``leaving``
        (unlinked, still mapped).
    pinned
        Published with ``keep=True``, or pinned for some time: not evicted for room.
    done, total
        Rows loaded, and to load.
    path, name
        Of the file; of the published block.
    lends
        References on their way.
    age, unused
        Since it was made; since it was last granted or held.
    eta
        Seconds until it is loaded, if it goes on as it went; None: not loading, or not known yet.
    mapped_by
        Of a ``stray`` one: the processes that map it, as far as this user may see them. The
        client finds them in /proc (`arrayd status`); a daemon does not say.
    members
        Arrays in it, if it has those of several small files: then shape and dtype are those of
        all their bytes.
    own
        It is in the user's own daemon, beside the one that was asked (`arrayd who`).
    """

    number: int
    segment: str
    size: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any] = field(
        metadata={"key": "descr", "read": partial(from_descr, stand_in=True), "write": descr}
    )
    order: str
    state: str
    pinned: bool
    done: int
    total: int
    source: str
    path: str
    name: str | None
    holders: tuple[Holder, ...]
    waiters: tuple[Holder, ...]
    lends: int
    age: float
    unused: float
    members: int = later(0)
    eta: float | None = later(None)
    mapped_by: tuple[int, ...] = later(())
    own: bool = later(False)


@dataclass(frozen=True, slots=True)
class JobStatus(Record):
    """Work that has no block yet: a file is looked at, or room or a name is waited for.

    `stage` is ``probing``, ``awaiting``, ``waiting for room``, or ``info``.
    """

    stage: str
    source: str
    size: int
    waiters: tuple[Holder, ...]
    age: float


@dataclass(frozen=True, slots=True)
class UserSum(Record):
    """What a user has; `uid` is None for all that others have in use.

    `held` is bytes, of `blocks` blocks that its processes hold: one that two users hold counts for
    both.
    """

    uid: int | None
    held: int
    blocks: int
    sessions: int


@dataclass(frozen=True, slots=True)
class Elsewhere(Record):
    """What daemons of a user besides the one that was asked have in /dev/shm, `size` in bytes."""

    uid: int
    blocks: int
    size: int


@dataclass(frozen=True, slots=True)
class QuotaStatus(Record):
    """What a user has of what it may have, or the members of a group together.

    Parameters
    ----------
    entry
        The entry of the option ``quotas`` that says what it may have: ``alice``, ``@lab``, ``*``.
    uid, gid
        The user, or the group; the other is None.
    bytes, blocks
        In memory: made for it, or held by it; what several members hold counts once.
    pinned
        Bytes of its blocks that are pinned, or kept.
    sessions, loads
        Open, and in flight.
    limits
        What it may have, by the names of these, and ``soft_bytes``; without an entry: as much as
        there is.
    """

    entry: str
    uid: int | None
    gid: int | None
    bytes: int
    blocks: int
    pinned: int
    sessions: int
    loads: int
    limits: dict[str, int]


@dataclass(frozen=True, slots=True)
class ProcessStatus(Record):
    """A process that has asked for something."""

    pid: int
    uid: int
    program: str


@dataclass(frozen=True, slots=True)
class FailureStatus(Record):
    """A load that failed, `age` seconds ago.

    `error` is the class of the error, `message` its first line, `askers` are who got it.
    """

    source: str
    error: str
    message: str
    age: float
    askers: tuple[ProcessStatus, ...]


@dataclass(frozen=True, slots=True)
class ConsumerStatus(Record):
    """A consumer of a stream.

    Parameters
    ----------
    pid, uid, program
        Its process.
    cursor, limit
        The first position that it still needs, and where it ends (None: nowhere).
    lag
        Rows that the reader is ahead of it.
    waits, stalled
        How often, and for how long, there was nothing to read for it.
    idle
        Since it last moved, or could move on.
    detached
        Nobody waits for it: it reads an old ring to its end, and then opens again.
    age
        Since it was opened.
    """

    number: int
    pid: int
    uid: int
    program: str
    cursor: int
    limit: int | None
    lag: int
    waits: int
    stalled: float
    idle: float
    detached: bool
    age: float


@dataclass(frozen=True, slots=True)
class StreamStatus(Record):
    """Rows that one reader reads for all consumers who want them in the same order.

    Parameters
    ----------
    source, order
        What is read, and in which kind of order.
    state
        ``waits for its ring``, ``its reader starts``, ``waits for consumers``, ``reading``,
        ``old rings only`` (all consumers are detached) or ``failed``.
    rows
        Of an epoch.
    slots, generation
        Rows of the ring, and how many rings there were before this one.
    head, planned, epoch
        Positions below are read, or being read; the epoch that the head is in.
    ring_bytes, share_bytes
        Of its rings and of its resident share.
    bytes_read, bytes_used
        From files, and put into the ring.
    windowed
        What must be decoded is decoded for each window anew: there is no pack.
    """

    number: int
    source: str
    order: str
    state: str
    rows: int
    slots: int
    generation: int
    head: int
    planned: int
    epoch: int
    ring_bytes: int
    share_bytes: int
    bytes_read: int
    bytes_used: int
    age: float
    consumers: tuple[ConsumerStatus, ...]
    windowed: bool = later(False)


@dataclass(frozen=True, slots=True)
class DaemonStatus(Record):
    """What a daemon knows at one moment.

    Parameters
    ----------
    version, pid, uid, private, uptime, endpoint, scope
        The daemon.
    leases
        Whether it can ask the kernel if anybody maps a block (``fs.leases-enable``).
    budget, charged, held, idle, spare
        Bytes it may have in blocks, has, and of these: in use, kept as cache, and pages of blocks
        that went, kept for the next load.
    shm_used, shm_total
        Of /dev/shm, whoever uses it.
    garbage
        Number of messages that were no requests.
    counters
        Of what happened since the start: requests, hits, loads, …
    blocks_more, jobs_more
        How many there are besides `blocks`, which has 10,000 at most and fewer where they have
        many holders (those in use first, then the idle ones that were used last), and `jobs`,
        which has a hundred at most.
    streams
        All of them.
    users
        What each user holds. Another user than the daemon's has its own sum, and what is in use
        besides, as one.
    quotas
        Of each user and group that has something, and a limit; another user than the daemon's has
        its own, and those of its groups.
    failures
        The ten loads that failed last, the latest first; another user than the daemon's has its
        own.
    draining
        Somebody has asked that nothing new is begun (`arrayd drain`), for it is to stop.
    elsewhere
        What other daemons of the machine have, by their user, the largest first. Like
        `private_daemon` the client finds it (`arrayd status`); a daemon does not say.
    private_daemon
        Endpoint of the private daemon of the user who asks, if one runs beside this one.
    """

    version: str
    pid: int
    uid: int
    private: bool
    uptime: float
    endpoint: str
    scope: str
    leases: bool
    budget: int
    charged: int
    held: int
    idle: int
    shm_used: int
    shm_total: int
    garbage: int
    counters: dict[str, int]
    sessions: tuple[SessionStatus, ...]
    blocks: tuple[BlockStatus, ...]
    blocks_more: int
    jobs: tuple[JobStatus, ...]
    jobs_more: int
    streams: tuple[StreamStatus, ...] = later(())
    spare: int = later(0)
    draining: bool = later(False)
    users: tuple[UserSum, ...] = later(())
    failures: tuple[FailureStatus, ...] = later(())
    elsewhere: tuple[Elsewhere, ...] = later(())
    private_daemon: str = later("")
    quotas: tuple[QuotaStatus, ...] = later(())

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain data for `json.dumps`; a dtype is its ``.npy`` description."""
        plain: dict[str, Any] = listed(self.to_wire())
        return plain


def listed(value: Any) -> Any:
    """Return the same with lists for tuples, as JSON has it."""
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    return [listed(item) for item in value] if isinstance(value, (tuple, list)) else value
