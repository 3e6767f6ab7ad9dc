"""The file says where each alias of a request leads, and nothing else, at any size."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from pathlib import Path

import pytest

from arrayd.session.block_index import BlockIndex
from arrayd.wire.grant import Spec
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.grants import grant_of
from arrayd_server.core.model import Block, BlockMember, ContentKey, Place, State, name_alias
from arrayd_server.segments import index_file
from arrayd_server.service.published_index import PublishedIndex

SPEC = Spec((4,), "<f8", "C", 8)


class Scene:
    """Blocks, and what a client reads of them."""

    def __init__(self, path: str) -> None:
        self.blocks = BlockTable("run-{}".format, 1 << 30)
        self.index = PublishedIndex(self.blocks, path)
        self.index.publish()
        self.reader = BlockIndex(path)

    def add(
        self,
        number: int,
        aliases: list[Hashable],
        *,
        published: bool = False,
        linked: bool = False,
    ) -> Block:
        """Have a block of one array."""
        name = self.blocks.name(number)
        block = Block(name, number, SPEC, 4096, f"/{number}.npy", State.SEALED, 0.0, 0.0)
        block.aliases, block.published, block.linked = aliases, published, linked
        self._adopt(block)
        return block

    def add_members(self, number: int, count: int) -> Block:
        """Have a block of several small files."""
        name = self.blocks.name(number)
        origin, spec = f"{count} files", Spec((count * 64,), "|u1", "C", 1)
        block = Block(name, number, spec, 4096, origin, State.SEALED, 0.0, 0.0)
        for i in range(count):
            names: list[Hashable] = [key(number, i), ContentKey(key(number, i, "content"))]
            member = BlockMember(names[0], f"/{i}.npy", None, 64 * i, 64, SPEC, names)
            block.members.append(member)
        self._adopt(block)
        return block

    def _adopt(self, block: Block) -> None:
        self.blocks.add(block)
        self.blocks.index(block)
        self.index.sync()

    def place(self, alias: bytes) -> tuple[str, int] | None:
        """Return the segment and the offset that a client finds."""
        found = self.reader.find(alias)
        return None if found is None else (found.segment, found.offset)


def key(*words: object) -> bytes:
    """Return 16 bytes that stand for words."""
    return str(words).encode().ljust(16, b".")[-16:]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Give blocks, none yet."""
    made = Scene(str(tmp_path / "index"))
    yield made
    made.index.close(hand_over=False)


def test_a_request_is_found_and_a_key_is_not(scene: Scene) -> None:
    """By the key loads find a block; a client does not know it. What has a name is not public."""
    scene.add(1, [key("asked"), ContentKey(key("content")), key("other words")])
    scene.add(2, [ContentKey(key("linked"))], linked=True)
    scene.add(3, [name_alias("n"), key("published")], published=True)
    assert scene.place(key("asked")) == scene.place(key("other words")) == ("run-1", 0)
    for unknown in ("content", "linked", "published"):
        assert scene.place(key(unknown)) is None


def test_each_member_has_its_place(scene: Scene) -> None:
    """And leaves it with its block."""
    block = scene.add_members(1, 50)
    assert [scene.place(key(1, i)) for i in range(50)] == [("run-1", 64 * i) for i in range(50)]
    assert scene.place(key(1, 0, "content")) is None
    scene.blocks.unindex(block)
    scene.index.sync()
    assert {scene.place(key(1, i)) for i in range(50)} == {None}


def test_an_entry_is_what_is_granted(scene: Scene) -> None:
    """Also where the members of a block are packed together, whatever they are."""
    block = scene.add_members(1, 4)
    other = Spec((2, 4), [["a", "<f4"], ["b", "<f4"]], "F", 8)
    for member, spec in zip(block.members, (SPEC, other, SPEC, other), strict=True):
        member.spec, member.lost = spec, 70_000
        member.identity = f"{member.identity}\udcff{'x' * 300}"
        scene.blocks.changed_aliases[member.alias] = None
    scene.index.sync()
    for number, member in enumerate(block.members):
        found = scene.reader.find(key(1, number))
        assert found == grant_of(Place(block, member), 0)


def test_a_full_file_makes_way_for_a_larger_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that is there at that time, and nothing that goes in the same event."""
    monkeypatch.setattr(index_file, "FEWEST_SLOTS", 8)
    monkeypatch.setattr(index_file, "LEAST_ROOM", 100)
    scene = Scene(str(tmp_path / "index"))
    gone = None
    for number in range(1, 60):
        if gone is not None:
            scene.blocks.unindex(gone)  # told with the next one
        made = scene.add_members(number, 5) if number % 3 else scene.add(number, [key(number, 0)])
        for before in range(1, number + 1):
            there = before % 2 == 1 or before == number
            assert (scene.place(key(before, 0)) is not None) == there
        gone = made if number % 2 == 0 else None
    scene.index.close(hand_over=False)
    assert scene.place(key(1, 0)) is None
