"""What the requests about streams mean; see `handlers`."""

from __future__ import annotations

import math

from arrayd.errors import ArraydError, SpecMismatch
from arrayd.wire.dtypes import from_descr
from arrayd.wire.grant import Spec
from arrayd.wire.requests import Request
from arrayd.wire.ring import RingLayout
from arrayd_server.core.effects import Effect, Reply
from arrayd_server.core.model import Asker, Draft
from arrayd_server.core.stream_model import StreamPlan
from arrayd_server.identity import BlockIdentity
from arrayd_server.segments.block_metadata import planned
from arrayd_server.service import operators
from arrayd_server.service.service import Service
from arrayd_server.stream_identity import StreamField, StreamIdentity

_MOST = (1 << 63) - 1


def open_stream(service: Service, request: Request, now: float) -> list[Effect]:
    """Let a session read the rows of a dataset in some order."""
    fields = request.fields
    to = Asker(request.nonce, request.id)
    identity = StreamIdentity.of(fields)
    refusal = _refusal(identity) or _drained(service, identity)
    if refusal is not None:
        return [Reply(to, refusal)]
    share = _draft(identity.resident, f"resident share of {identity}") if identity.share else None
    plan = StreamPlan(
        key=identity.key,
        identity=identity,
        rows=identity.rows,
        slots=identity.slots,
        batch=fields["batch"],
        ring=_draft(identity.ring, f"ring of {identity}"),
        share=share,
        whole=identity.windowed,
    )
    service.update_headroom()
    where = (fields["position"], fields["limit"], fields["consumers"], float(fields["grace"]))
    return service.streams.open(to, plan, *where, now)


def _drained(service: Service, identity: StreamIdentity) -> ArraydError | None:
    """Refuse a new stream where nothing new is to be begun; one that runs may be joined."""
    runs = any(one.plan.key == identity.key for one in service.streams.table.streams.values())
    return operators.draining() if service.sessions.draining and not runs else None


def wait(service: Service, request: Request, now: float) -> list[Effect]:
    """Answer when there is something to read."""
    fields = request.fields
    to = Asker(request.nonce, request.id)
    return service.streams.wait(to, fields["consumer"], fields["cursor"], now)


def advance(service: Service, request: Request, now: float) -> list[Effect]:
    """Let slots be used again."""
    fields = request.fields
    to = Asker(request.nonce, request.id)
    return service.streams.advance(to, fields["consumer"], fields["cursor"], now)


def close(service: Service, request: Request, now: float) -> list[Effect]:
    """End a consumer."""
    return service.streams.close(request.nonce, request.fields["consumer"], now)


def _refusal(identity: StreamIdentity) -> ArraydError | None:
    """Return why there can be no such stream; None: there can."""
    if identity.rows < 1:
        return SpecMismatch(
            f"A stream of the rows [{identity.start}:{identity.stop}] has none: select some first."
        )
    for field in identity.fields:
        refusal = _field_refusal(field)
        if refusal is not None:
            return refusal
    if max(identity.ring.nbytes, identity.resident.nbytes) > _MOST:
        return SpecMismatch(
            f"A ring of {identity.slots} rows, or a share of {identity.share}, of "
            f"{identity.ring.row_bytes} bytes each is beyond 2**63 bytes: ask for fewer."
        )
    return None


def _field_refusal(field: StreamField) -> ArraydError | None:
    try:
        dtypes = (from_descr(field.descr), field.in_ring().dtype)
    except (ValueError, TypeError) as error:
        return SpecMismatch(f"{field.name}: the dtypes {field.descr!r}, {field.cast!r}: {error}")
    if any(dtype.hasobject for dtype in dtypes):
        return SpecMismatch(f"{field.name}: a row has objects, which have no bytes to share.")
    if math.prod(field.row_shape) * max(dtype.itemsize for dtype in dtypes) > _MOST:
        return SpecMismatch(f"{field.name}: a row of shape {field.row_shape} exceeds 2**63 bytes.")
    return None


def _draft(layout: RingLayout, words: str) -> Draft:
    spec, origin = Spec((layout.nbytes,), "|u1", "C", 1), BlockIdentity(None, words)
    return Draft(spec, planned(spec, origin).size, origin)
