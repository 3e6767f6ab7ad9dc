"""What the registry remembers: sessions, blocks, holds and jobs. Plain data, no rules.

What never changes is frozen, or a named tuple where each array that is asked for needs some.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from arrayd.wire.grant import Spec
from arrayd.wire.records import NOTHING

_T = TypeVar("_T")

Nonce = bytes
"""A session's 128-bit name for itself."""


class ContentKey(bytes):
    """The alias by which loads, not requests, find a block: the key of what was found in a file.

    However it is asked for, an array has one key. No client knows it, so it is in no index.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as the kernel names it, and what it calls itself."""

    uid: int
    pid: int
    program: str = ""
    group: int = 0  # its process group: what was started as one job; 0: there is no telling
    version: str = ""  # of its arrayd
    own: bool = False  # the daemon itself: see `rings`
    members: bool = False  # it understands grants of them
    foreign: bool = False  # it is of another user than the daemon: see `users`
    admin: bool = False  # it may see and end what is other users'
    groups: frozenset[int] = frozenset()  # it is in, if it is foreign

    @property
    def user(self) -> int | None:
        """The uid where that matters: None for the daemon's own user."""
        return self.uid if self.foreign else None


@dataclass(slots=True)
class Hold:
    """The relation *session holds block*, and since when.

    It has two parts, each with a number: the latest grant, by the daemon, and the latest claim, by
    which a session says that it has attached the block by itself. It ends with both.
    """

    seq: int  # 0: it has no grant that its session has not given back
    since: float
    own: bool = False  # the daemon's: never stale
    claim: int = 0  # the number of the session's latest claim of it; 0: as with `seq`
    asked: Any = None  # the identity by which a user has asked for it: see `users.shown`


@dataclass(slots=True)
class Lend:
    """A reference in flight: who sent it, and when."""

    sender: Nonce
    group: int  # the sender's process group: who may redeem it when the sender is gone
    since: float
    user: int | None = None  # the sender's `Peer.user`


@dataclass(slots=True)
class Session:
    """One `Client` object somewhere."""

    nonce: Nonce
    peer: Peer
    since: float
    seq: int = 0  # the number of its latest grant, be it of an earlier run of the daemon
    claims: int = 0  # how often it has attached without asking, as far as it has said
    holds: dict[str, Hold] = field(default_factory=dict)  # by segment; as in blocks' `holders`
    lends: set[tuple[str, bytes]] = field(default_factory=set)  # that it has sent: see `Block`


Release = tuple[str, int, int]
"""Segment, and the numbers of the latest grant and claim that end; see `Hold`."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a session has attached without asking.

    Parameters
    ----------
    holds
        Segments that it holds, each with the number of its claim.
    used
        Segments that it has held for a moment, and given back before it told of them.
    count
        How many claims it has made so far.
    """

    holds: Sequence[tuple[str, int]]
    used: Sequence[str]
    count: int


class Edition(NamedTuple):
    """A file in the state that a request saw it in; a rewritten file has another edition."""

    file: Hashable
    state: Hashable


class State(Enum):
    """Where a block is in its life."""

    LOADING = "loading"  # loader processes fill it; its job is FILLING or SEALING
    WRITING = "writing"  # a client fills it (`arrayd.create`); its job is MAKING to SEALING
    SEALED = "sealed"  # final, may be granted
    UNLINKED = "leaving"  # without a name, or soon; charged until its pages are free or another's
    #: pages of a block that went, under a new name: kept for a load for a while (see `spares`)
    SPARE = "spare"


@dataclass(slots=True)
class BlockMember:
    """One of the arrays that lie together in one block: see `members`.

    Parameters
    ----------
    alias, identity, edition
        Of the request that it was loaded for.
    offset, room
        Where it lies in the data of the block, and the bytes that were reserved for it.
    spec, aliases, lost, outdated
        As of a `Block`; without a spec it is not there, for it is still to be loaded.
    """

    alias: Hashable
    identity: Any
    edition: Edition | None
    offset: int
    room: int
    spec: Spec | None = None
    aliases: list[Hashable] = field(default_factory=list)
    lost: int = 0
    outdated: bool = False


