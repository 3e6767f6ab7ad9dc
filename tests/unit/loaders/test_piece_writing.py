"""Pieces of a segment that is written by others at the same time."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrayd_server.kernel import leases
from arrayd_server.loaders import piece_writing
from arrayd_server.loaders.formats import probe
from tests.faults.grounds import NEEDS_ROOT, Ground, ground
from tests.support.loading import (
    QUICK,
    as_npy,
    free,
    make_segment,
    make_tiny,
    same,
    target_of,
    write,
)

__all__ = ["ground"]

PAGE = mmap.PAGESIZE
SIZE = 5 * PAGE + 100

segment = pytest.fixture(make_segment)


@pytest.fixture
def busy(segment: Path) -> Iterator[int]:
    """Give a segment in which it is another's turn to write."""
    segment.write_bytes(bytes(SIZE))
    with open(segment, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        fd = os.open(segment, os.O_RDWR)
        yield fd
        os.close(fd)


@given(st.data())
@QUICK
def test_any_piece(busy: int, data: st.DataObject) -> None:
    """It is there, and nothing beside it, wherever it begins and ends."""
    start = data.draw(st.integers(0, SIZE - 1))
    length = data.draw(st.integers(0, SIZE - start))
    before = os.pread(busy, SIZE, 0)
    value = data.draw(st.integers(0, 255))
    piece_writing.put(busy, start, memoryview(bytes([value]) * length))
    after = before[:start] + bytes([value]) * length + before[start + length :]
    assert os.pread(busy, SIZE + 1, 0) == after


@pytest.mark.parametrize("way", ["by turns", "without a mapping", "on an older kernel"])
def test_each_way(
    way: str, busy: int, segment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is copied, and bytes are put; nothing is left open or mapped."""
    make_tiny(monkeypatch)
    if way == "without a mapping":
        monkeypatch.setattr(piece_writing, "_mapped", lambda *_: None)
    elif way == "on an older kernel":
        monkeypatch.setattr(piece_writing, "_POPULATE_WRITE", 9999)
    array = np.arange(3000).reshape(30, 100)
    source = as_npy(tmp_path, array)
    plan = probe(source)
    target = target_of(source, plan, segment)
    for part in plan.parts:
        write(source, plan, part, target)
    same(np.fromfile(segment, array.dtype).reshape(array.shape), array)
    piece_writing.put(busy, 8, memoryview(b"12345678"))
    assert segment.read_bytes()[:24] == bytes(8) + b"12345678" + array[0, 2].tobytes()


def test_the_turn_is_one_processs_at_a_time(busy: int, segment: Path) -> None:
    """Of one that has opened the segment by itself; it ends also with an error."""
    with piece_writing.turn(busy) as ours:
        assert not ours
    segment.unlink()
    segment.write_bytes(bytes(SIZE))
    with open(segment, "r+b") as one, open(segment, "r+b") as two:
        with (
            pytest.raises(ZeroDivisionError),
            piece_writing.turn(one.fileno()) as ours,
            piece_writing.turn(two.fileno()) as others,
        ):
            assert ours
            assert not others
            raise ZeroDivisionError
        with piece_writing.turn(two.fileno()) as ours:
            assert ours
    assert free(segment)


@NEEDS_ROOT
@pytest.mark.parametrize("turn", [True, False])
def test_a_full_shm(turn: bool, ground: Callable[[str], Ground]) -> None:
    """It is an error, in turn and out of turn; what is there stays, and nothing is mapped."""
    small = ground("size=1M")
    path = small.shm / "segment"
    path.write_bytes(b"a" * PAGE)
    os.truncate(path, 8 * PAGE)
    small.fill()
    fd = os.open(path, os.O_RDWR)
    with open(path, "rb") as other:
        if not turn:
            fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="No space left") as caught:
            piece_writing.put(fd, PAGE - 1, memoryview(b"b" * 3 * PAGE))
        assert caught.value.errno == errno.ENOSPC
    os.close(fd)
    assert path.read_bytes()[: PAGE - 1] == b"a" * (PAGE - 1)
    fd = os.open(path, os.O_RDWR)
    assert leases.alone(fd)
    os.close(fd)
