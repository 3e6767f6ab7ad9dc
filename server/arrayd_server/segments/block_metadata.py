"""From a block to the metadata in its segment, and back when a restarted daemon adopts it.

The metadata of an older or a newer arrayd are read as well (see `arrayd.wire.records`). Fields
that this version does not know are kept with the block, and written again with the others. Of
the known ones the meaning is checked, not the spelling. So a later version may add fields that
say more of a block, but must not change what the known fields mean, alone or together: for that
it raises `Metadata.VERSION` (or that of `Spec` or `BlockIdentity`), and an older arrayd leaves
the segment alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from arrayd.errors import MissingDependency, ProtocolMismatch
from arrayd.wire import layout
from arrayd.wire.dtypes import from_descr
from arrayd.wire.grant import Spec
from arrayd.wire.protocol import MAX_DIMENSIONS
from arrayd.wire.records import Record, later
from arrayd_server.core.model import Block, Edition, Job, State, name_alias
from arrayd_server.identity import BlockIdentity, edition, kept, may_refer
from arrayd_server.segments.adoption import LeftoverSegment
from arrayd_server.segments.member_metadata import (
    MembersMetadata,
    OthersMembersMetadata,
    block_of_members,
    of_members,
)

_KEPT_ALIASES = 8
"""Aliases that survive a restart. Requests by another one are probed again, and find the key."""

_ALIAS_ROOM = _KEPT_ALIASES * 20

_MAY_GROW = 256
"""Bytes: more than all fields that have a default take, with their keys, if they are written."""


@dataclass(frozen=True, slots=True)
class Metadata(Record):
    """What a segment says of itself.

    Parameters
    ----------
    spec, origin
        The array in it, and where that came from.
    aliases
        Requests that it answers.
    name, published, keep, lost, linked, user, share
        As in `Block`.
    """

    spec: Spec
    origin: BlockIdentity
    aliases: tuple[bytes, ...] = ()
    name: str | None = None
    published: bool = False
    keep: bool = False
    lost: int = 0
    linked: bool | None = later(None)  # the first version looked at no linked files
    user: int | None = later(None)  # the first version served one user
    share: str | None = later(None)


def planned(spec: Spec, origin: BlockIdentity) -> layout.SegmentPlan:
    """Return the layout of the segment to be made for an array, with room for its metadata."""
    fixed = {"spec": spec.to_wire(), "origin": origin.to_wire(), "name": origin.words}
    return layout.plan(spec.nbytes, len(layout.pack_meta(fixed)) + _ALIAS_ROOM)


def placed(block: Block) -> layout.SegmentPlan:
    """Return the layout of the segment that a block has, whichever version planned it."""
    return layout.of_size(block.spec.nbytes, block.size)


def metadata(block: Block, job: Job | None = None) -> dict[str, Any]:
    """Return what a segment says of itself; `job` knows the aliases until the seal."""
    if block.members:
        return of_members(block)
    aliases = job.aliases if job is not None else block.aliases
    draft = job.draft if job is not None else None
    return Metadata(
        spec=block.spec,
        origin=block.identity,
        aliases=tuple(a for a in aliases if isinstance(a, bytes))[:_KEPT_ALIASES],
        name=draft.name if draft is not None else block.name,
        published=block.published,
        keep=block.keep,
        lost=block.lost,
        linked=block.linked or (False if _may_refer(block.identity) else None),
        user=block.user,
        share=draft.share if draft is not None else block.share,
        extra=block.extra,
    ).to_wire()


def adopted(found: LeftoverSegment, number: int, now: float) -> Block:
    """Return the block that a segment of an earlier run describes.

    Raises
    ------
    NewerSegment
        Only a newer arrayd, or one with another package, knows what it says.
    ValueError
        The metadata is not what `metadata` writes, or is not of this segment.
    """
    try:
        meta = read(found)
        if isinstance(meta, MembersMetadata):
            return block_of_members(meta, found, number, now)
        block = _block(meta, found, number, now)
        _check(block, found)
    except MissingDependency as error:
        raise layout.NewerSegment(str(error)) from None
    except (layout.NewerSegment, MemoryError):
        raise
    except Exception as error:  # whoever wrote it may have written anything
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if block.name is not None and found.sealed:
        block.aliases.append(name_alias(block.name))
    return block


def read(found: LeftoverSegment) -> Metadata | MembersMetadata:
    """Return the metadata of a segment.

    Raises
    ------
    NewerSegment
        They have a version that only a newer arrayd knows.
    TypeError, ValueError
        They are none.
    """
    try:
        if "members" in found.meta:
            kind = OthersMembersMetadata if "user" in found.meta else MembersMetadata
            return kind.from_wire(found.meta)
        return Metadata.from_wire(found.meta)
    except ProtocolMismatch as error:
        raise layout.NewerSegment(str(error)) from None


def _block(meta: Metadata, found: LeftoverSegment, number: int, now: float) -> Block:
    return Block(
        segment=found.name,
        number=number,
        spec=meta.spec,
        size=found.size,
        identity=_shared(meta.origin),
        state=State.SEALED if found.sealed else State.WRITING,
        since=now,
        used=now,
        aliases=[] if _is_doubtful(meta) else kept(meta.aliases, linked=bool(meta.linked)),
        name=meta.name,
        published=meta.published,
        keep=meta.keep,
        lost=meta.lost,
        linked=bool(meta.linked),
        user=meta.user,
        share=meta.share,
        readers=set(found.readers),
        exposed=True,  # it may have been shared before
        extra=meta.extra,
        edition=_edition(meta.origin),
    )


def _shared(origin: BlockIdentity) -> BlockIdentity:
    """Return an origin whose words are those of its source, as one object, where they are equal."""
    words = str(origin.source)
    return replace(origin, words=words) if words == origin.words else origin


def _edition(origin: BlockIdentity) -> Edition | None:
    return None if origin.source is None else edition(origin.source, origin.stat)


def _is_doubtful(meta: Metadata) -> bool:
    """Say whether the block may be stale in a linked file, which its version did not look at."""
    return meta.linked is None and _may_refer(meta.origin)


def _may_refer(origin: BlockIdentity) -> bool:
    return origin.source is not None and may_refer(origin.source)


def _check(block: Block, found: LeftoverSegment) -> None:
    """Raise ValueError where a block cannot be what its segment says."""
    spec, origin = block.spec, block.identity
    if len(spec.shape) > MAX_DIMENSIONS:  # their product may take for ever
        raise ValueError(f"{len(spec.shape)} dimensions")
    dtype = from_descr(spec.descr, stand_in=True)
    facts = {
        "the shape": all(n >= 0 for n in spec.shape),
        "the order": spec.order in ("C", "F"),
        "the dtype": dtype.itemsize == spec.itemsize > 0 and not dtype.hasobject,
        "the data's size": spec.nbytes == found.data_bytes,
        "a flag": block.keep <= block.published,
        "the loss": block.lost >= 0,
        "the key": not block.linked or (found.sealed and len(block.aliases) == 1),
        "the name": block.name is None or block.published,
        "the source": block.published == (origin.source is None),
        # It is written again: at the seal, and when another block takes its name.
        "the metadata's size": _fits(block, found),
    }
    wrong = [what for what, right in facts.items() if not right]
    if wrong:
        raise ValueError(f"not as arrayd writes it: {', '.join(wrong)}")


def _fits(block: Block, found: LeftoverSegment) -> bool:
    """Say whether the metadata of a block, written anew, have room where they were found.

    They grow by the fields that the writer left out. Only where little room is left are they packed
    to see: it would be a quarter of the time of an adoption.
    """
    room = placed(block).meta_room
    return found.meta_bytes + _MAY_GROW <= room or len(layout.pack_meta(metadata(block))) <= room