@dataclass(slots=True)
class Block:
    """Shared memory with one array in it, or with those of several small files (`members`)."""

    segment: str
    number: int
    spec: Spec
    size: int  # bytes charged: the whole segment
    identity: Any  # opaque to the core; the shell's description of where it came from
    state: State
    since: float
    used: float
    job: int | None = None
    holders: dict[Nonce, Hold] = field(default_factory=dict)
    lends: dict[bytes, Lend] = field(default_factory=dict)  # by token; in the order of sending
    orphans: dict[bytes, float] = field(default_factory=dict)  # when to ask who is left of them
    asking: bool = False  # a `Trace` of it has no answer yet
    mapped: bool = False  # as the kernel said last; without meaning while it has holders
    aliases: list[Hashable] = field(default_factory=list)
    name: str | None = None  # published under this name
    published: bool = False  # made by a client: cannot be loaded again
    keep: bool = False
    pinned_until: float = -math.inf
    lost: int = 0  # values that the cast changed
    draft: Draft | None = None  # set while the unlink of an unfinished block may be refused
    edition: Edition | None = None  # of the file that it was loaded from
    outdated: bool = False  # the file has changed since: no request finds this block
    linked: bool = False  # found by its key alone: see `Job`
    #: the arrays in it, where `spec` is that of all their bytes; empty: it is one array
    members: list[BlockMember] = field(default_factory=list)
    heir: int | None = None  # UNLINKED: the number of the spare that is to have its pages
    user: int | None = None  # for whom it was made, by `Peer.user`: whose quota it counts in
    readers: set[int] = field(default_factory=set)  # other users who may open its segment
    exposed: bool = False  # one could: it may have kept pages, so they are not used again
    share: str | None = None  # who else may ask for it by name: "all" or "group:NUMBER"
    extra: Mapping[str, Any] = field(default_factory=lambda: NOTHING)  # of a newer arrayd alone

    @property
    def transient(self) -> bool:
        """It goes with its last user or its pin: nobody could load it again, or ask for it."""
        gone = all(m.outdated for m in self.members) if self.members else self.outdated
        return (self.published and not self.keep) or gone

    def parts(self) -> list[BlockMember] | list[Block]:
        """Return what has aliases, an edition and a loss of its own: the members, or the block."""
        return self.members or [self]

    @property
    def array(self) -> Block | BlockMember | None:
        """The one array in it: itself, or its only member; None: several, or it is not loaded."""
        parts = self.parts()
        return parts[0] if len(parts) == 1 and parts[0].spec is not None else None

    @property
    def usable(self) -> bool:
        """Sessions may hold it: it is sealed, or being written."""
        return self.state in (State.SEALED, State.WRITING)

    @property
    def claimed(self) -> bool:
        """It is held, or a reference to it is in flight."""
        return bool(self.holders or self.lends)


class Stage(Enum):
    """Where a job is."""

    PROBING = "probing"  # how big is it?
    AWAITING = "awaiting"  # for a name to be published
    QUEUED = "waiting for room"
    FILLING = "loading"
    MAKING = "being made"  # a segment for a client to write
    WRITING = "writing"
    SEALING = "sealing"


class Asker(NamedTuple):
    """One item of one request of one session: where an answer goes."""

    nonce: Nonce
    request: int
    item: int = 0


@dataclass(slots=True)
class AwaitedItem:
    """What an asker wants besides the array."""

    whole_source: bool = False  # the block will be the whole source: rows are cut by the client
    pin: float = 0.0  # seconds to keep it warm after the grant; inf: until evicted
    timeout: float = 1.0  # seconds to wait for room; for a name: 0 is not at all
    progress: bool = False  # report how far the load is
    ahead: bool = False  # it was answered at once: the load goes on for it, and it gets nothing
    late: bool = False  # it came when the probe of its job was under way
    member: BlockMember | None = None  # of the block of its job, which one it asks for
    asked: Any = None  # as of a `Hold`


@dataclass(frozen=True, slots=True)
class Draft:
    """A block that a client wants to write and publish."""

    spec: Spec
    size: int
    identity: Any
    name: str | None = None
    keep: bool = False
    replace: bool = False
    share: str | None = None  # as of `Block`


