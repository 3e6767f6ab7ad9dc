"""What the daemon says to a session: each answer of the core as a message of the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arrayd.errors import ArraydError, to_wire
from arrayd.wire.grant import Grant
from arrayd_server.core.effects import (
    Answer,
    AskAgain,
    IntroduceYourself,
    Result,
    Welcome,
)


def message(answer: Answer, about_us: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an answer adds to its envelope; see `arrayd.wire.protocol`.

    `about_us` is what a welcome says of the daemon besides.
    """
    match answer:
        case Grant():
            return {"ok": answer.to_wire()}
        case ArraydError():
            return {"err": to_wire(answer)}
        case AskAgain():
            return {"again": True}
        case IntroduceYourself():
            return {"hello": True}
        case Welcome(holds):
            return {"ok": {**about_us, "holds": holds}}
        case Result(fields):
            return {"ok": fields}
