"""Whether a file is as it was is said in the same way by `attach.c` and by Python."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arrayd.system.file_state import unchanged
from arrayd.wire.protocol import Stat
from tests.support.compiled import compiled, way

__all__ = ["compiled", "way"]


def state(path: Path) -> Stat:
    """Return what there is to compare."""
    now = os.stat(path)
    return (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)


@pytest.mark.parametrize("seconds", [0, -5, 2**33, 1_700_000_000])
def test_each_number_counts(way: str, tmp_path: Path, seconds: int) -> None:
    """A file is as it was only if all five numbers are the same, whatever they are."""
    path = tmp_path / "é x.npy"
    path.write_bytes(b"abc")
    os.utime(path, ns=(0, seconds * 10**9 + 123_456_789))
    known = state(path)
    assert unchanged(str(path), known)()
    for at in range(5):
        for by in (1, -1, 10**9, 2**32):
            numbers = list(known)
            numbers[at] += by
            device, inode, size, modified, changed = numbers
            assert not unchanged(str(path), (device, inode, size, modified, changed))()


def test_each_look_is_at_the_file_as_it_is_now(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written, replaced, gone, out of reach, or in another current directory."""
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    monkeypatch.chdir(tmp_path)
    look, relative = unchanged(str(path), state(path)), unchanged("x", state(path))
    (tmp_path / "link").symlink_to("x")
    linked = unchanged(str(tmp_path / "link"), state(path))
    assert look()
    assert relative()
    assert linked()
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert look()
    assert not relative()
    path.write_bytes(b"abcd")
    assert not look()
    assert not linked()
    written = unchanged(str(path), state(path))
    os.rename(path, tmp_path / "y")
    assert not written()
    os.link(tmp_path / "y", path)
    assert not written()  # its ctime is another
    assert not unchanged(str(path / "beyond"), state(path))()
    assert not unchanged("x" * 5000, state(path))()
