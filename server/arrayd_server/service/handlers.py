"""What each request means: decoded fields in, an event of the core out.

A handler takes the service, the request and its asker, and returns effects. Answers that
need no decision of the core (info, status) it sends itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from arrayd.common import failpoints
from arrayd.errors import ArraydError, DaemonError, NoSuchBlock, SpecMismatch
from arrayd.source import Source
from arrayd.wire.dtypes import from_descr
from arrayd.wire.grant import Spec
from arrayd.wire.requests import Request
from arrayd_server import identity
from arrayd_server.core import users
from arrayd_server.core.effects import Effect, Reply, Result
from arrayd_server.core.model import (
    Asker,
    AwaitedItem,
    Block,
    Claims,
    Draft,
    Peer,
    Wanted,
    name_alias,
)
from arrayd_server.identity import BlockIdentity
from arrayd_server.segments.block_metadata import planned
from arrayd_server.service import audit, operators, status_report, stream_requests
from arrayd_server.service.service import Service
from arrayd_server.service.small_files import SmallFiles

ROOM_TIMEOUT = 1.0
"""Seconds that a request waits for room when it names no timeout."""

MAX_IN_FLIGHT = 100_000
"""Jobs, and items that wait for an answer, that are remembered; each costs 1 to 6 KB."""

SHARE = 4
"""A session may have a quarter of what is left, so a fifth of what others leave, never all.

(Dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking, 1998.)
"""


def get(service: Service, request: Request, now: float) -> list[Effect]:
    """Grant, join or load each item."""
    effects: list[Effect] = []
    small, terms = SmallFiles(service, request.nonce), _Terms.of(request)
    caller = service.caller(request.nonce)
    for index, item in enumerate(request.fields["items"]):
        to, wanted = Asker(request.nonce, request.id, index), _meant(item, caller)
        if isinstance(wanted, ArraydError):
            effects.append(Reply(to, wanted))
            continue
        waiter = terms.waiter(wanted, foreign=caller.foreign)
        if small.take(to, wanted, waiter):
            continue
        wanted = _unless_too_many(service, to, wanted)
        if isinstance(wanted, ArraydError):
            effects.append(Reply(to, wanted))
        else:
            effects += service.registry.get(to, wanted, waiter, now)
    refusal = _begins_nothing(service, Asker(request.nonce, request.id)) if small.asks else None
    return effects + (small.load(now) if refusal is None else small.refuse(refusal))


def prefetch(service: Service, request: Request, now: float) -> list[Effect]:
    """Begin loads that nobody waits for."""
    effects: list[Effect] = []
    bound = bool(request.fields["bound"])
    for index, item in enumerate(request.fields["items"]):
        to = Asker(request.nonce, request.id, index)
        wanted = _wanted(service, to, item, detached=not bound)
        if isinstance(wanted, ArraydError):
            effects.append(Reply(to, wanted))
        else:
            effects += service.registry.prefetch(to, wanted, now, bound=bound)
    return effects


def info(service: Service, request: Request, now: float) -> list[Effect]:
    """Describe a file without loading it."""
    fields, to = request.fields, Asker(request.nonce, request.id)
    source = fields.get("denied") or _source(fields["source"])
    if isinstance(source, ArraydError):
        return [Reply(to, source)]
    if source.name is not None:
        return [Reply(to, _published(service, source.name, service.caller(to.nonce)))]
    if _crowded(service, to):
        return [Reply(to, _refusal(service, to))]
    origin = identity.of_source(source, fields["stat"], service.caller(to.nonce).user)
    return service.registry.info(to, origin, now)


def cancel(service: Service, request: Request, now: float) -> list[Effect]:
    """Stop waiting."""
    number = request.fields["request"]
    effects = service.streams.cancel(request.nonce, number, now)
    return effects + service.registry.cancel(request.nonce, number, now)


def release(service: Service, request: Request, now: float) -> list[Effect]:
    """End holds."""
    failpoints.hit("daemon.releasing")
    holds = [(segment, seq, *(rest or [0])) for segment, seq, *rest in request.fields["holds"]]
    return service.registry.release(request.nonce, holds, now)


def claim(service: Service, request: Request, now: float) -> list[Effect]:
    """Note holds that were begun without asking."""
    failpoints.hit("daemon.claiming")
    fields = request.fields
    claims = Claims(fields["holds"], fields["used"], fields["count"])
    return service.registry.claim(request.nonce, claims, now)


def lend(service: Service, request: Request, now: float) -> list[Effect]:
    """Keep a block for a reference in flight."""
    failpoints.hit("daemon.lending")
    fields = request.fields
    return service.registry.lend(request.nonce, fields["segment"], fields["token"], now)


def redeem(service: Service, request: Request, now: float) -> list[Effect]:
    """Turn a reference into a hold."""
    failpoints.hit("daemon.redeeming")
    fields = request.fields
    to = Asker(request.nonce, request.id)
    return service.registry.redeem(to, fields["segment"], fields["token"], now)


def create(service: Service, request: Request, now: float) -> list[Effect]:
    """Make a block for the client to write."""
    fields = request.fields
    to = Asker(request.nonce, request.id)
    try:
        dtype = from_descr(fields["descr"], stand_in=True)
    except (ValueError, TypeError) as error:
        return [Reply(to, SpecMismatch(f"The dtype {fields['descr']!r} is none: {error}"))]
    if dtype.hasobject or np.iinfo(np.int64).max < dtype.itemsize * _product(fields["shape"]):
        return [Reply(to, SpecMismatch("An array of objects, or one beyond 2**63 bytes."))]
    if (refusal := _begins_nothing(service, to)) is not None:
        return [Reply(to, refusal)]
    spec = Spec(tuple(fields["shape"]), fields["descr"], fields["order"], dtype.itemsize)
    name, peer = fields["name"], service.caller(request.nonce)
    source = BlockIdentity(None, f"name:{name}" if name else f"put by {peer.pid}")
    name = None if name is None else users.stored_name(name, peer)
    terms = (fields["keep"], fields["replace"], fields["share"])
    draft = Draft(spec, planned(spec, source).size, source, name, *terms)
    service.update_headroom()
    return service.registry.create(to, draft, _timeout(fields["wait"]), now)


def seal(service: Service, request: Request, now: float) -> list[Effect]:
    """Make a block final."""
    to = Asker(request.nonce, request.id)
    return service.registry.seal(to, request.fields["segment"], now)


def abort(service: Service, request: Request, now: float) -> list[Effect]:
    """Give a block up."""
    return service.registry.abort(request.nonce, request.fields["segment"], now)


def evict(service: Service, request: Request, now: float) -> list[Effect]:  # noqa: ARG001 - uniform
    """Free blocks that nobody uses."""
    failpoints.hit("daemon.evicting")
    to = Asker(request.nonce, request.id)
    caller, block = service.caller(to.nonce), request.fields["block"]
    what, matches = f"block {block}", lambda b: block in (b.number, b.segment)
    if block is None:
        source = _source(request.fields["source"] or {})
        if isinstance(source, ArraydError):
            return [Reply(to, source)]
        what, matches = str(source), _matcher(source, caller)
    effects = service.registry.evict(to, matches)
    if not any(isinstance(effect, Reply) for effect in effects):  # none of them is in use
        audit.evicted(caller.uid, caller.pid, what)
    return effects


def who(service: Service, request: Request, now: float) -> list[Effect]:
    """Tell who holds the blocks of a source, and who waits for them."""
    to = Asker(request.nonce, request.id)
    source, caller = _source(request.fields["source"]), service.caller(request.nonce)
    if isinstance(source, ArraydError):
        return [Reply(to, source)]
    matches, registry = _teller(service, source, caller), service.registry

    def is_named(origin: object, user: int | None) -> bool:  # to be published, or published before
        return source.name is not None and str(origin) == str(source) and user == caller.user

    every = users.told_of(registry.blocks, registry.sessions, caller)
    blocks = [one for one in every if matches(one) or is_named(one.identity, one.user)]
    jobs = [
        job
        for job in status_report.bare_jobs(registry, caller)
        if is_named(job.identity, job.user)
        or any(identity.matches(one, source) for one in status_report.asked(registry, job, caller))
    ]
    return [Reply(to, Result(status_report.of_some(registry, blocks, jobs, caller, now)))]


def bye(service: Service, request: Request, now: float) -> list[Effect]:
    """End a session."""
    return service.sessions.end(request.nonce, now)


def status(service: Service, request: Request, now: float) -> list[Effect]:
    """Report blocks, sessions, jobs and the daemon itself."""
    failpoints.hit("daemon.status")
    caller = service.caller(request.nonce)
    report = status_report.build(service.registry, service.streams, service.facts(), caller, now)
    return [Reply(Asker(request.nonce, request.id), Result(report))]


HANDLERS: dict[str, Callable[[Service, Request, float], list[Effect]]] = {
    "get": get,
    "prefetch": prefetch,
    "info": info,
    "cancel": cancel,
    "release": release,
    "claim": claim,
    "lend": lend,
    "redeem": redeem,
    "create": create,
    "seal": seal,
    "abort": abort,
    "evict": evict,
    "bye": bye,
    "stream.open": stream_requests.open_stream,
    "stream.wait": stream_requests.wait,
    "stream.advance": stream_requests.advance,
    "stream.close": stream_requests.close,
    "status": status,
    "who": who,
    "health": operators.health,
    "kick": operators.kick,
    "drain": operators.drain,
    "stop": operators.stop,
}

WITHOUT_ANSWER = frozenset({"cancel", "release", "claim", "lend", "abort", "bye", "stream.close"})

WITHOUT_SESSION = frozenset({"status", "who", "health", "stop"})


def _source(wire: Mapping[str, Any]) -> Source | ArraydError:
    path = wire.get("path") if len(wire) == 1 else None
    if type(path) is str and path:  # as of most requests: there is nothing else to be read
        return Source(path=path)
    try:
        return Source.from_wire(wire).understand()
    except ArraydError as error:
        return error
    except (ValueError, TypeError) as error:
        return SpecMismatch(f"This is no source: {error}")


def _crowded(service: Service, to: Asker, *, detached: bool = False) -> bool:
    """Say whether one request more is too much: of this session, or (detached) of anybody."""
    mine, every = service.registry.jobs.in_flight(to.nonce)
    caller = service.caller(to.nonce)
    if caller.foreign:  # however many sessions it has
        sessions, jobs = service.registry.sessions, service.registry.jobs
        alike = [nonce for nonce in jobs.by_session if sessions[nonce].peer.uid == caller.uid]
        mine = sum(jobs.in_flight(nonce)[0] for nonce in alike)
    return every >= MAX_IN_FLIGHT // 2 if detached else mine >= (MAX_IN_FLIGHT - every) / SHARE


def _begins_nothing(service: Service, to: Asker, *, detached: bool = False) -> ArraydError | None:
    """Return why nothing new is begun for a session now; None: it is."""
    if service.sessions.draining:
        return operators.draining()
    return _refusal(service, to) if _crowded(service, to, detached=detached) else None


def _refusal(service: Service, to: Asker) -> ArraydError:
    mine, every = service.registry.jobs.in_flight(to.nonce)
    return DaemonError(
        f"The daemon has {every} loads and waiting requests, {mine} of them this client's, and "
        f"remembers up to {MAX_IN_FLIGHT}: ask again when some are done."
    )


def _wanted(
    service: Service, to: Asker, item: Mapping[str, Any], *, detached: bool = False
) -> Wanted | ArraydError:
    """Return what is asked for; an error if it is nothing, or would be one load too many."""
    return _unless_too_many(service, to, _meant(item, service.caller(to.nonce)), detached=detached)


def _unless_too_many(
    service: Service, to: Asker, wanted: Wanted | ArraydError, *, detached: bool = False
) -> Wanted | ArraydError:
    """Return what is asked for; an error if it would be one load too many."""
    if isinstance(wanted, ArraydError) or wanted.served_by(service.registry.blocks.find)[0]:
        return wanted
    return _begins_nothing(service, to, detached=detached) or wanted


def _meant(item: Mapping[str, Any], caller: Peer) -> Wanted | ArraydError:
    source = item.get("denied") or _source(item["source"])
    if isinstance(source, ArraydError):
        return source
    if source.name is not None:
        name = users.wanted_name(source.name, caller, os.geteuid())
        return Wanted(name_alias(name), BlockIdentity(None, str(source)), name=name)
    seen = item.get("stat")
    stat = None if seen is None else tuple(seen)
    whole = identity.alias(source.whole(), stat) if source.rows is not None else None
    alias: Hashable = identity.alias(source, stat, item["source"])
    asked = identity.of_source(source, stat, caller.user)
    edition = identity.edition(source, stat)
    if not caller.foreign:
        return Wanted(alias, asked, whole, edition=edition)
    alone = None if whole is None else identity.confined_alias(whole)
    alias, members = identity.confined_alias(alias), caller.uid if caller.members else None
    return Wanted(alias, asked, alone, edition=edition, user=members)


class _Terms(NamedTuple):
    """What a request says of all its items: see `AwaitedItem`."""

    pin: float
    timeout: float
    progress: bool
    waits: bool  # for a name, for it says how long

    @classmethod
    def of(cls, request: Request) -> _Terms:
        """Return those of a `get`."""
        pin, wait = request.fields["pin"] or 0.0, request.fields["wait"]
        pinned = float("inf") if pin < 0 else float(pin)
        return cls(pinned, _timeout(wait), bool(request.fields["progress"]), wait is not None)

    def waiter(self, wanted: Wanted, *, foreign: bool) -> AwaitedItem:
        """Return what the asker of an item waits for; `foreign`: another user than the daemon's."""
        # A name is waited for only if a timeout says so.
        timeout = self.timeout if wanted.name is None or self.waits else 0.0
        asked = wanted.identity if foreign else None
        return AwaitedItem(pin=self.pin, timeout=timeout, progress=self.progress, asked=asked)


