"""The blocks of a source, in a client's daemon and in the user's own one: who uses them, an end.

The own daemon is looked at if it runs, and is not started.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arrayd.common.bytesize import format_bytes
from arrayd.errors import InUse, NoSuchBlock
from arrayd.session.own_daemon import OwnDaemon
from arrayd.session.session import Session, unwrap
from arrayd.source import Source


def freed(own: OwnDaemon, source: Source | None, block: int | str | None) -> dict[str, int]:
    """Free the blocks of a source, or one block; return what that was, as `Client.evict`.

    Raises
    ------
    InUse
        Somebody uses one of them; it says what the other daemon has freed before.
    NoSuchBlock
        None is in memory.
    """
    if isinstance(block, int):  # a number is the client's daemon's
        return _freed(own.beside, source, block)
    total, missing = {"blocks": 0, "bytes": 0, "arrays": 0}, None
    for session, _ in own.all_running():
        try:
            more = _freed(session, source, block)
        except NoSuchBlock as error:
            missing = missing or error
        except InUse as error:
            raise _partly(error, total) from None
        else:
            total = {key: total[key] + more[key] for key in total}
    if missing is not None and not total["blocks"]:
        if source is None or source.name is not None:
            raise missing
        raise NoSuchBlock(f"No block of {source} is in memory.") from missing
    return total


def _freed(session: Session, source: Source | None, block: int | str | None) -> dict[str, int]:
    wire = None if source is None else source.to_wire()
    answer = unwrap(session.ask("evict", None, source=wire, block=block)[0])
    found = {key: answer[key] for key in ("blocks", "bytes")}
    return {**found, "arrays": answer.get("arrays", found["blocks"])}


def _partly(error: InUse, total: Mapping[str, int]) -> InUse:
    """Return the error of a daemon; that of the second says what the first has freed."""
    if not total["blocks"]:
        return error
    return InUse(
        f"{error.message} That is in your own daemon; the other one has freed {total['blocks']} "
        f"blocks, {format_bytes(total['bytes'])}.",
        **error.details,
    )


def uses(own: OwnDaemon, source: Source) -> dict[str, Any]:
    """Return who uses a source: the fields of `arrayd.results.uses.Uses`."""
    every: dict[str, Any] = {"blocks": [], "jobs": []}
    for session, is_own in own.all_running():
        found = unwrap(session.ask("who", None, source=source.to_wire())[0])
        every["blocks"] += [{**block, "own": is_own} for block in found["blocks"]]
        every["jobs"] += found["jobs"]
    return every
