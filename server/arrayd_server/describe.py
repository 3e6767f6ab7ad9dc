"""Blocks as metadata in their segment, and back: what a restarted daemon adopts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arrayd import layout
from arrayd.dtypes import from_descr
from arrayd.source import Source
from arrayd.spec import Spec
from arrayd_server.adoption import Found
from arrayd_server.core.records import Block, Job, State, name_alias
from arrayd_server.origin import Origin

_KEPT_ALIASES = 8
"""Aliases that survive a restart; other spellings are probed again and find the key."""

_ALIAS_ROOM = _KEPT_ALIASES * 20

_MAX_DIMENSIONS = 64  # numpy's limit


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
    }


def adopted(found: Found, number: int, now: float) -> Block:
    """Return the block that a segment of an earlier run describes.

    Raises
    ------
    ValueError
        The metadata is not what `metadata` writes, or is not of this segment.
    """
    try:
        block = _block(found, number, now)
        _check(block, found)
    except Exception as error:  # whoever wrote it may have written anything
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if block.name is not None and found.sealed:
        block.aliases.append(name_alias(block.name))
    return block


def _block(found: Found, number: int, now: float) -> Block:
    meta = found.meta
    return Block(
        segment=found.name,
        number=number,
        spec=_spec_of(meta["spec"]),
        size=found.size,
        source=_origin_of(meta["origin"]),
        state=State.SEALED if found.sealed else State.WRITING,
        since=now,
        used=now,
        aliases=list(meta["aliases"]),
        name=meta["name"],
        published=meta["published"],
        keep=meta["keep"],
        lost=meta["lost"],
    )


def _check(block: Block, found: Found) -> None:
    """Raise ValueError where a block cannot have been written by arrayd."""
    spec, dtype = block.spec, from_descr(block.spec.descr, stand_in=True)
    name, lost, flags = block.name, block.lost, (block.published, block.keep)
    facts = {
        "the shape": all(type(n) is int and n >= 0 for n in spec.shape),
        "the order": spec.order in ("C", "F"),
        "the dtype": dtype.itemsize == spec.itemsize > 0 and not dtype.hasobject,
        "the data's size": spec.nbytes == found.data_bytes,
        "the segment's size": planned(spec, block.source).size == found.size,
        "a flag": all(type(flag) is bool for flag in flags) and block.keep <= block.published,
        "the loss": type(lost) is int and lost >= 0,
        "the name": name is None or (type(name) is str and block.published),
        "the source": block.published == (block.source.source is None),
        # Whatever else there is: it reads as it was written.
        "something": layout.pack_meta(metadata(block)) == layout.pack_meta(found.meta),
    }
    wrong = [what for what, right in facts.items() if not right]
    if wrong:
        raise ValueError(f"not as arrayd writes it: {', '.join(wrong)}")


def _spec_of(wire: Mapping[str, Any]) -> Spec:
    shape = tuple(wire["shape"])
    if len(shape) > _MAX_DIMENSIONS:  # their product may take for ever
        raise ValueError(f"{len(shape)} dimensions")
    return Spec(**{**wire, "shape": shape})


def _origin_of(wire: Mapping[str, Any]) -> Origin:
    source, seen = wire["source"], wire["stat"]
    return Origin(
        None if source is None else Source.from_wire(source),
        str(wire["words"]),
        None if seen is None else tuple(int(n) for n in seen),
    )


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
