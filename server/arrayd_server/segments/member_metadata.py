"""The metadata of a block with members: a table of the files in it.

It is of version 2: an earlier arrayd would take the block for one array of bytes, which nobody asks
for, so it leaves the segment alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from arrayd.source import Source
from arrayd.wire import layout
from arrayd.wire.dtypes import descr, from_descr
from arrayd.wire.grant import Spec
from arrayd.wire.protocol import MAX_DIMENSIONS
from arrayd.wire.records import Record
from arrayd_server import identity
from arrayd_server.core.members import Places
from arrayd_server.core.model import Block, BlockMember, LoadedMember, State
from arrayd_server.segments.adoption import LeftoverSegment

ALIGNED = 64
"""Bytes to a multiple of which each member begins: a line of the CPU's cache."""

_SPECS_ROOM = 2048  # bytes of metadata in which the different specs are described
_SPEC_ROOM = 96  # and so many more for each member, besides the dtype that is asked for

_KEPT_ALIASES = 2
"""Aliases of a member that survive a restart: the request's, and the key."""

_MEMBER_ROOM = 64 + 20 * _KEPT_ALIASES + _SPEC_ROOM  # bytes of metadata, besides path and stat

Row = tuple[str, tuple[int, ...], int, int, int, int, tuple[bytes, ...]]
"""Path, stat, offset, room, which spec, lost values, aliases."""


@dataclass(frozen=True, slots=True)
class MembersMetadata(Record):
    """What the segment of a block with members says of itself.

    Parameters
    ----------
    source
        What was asked of each file, without its path.
    specs
        The different arrays.
    members
        The table.
    data_bytes
        Of all of them.
    """

    VERSION: ClassVar[int] = 2

    source: dict[str, Any]
    specs: tuple[Spec, ...]
    members: tuple[Row, ...] = field(metadata={"write": tuple})
    data_bytes: int


@dataclass(frozen=True, slots=True)
class OthersMembersMetadata(MembersMetadata):
    """What it says of itself if it is another user's than the daemon's.

    It is of version 3: an earlier arrayd would take the block for the daemon's user's, to which
    nobody else was let in, and use its pages again.
    """

    VERSION: ClassVar[int] = 3

    user: int