@dataclass(slots=True)
class Job:
    """The making of one block."""

    number: int
    stage: Stage
    identity: Any
    since: float
    waiters: dict[Asker, AwaitedItem] = field(default_factory=dict)
    sessions: Counter[Nonce] = field(default_factory=Counter)  # how many of the waiters are whose
    aliases: list[Hashable] = field(default_factory=list)
    edition: Edition | None = None
    spec: Spec | None = None
    size: int = 0
    segment: str | None = None
    info: bool = False  # its source is to be described: no block comes of it
    detached: bool = False  # goes on without waiters (prefetch)
    next_check: float = math.inf  # QUEUED: when its room or its timeout is due
    deadline: float = -math.inf  # QUEUED: when the longest timeout of its waiters ends
    done: int = 0  # rows
    total: int = 0
    reported_at: float = -math.inf  # when progress was last reported
    retried: bool = False  # the kernel had no pages for its first block
    searched_at: float = -math.inf  # QUEUED: when stale holds were last looked for
    writer: Asker | None = None  # of a client's block: who asked last (create, then seal)
    draft: Draft | None = None  # of a client's block: what is to be made
    #: its source is made of files that requests say nothing about: equal requests may mean
    #: other values, so it is found by its key alone, which a probe finds out
    linked: bool = False
    members: list[BlockMember] = field(default_factory=list)  # as of `Block`
    user: int | None = None  # as of `Block`
    given: int = 0  # bytes of its block that it had from the start: those of spare pages

    @property
    def unfilled(self) -> int:
        """Bytes of its block that the kernel may not have given yet."""
        filled = self.size * self.done // self.total if self.total else 0
        return max(0, self.size - max(filled, self.given))


@dataclass(frozen=True, slots=True)
class ProbedFacts:
    """What a probe has found of a source.

    Parameters
    ----------
    key
        Equal for equal contents.
    spec, rows
        The array, and its rows of storage.
    size
        Bytes to charge: the whole segment.
    linked
        `key` depends on more than the requests say: see `Job`.
    """

    key: Hashable
    spec: Spec
    size: int
    rows: int
    linked: bool = False


class LoadedMember(NamedTuple):
    """What a member holds, as was found when it was read; `key` as of `ProbedFacts`."""

    key: Hashable
    spec: Spec
    lost: int = 0


class Place(NamedTuple):
    """Where an alias leads: to a block, or to a member of one."""

    block: Block
    member: BlockMember | None = None

    @property
    def part(self) -> Block | BlockMember:
        """What it leads to."""
        return self.member or self.block


class Wanted(NamedTuple):
    """A request for one source, as the core sees it.

    Parameters
    ----------
    alias
        Equal for equal requests of the same file in the same state.
    whole
        The alias of the same source without ``rows=``; None where there are no rows.
    identity
        Opaque to the core; handed to `Probe`.
    name
        Set for a published block; `alias` is then `name_alias` of it.
    edition
        The file, as its asker sees it; None for a published block.
    user
        The asker's `Peer.user`, whose blocks with members may serve it as well.
    """

    alias: Hashable
    identity: Any
    whole: Hashable | None = None
    name: str | None = None
    edition: Edition | None = None
    user: int | None = None

    def served_by(self, find: Callable[[Hashable], _T | None]) -> tuple[_T | None, bool]:
        """Return what `find` has for it, and whether that is the whole source."""
        if self.whole is None and self.user is None:  # as most
            return find(self.alias), False
        for alias, whole in ((self.alias, False), (self.whole, True)):
            if alias is None:
                continue
            found = find(own_alias(alias, self.user))
            if found is None and self.user is not None:
                found = find(alias)
            if found is not None:
                return found, whole
        return None, False


def own_alias(alias: Hashable, user: int | None) -> Hashable:
    """Return the alias of a member of a user's own block, by which no other user finds it."""
    return alias if user is None else (user, alias)


def name_alias(name: str) -> Hashable:
    """Return the alias under which requests for a published name wait for it."""
    return ("name", name)