def _timeout(wait: float | None) -> float:
    return ROOM_TIMEOUT if wait is None else max(0.0, float(wait))


def _published(service: Service, name: str, caller: Peer) -> Result | ArraydError:
    stored = users.wanted_name(name, caller, os.geteuid())
    block = service.registry.blocks.find(name_alias(stored))
    if block is None or not users.may_use(block, caller):
        return NoSuchBlock(f"No block is published as {name!r}.")
    spec = block.spec
    return Result(
        {
            "members": [],
            "bytes": spec.nbytes,
            "format": "published",
            "shape": spec.shape,
            "descr": spec.descr,
            "order": spec.order,
        }
    )


def _teller(service: Service, source: Source, caller: Peer) -> Callable[[Block], bool]:
    """Return what says whether a block is told of to one who asks for a source by this path."""
    if source.name is not None or not caller.foreign or caller.admin:
        return _matcher(source, caller)
    sessions = service.registry.sessions

    def matches(block: Block) -> bool:
        holds = users.holds_of(block, caller.uid, sessions) if block.holders else []
        known = users.known(block, caller, holds)
        return any(identity.matches(one, source) for one in known)

    return matches


def _matcher(source: Source, caller: Peer) -> Callable[[Block], bool]:
    if source.name is not None:
        name = users.wanted_name(source.name, caller, os.geteuid())
        return lambda block: block.name == name
    return lambda block: any(identity.matches(one.identity, source) for one in block.parts())


def _product(shape: Sequence[int]) -> int:
    product = 1
    for n in shape:
        product *= n
    return product