def aligned(nbytes: int) -> int:
    """Return the room of an array of so many bytes: the next one begins behind it."""
    return -(-nbytes // ALIGNED) * ALIGNED


def places(members: Sequence[BlockMember], sizes: Mapping[int, int]) -> tuple[Places, int]:
    """Return where the members go whose bytes are known, and the size of the segment for them."""
    found, end = {}, 0
    for position in sorted(sizes):
        found[position] = (end, aligned(sizes[position]))
        end += found[position][1]
    return found, _segment_size([members[position] for position in found], end) if found else 0


def planned_size(members: Sequence[BlockMember]) -> int:
    """Return the bytes of the segment to be made for members, with room for the metadata."""
    return _segment_size(members, members[-1].offset + members[-1].room)


def _segment_size(members: Sequence[BlockMember], data_bytes: int) -> int:
    origins = [member.identity for member in members]
    fixed = layout.pack_meta(
        {
            "source": origins[0].source.to_wire(),
            "paths": [(one.source.path, one.stat) for one in origins],
        }
    )
    room = len(fixed) + _SPECS_ROOM + (_MEMBER_ROOM + _dtype_room(members)) * len(members)
    return layout.plan(data_bytes, room).size


def _dtype_room(members: Sequence[BlockMember]) -> int:
    """Return the bytes of the description of the dtype that is asked for: of each array, maybe."""
    source = members[0].identity.source
    asked = source.dtype if source.cast is None else source.cast
    return 0 if asked is None else len(layout.pack_meta({"": descr(asked)}))


def describable(
    members: Sequence[BlockMember], found: Mapping[int, LoadedMember]
) -> dict[int, LoadedMember]:
    """Return the members that the metadata have room to describe: all, but for odd dtypes."""
    per_member = _SPEC_ROOM + _dtype_room(members)
    room, known = _SPECS_ROOM + per_member * len(found), set[int]()
    described = {}
    for position, one in found.items():
        size = 0 if id(one.spec) in known else len(layout.pack_meta(one.spec.to_wire()))
        if size <= room:
            room -= size
            known.add(id(one.spec))
            described[position] = one
    return described


def of_members(block: Block) -> dict[str, Any]:
    """Return what the segment of a block says of its members; of an unfinished one, of none."""
    there = [member for member in block.members if member.spec is not None]
    specs = {id(member.spec): member.spec for member in there}  # those of a worker's answer
    numbers = {one: number for number, one in enumerate(specs)}
    common = block.members[0].identity.source.to_wire()
    del common["path"]
    specs_of_all = tuple(spec for spec in specs.values() if spec is not None)
    rows = tuple(_row(member, numbers[id(member.spec)], block.user) for member in there)
    facts = (common, specs_of_all, rows, block.spec.nbytes)
    if block.user is None:
        return MembersMetadata(*facts, extra=block.extra).to_wire()
    return OthersMembersMetadata(*facts, block.user, extra=block.extra).to_wire()


def _row(member: BlockMember, spec: int, user: int | None) -> Row:
    origin = member.identity
    aliases = identity.stored_aliases(member.aliases, user)[:_KEPT_ALIASES]
    place = (member.offset, member.room, spec, member.lost)
    return (origin.source.path, origin.stat, *place, aliases)


def block_of_members(
    meta: MembersMetadata, found: LeftoverSegment, number: int, now: float
) -> Block:
    """Return the block that a segment describes.

    Raises
    ------
    ValueError
        The metadata is not what `of_members` writes, or is not of this segment.
    """
    if not found.sealed or not meta.members:
        raise ValueError("a load that is not done")
    user = meta.user if isinstance(meta, OthersMembersMetadata) else None
    members = [_member(meta, row, user) for row in meta.members]
    _check(meta, members, found)
    if not found.readers <= {user}:
        raise ValueError("others than its user may open it")
    return Block(
        segment=found.name,
        number=number,
        spec=Spec((meta.data_bytes,), "|u1", "C", 1),
        size=found.size,
        identity=identity.of_members([member.identity for member in members]),
        state=State.SEALED,
        since=now,
        used=now,
        members=members,
        user=user,
        readers=set(found.readers),
        exposed=user is not None,
        extra=meta.extra,
    )


def _member(meta: MembersMetadata, row: Row, user: int | None) -> BlockMember:
    path, stat, offset, room, spec, lost, aliases = row
    if not 0 <= spec < len(meta.specs) or not aliases:
        raise ValueError("a member without a spec, or without aliases")
    source = Source.from_wire({**meta.source, "path": path})
    origin, edition = identity.of_source(source, stat, user), identity.edition(source, stat)
    found = identity.kept_by_user(aliases, user)
    place = (offset, room, meta.specs[spec])
    return BlockMember(found[0], origin, edition, *place, found, lost)


def _check(meta: MembersMetadata, members: Sequence[BlockMember], found: LeftoverSegment) -> None:
    """Raise ValueError where members cannot be what their segment says."""
    end = 0
    for member in members:
        if not (end <= member.offset and member.room > 0 and member.lost >= 0):
            raise ValueError("members that overlap")
        if member.spec is None or not _sound(member.spec) or member.spec.nbytes > member.room:
            raise ValueError("a member whose array cannot be")
        end = member.offset + member.room
    if not end <= meta.data_bytes == found.data_bytes:
        raise ValueError("members beyond the data")


def _sound(spec: Spec) -> bool:
    if len(spec.shape) > MAX_DIMENSIONS or min(spec.shape, default=0) < 0:
        return False
    dtype = from_descr(spec.descr, stand_in=True)
    sized = dtype.itemsize == spec.itemsize > 0 and not dtype.hasobject
    return sized and spec.order in ("C", "F")
