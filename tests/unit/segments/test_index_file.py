"""The index: what one side writes the other reads; a torn or foreign file is never believed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, rule

from arrayd.session.block_index import BlockIndex
from arrayd.wire import index
from arrayd.wire.grant import Grant, Spec
from arrayd_server.segments import index_file
from arrayd_server.segments.index_file import IndexFile, IndexFull

SPEC = Spec((3, 4), [["a", "<i4"], ["b", "|S10"]], "C", 14)

some_keys = st.integers(0, 300).map(lambda n: index.key(b"source", [n]))


def entry(name: str) -> Grant:
    """Return what is granted of a block of that name."""
    return Grant(name, SPEC, 0, f"/data/{name}.npy")


def packed(known: dict[bytes, Grant]) -> dict[bytes, bytes]:
    """Return what the file has of them."""
    return {key: index.packed_grant(one) for key, one in known.items()}


@pytest.mark.parametrize("window", [True, False])
def test_an_entry_says_what_a_grant_says(window: bool) -> None:
    """Shape, dtype, order, source, lost values and the place in the block come back."""
    grant = Grant("arrayd-x-1", SPEC, 0, "/a\udcff.npy", True, window, 7, b"", 4096, 8192)
    assert index.unpacked_grant(index.packed_grant(grant), window) == grant


class Walk(RuleBasedStateMachine):
    """Keys come, change and go; the reader sees each time what was written last."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(os.environ["PYTEST_INDEX_WALK"])
        self.path = str(self.directory / f"{os.getpid()}-{id(self)}")
        self.file = IndexFile(self.path, {})
        self.reader = BlockIndex(self.path)
        self.known: dict[bytes, Grant] = {}

    @rule(keys=st.lists(some_keys, min_size=1, max_size=40), name=st.text("abc", min_size=1))
    def put(self, keys: list[bytes], name: str) -> None:
        """Publish a block under some keys; a full file makes way for a larger one."""
        news = dict.fromkeys(keys, entry(name))
        self.known |= news
        try:
            self.file.update({key: index.packed_grant(one) for key, one in news.items()})
        except IndexFull:
            self._rewrite()

    @rule(keys=st.lists(some_keys, min_size=1, max_size=40))
    def remove(self, keys: list[bytes]) -> None:
        """Take some keys away, whether they are there or not."""
        for key in keys:
            self.known.pop(key, None)
        self.file.update(dict.fromkeys(keys))  # there is always room for that

    @rule()
    def _rewrite(self) -> None:
        """Write a file anew, as a daemon that starts does."""
        before = self.file
        self.file = IndexFile(
            self.path, {k: index.packed_grant(one) for k, one in self.known.items()}
        )
        before.close()

    @rule(keys=st.lists(some_keys, min_size=1, max_size=40))
    def look(self, keys: list[bytes]) -> None:
        """Look some keys up, from both sides."""
        for key in keys:
            known = self.known.get(key)
            assert self.reader.find(key) == known

    @rule()
    def all(self) -> None:
        """Look at all of them, as for a larger file."""
        assert self.file.entries() == {
            key: index.packed_grant(one) for key, one in self.known.items()
        }

    def teardown(self) -> None:
        """Close and remove it: the readers hear of that."""
        self.file.close(remove=True)
        assert self.reader.find(b"k" * 16) is None
        assert not os.path.exists(self.path)


def test_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any order of these, for several hundred keys in slots for few."""
    monkeypatch.setattr(index_file, "FEWEST_SLOTS", 16)
    monkeypatch.setenv("PYTEST_INDEX_WALK", str(tmp_path))
    machine: Any = Walk.TestCase
    machine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
    machine().runTest()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_is_seen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever bytes a slot or an entry has: the reader finds what was written, or nothing."""
    path = str(tmp_path_factory.mktemp("index") / "index")
    known = {index.key(b"s", [n]): entry(f"block-{n}") for n in range(20)}
    file = IndexFile(path, {key: index.packed_grant(one) for key, one in known.items()})
    reader = BlockIndex(path)
    fd = os.open(path, os.O_RDWR)
    try:
        used = [n for n in range(index.SLOTS_AT, file.size) if os.pread(fd, 1, n) != b"\0"]
        for at in data.draw(st.lists(st.sampled_from(used), min_size=1, max_size=30)):
            os.pwrite(fd, data.draw(st.binary(min_size=1, max_size=40)), at)
        for key, one in known.items():
            assert reader.find(key) in (one, None)
        for key, packed in file.entries().items():
            assert index.packed_grant(known[key]) == packed
    finally:
        os.close(fd)
        file.close(remove=True)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0" * 8192, id="zeros"),
        pytest.param(index.HEADER.pack(index.MAGIC, 2, 0, 4).ljust(8192, b"\0"), id="newer"),
        pytest.param(index.HEADER.pack(index.MAGIC, 1, 1, 4).ljust(8192, b"\0"), id="closed"),
        pytest.param(index.HEADER.pack(index.MAGIC, 1, 0, 3).ljust(8192, b"\0"), id="odd"),
        pytest.param(index.HEADER.pack(index.MAGIC, 1, 0, 512).ljust(8192, b"\0"), id="short"),
    ],
)
def test_what_is_no_index_is_not_read(tmp_path: Path, content: bytes) -> None:
    """Of a newer version, cut off, or something else: the daemon is asked."""
    (tmp_path / "index").write_bytes(content)
    assert BlockIndex(str(tmp_path / "index")).find(b"k" * 16) is None


def test_a_link_or_a_directory_is_not_read(tmp_path: Path) -> None:
    """Only a regular file of one's own."""
    os.symlink(tmp_path / "other", tmp_path / "link")
    (tmp_path / "directory").mkdir()
    for name in ("link", "directory", "missing"):
        assert BlockIndex(str(tmp_path / name)).find(b"k" * 16) is None


def test_without_room_there_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full /dev/shm leaves the old file in place, and nothing half written."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = str(tmp_path / "index")
    key = index.key(b"s", [1])
    file = IndexFile(path, {key: index.packed_grant(entry("a"))})
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        IndexFile(path, {})
    assert os.listdir(tmp_path) == ["index"]
    assert BlockIndex(path).find(key) == entry("a")
    assert file.in_place
    file.close(remove=True)
