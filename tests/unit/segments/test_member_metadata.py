"""What the segment of a block with members says of them, and what is made of it again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from arrayd.errors import ProtocolMismatch
from arrayd.source import Source
from arrayd.wire import layout
from arrayd.wire.codec import unpack
from arrayd.wire.grant import Spec
from arrayd_server import identity
from arrayd_server.core.model import Block, BlockMember, ContentKey, State, own_alias
from arrayd_server.segments import block_metadata, member_metadata
from arrayd_server.segments.adoption import LeftoverSegment
from arrayd_server.segments.member_metadata import MembersMetadata

SPEC = Spec((3, 4), "<f4", "F", 4)
STAT = (1, 2, 176, 4, 5)


def member(number: int, spec: Spec | None = SPEC) -> BlockMember:
    """Return one of the members of the block, each in its place."""
    source = Source.of(f"/data/{number}.npy", cast="f4")
    origin, edition = identity.of_source(source, STAT), identity.edition(source, STAT)
    aliases: list[Any] = [bytes([number]) * 16, bytes([number + 100]) * 16]
    return BlockMember(aliases[0], origin, edition, 192 * number, 192, spec, aliases, number)


def block() -> Block:
    """Return a block of three members."""
    members = [member(number) for number in range(3)]
    size = member_metadata.planned_size(members)
    origin = identity.of_members([one.identity for one in members])
    spec = Spec((3 * 192,), "|u1", "C", 1)
    return Block("x", 7, spec, size, origin, State.SEALED, 0.0, 0.0, members=members)


def left(meta: dict[str, Any], *, sealed: bool = True) -> LeftoverSegment:
    """Return the segment of `block`, with these metadata."""
    return LeftoverSegment("x", 1, block().size, 3 * 192, sealed, meta)


def test_it_comes_back_as_it_was() -> None:
    """Members, their aliases, places and losses, and fields of a newer arrayd."""
    before = block()
    before.extra = {"new": 1}
    meta = unpack(layout.pack_meta(block_metadata.metadata(before)))
    after = block_metadata.adopted(left(meta), 7, 0.0)
    assert after == before
    assert str(after.identity) == "3 files in /data/"
    assert len(layout.pack_meta(meta)) <= block_metadata.placed(after).meta_room


def others_block() -> Block:
    """Return that block as one of user 60001's."""
    made = block()
    made.user, made.readers, made.exposed = 60001, {60001}, True
    for one in made.members:
        asked, key = cast(list[bytes], one.aliases)
        aliases = [identity.confined_alias(asked), ContentKey(key)]
        one.aliases = [own_alias(alias, 60001) for alias in aliases]
        one.alias, one.identity = one.aliases[0], replace(one.identity, user=60001)
    return made


def test_another_users_come_back_as_they_were() -> None:
    """It is hers, is found by her alone, and she may still open it."""
    before = others_block()
    meta = unpack(layout.pack_meta(block_metadata.metadata(before)))
    found = replace(left(meta), readers=frozenset({60001}))
    assert block_metadata.adopted(found, 7, 0.0) == before
    with pytest.raises(ProtocolMismatch):  # so does an arrayd that knows members of one user alone
        MembersMetadata.from_wire(meta)


def test_who_may_open_it_besides() -> None:
    """Nobody: not another user in hers, nor any in one of the daemon's user's."""
    hers, own = (
        left(unpack(layout.pack_meta(block_metadata.metadata(one))))
        for one in (others_block(), block())
    )
    for found in (hers, own):
        readers = frozenset({60002} if found is hers else {60001})
        with pytest.raises(ValueError, match="others than its user"):
            block_metadata.adopted(replace(found, readers=readers), 7, 0.0)


def test_what_is_not_loaded_is_not_in_it() -> None:
    """A member that was loaded alone, after all, is no part of the block."""
    partly = block()
    partly.members[1].spec = None
    meta = block_metadata.metadata(partly)
    assert [row[0] for row in meta["members"]] == ["/data/0.npy", "/data/2.npy"]
    assert len(block_metadata.adopted(left(meta), 7, 0.0).members) == 2


def test_an_earlier_arrayd_leaves_it_alone() -> None:
    """It would take the block for an array of bytes."""
    with pytest.raises(ProtocolMismatch):
        block_metadata.Metadata.from_wire(block_metadata.metadata(block()))
    newer = {**block_metadata.metadata(block()), "v": 3}
    with pytest.raises(layout.NewerSegment):
        block_metadata.adopted(left(newer), 7, 0.0)


def _row(**changes: Any) -> dict[str, Any]:
    names = ("path", "stat", "offset", "room", "spec", "lost", "aliases")
    meta = MembersMetadata.from_wire(block_metadata.metadata(block()))
    row = dict(zip(names, meta.members[1], strict=True)) | changes
    members: Any = (meta.members[0], tuple(row.values()), meta.members[2])
    return replace(meta, members=members).to_wire()


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 100},
        {"offset": 3 * 192 - 100},
        {"offset": -1},
        {"room": 0},
        {"room": 40},
        {"spec": 1},
        {"spec": -1},
        {"lost": -1},
        {"aliases": ()},
        {"path": ""},
        {"stat": "x"},
    ],
    ids=str,
)
def test_what_cannot_be(changes: dict[str, Any]) -> None:
    """Members that overlap, lie outside, or have no array, are not adopted."""
    with pytest.raises(ValueError, match=r"member|Error"):
        block_metadata.adopted(left(_row(**changes)), 7, 0.0)


def test_an_unfinished_one() -> None:
    """A load that was not done is worth nothing."""
    with pytest.raises(ValueError, match="not done"):
        block_metadata.adopted(left(block_metadata.metadata(block()), sealed=False), 7, 0.0)
