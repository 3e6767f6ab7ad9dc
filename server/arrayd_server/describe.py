"""Blocks as metadata in their segment, and back: what a restarted daemon adopts."""

from __future__ import annotations

import time
from typing import Any

from arrayd import layout
from arrayd.source import Source
from arrayd.spec import Spec
from arrayd_server.core.records import Block, Job, State, name_alias
from arrayd_server.origin import Origin
from arrayd_server.segments import Found

_KEPT_ALIASES = 8
"""Aliases that survive a restart; other spellings are probed again and find the key."""

_ALIAS_ROOM = _KEPT_ALIASES * 20


def planned(spec: Spec, origin: Origin) -> layout.Plan:
    """Return the layout of the segment for an array, with room for its metadata."""
    fixed = {"spec": _spec(spec), "origin": _origin(origin), "name": origin.words}
    return layout.plan(spec.nbytes, len(layout.pack_meta(fixed)) + _ALIAS_ROOM)


def metadata(block: Block, job: Job | None = None) -> dict[str, Any]:
    """Return what a segment says of itself; `job` knows the aliases until the seal."""
    aliases = job.aliases if job is not None else block.aliases
    draft = job.draft if job is not None else None
    return {
        "spec": _spec(block.spec),
        "origin": _origin(block.source),
        "aliases": [a for a in aliases if isinstance(a, bytes)][:_KEPT_ALIASES],
        "name": draft.name if draft is not None else block.name,
        "published": block.published,
        "keep": block.keep,
        "lost": block.lost,
        "sealed_at": time.time(),
    }


def adopted(found: Found, number: int, now: float) -> Block:
    """Return the block that a segment of an earlier run describes.

    Raises
    ------
    KeyError, TypeError, ValueError
        The metadata is not what `metadata` writes.
    """
    meta = found.meta
    spec = Spec(**{**meta["spec"], "shape": tuple(meta["spec"]["shape"])})
    if planned_size(found) != found.size:
        raise ValueError("the segment's size is not its footer's")
    source = meta["origin"]["source"]
    origin = Origin(
        None if source is None else Source.from_wire(source),
        str(meta["origin"]["words"]),
        None if meta["origin"]["stat"] is None else tuple(meta["origin"]["stat"]),
    )
    name = meta["name"]
    aliases: list[Any] = [bytes(alias) for alias in meta["aliases"]]
    if name is not None and found.sealed:
        aliases.append(name_alias(str(name)))
    return Block(
        segment=found.name,
        number=number,
        spec=spec,
        size=found.size,
        source=origin,
        state=State.SEALED if found.sealed else State.WRITING,
        since=now,
        used=now,
        aliases=aliases,
        name=name,
        published=bool(meta["published"]),
        keep=bool(meta["keep"]),
        lost=int(meta["lost"]),
    )


def planned_size(found: Found) -> int:
    """Return the size that a segment with this metadata has."""
    spec, origin = found.meta["spec"], found.meta["origin"]
    room = {"spec": spec, "origin": origin, "name": origin["words"]}
    nbytes = Spec(**{**spec, "shape": tuple(spec["shape"])}).nbytes
    return layout.plan(nbytes, len(layout.pack_meta(room)) + _ALIAS_ROOM).size


def _spec(spec: Spec) -> dict[str, Any]:
    return {
        "shape": spec.shape,
        "descr": spec.descr,
        "order": spec.order,
        "itemsize": spec.itemsize,
    }


def _origin(origin: Origin) -> dict[str, Any]:
    source = None if origin.source is None else origin.source.to_wire()
    return {"source": source, "words": origin.words, "stat": origin.stat}
