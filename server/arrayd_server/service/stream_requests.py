"""What the requests about streams mean; see `handlers`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from arrayd.errors import ArraydError, SpecMismatch
from arrayd.wire.codec import pack
from arrayd.wire.grant import Spec
from arrayd.wire.protocol import Request
from arrayd.wire.ring import RingLayout
from arrayd_server.core.effects import Effect, Reply
from arrayd_server.core.model import Asker, Draft
from arrayd_server.core.stream_model import StreamPlan
from arrayd_server.identity import BlockIdentity
from arrayd_server.segments.block_metadata import planned
from arrayd_server.service.service import Service
from arrayd_server.streams.messages import StreamField, StreamRequest

_MOST = (1 << 63) - 1


def open_stream(service: Service, request: Request, now: float) -> list[Effect]:
    """Let a session read the rows of a dataset in some order."""
    fields = request.fields
    to = Asker(request.nonce, request.id)
    wanted = _wanted(fields)
    refusal = _refusal(wanted)
    if refusal is not None:
        return [Reply(to, refusal)]
    share = _draft(wanted.share_layout, f"resident share of {wanted}") if wanted.share else None
    plan = StreamPlan(
        key=key(wanted),
        identity=wanted,
        rows=wanted.rows,
        slots=wanted.slots,
        batch=fields["batch"],
        ring=_draft(wanted.layout, f"ring of {wanted}"),
        share=share,
    )
    service.update_headroom()
    where = (fields["position"], fields["limit"], fields["consumers"], float(fields["grace"]))
    return service.streams.open(to, plan, *where, now)


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


def key(wanted: StreamRequest) -> bytes:
    """Return what is equal for equal rows in an equal order.

    However large the ring and the resident share are: who comes later takes what there is.
    """
    wire = wanted.to_wire()
    for name in ("slots", "share", "scratch"):
        del wire[name]
    return hashlib.blake2b(pack(wire), digest_size=16).digest()


def _wanted(fields: Mapping[str, Any]) -> StreamRequest:
    wire = {name: fields[name] for name in StreamRequest.__dataclass_fields__ if name in fields}
    names = ("name", "descr", "row_shape", "cast")
    wire["fields"] = [dict(zip(names, one, strict=True)) for one in fields["fields"]]
    return StreamRequest.from_wire(wire)


def _refusal(wanted: StreamRequest) -> ArraydError | None:
    """Return why there can be no such stream; None: there can."""
    if wanted.rows < 1:
        return SpecMismatch(
            f"A stream of the rows [{wanted.start}:{wanted.stop}] has none: select some first."
        )
    for field in wanted.fields:
        refusal = _field_refusal(field)
        if refusal is not None:
            return refusal
    if max(wanted.layout.nbytes, wanted.share_layout.nbytes) > _MOST:
        return SpecMismatch(
            f"A ring of {wanted.slots} rows, or a share of {wanted.share}, of "
            f"{wanted.row_bytes} bytes each is beyond 2**63 bytes: ask for fewer."
        )
    return None


def _field_refusal(field: StreamField) -> ArraydError | None:
    try:
        dtypes = (field.dtype, field.target)
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
