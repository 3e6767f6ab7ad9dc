"""A segment is mapped by `attach.c` and step by step in the same way, and given back for sure."""

from __future__ import annotations

import dis
import errno
import fcntl
import gc
import os
import re
import secrets
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import arrayd
from arrayd.common import failpoints
from arrayd.system import attach, mapping
from arrayd.system.mapping import MappingFinalizer, SegmentMapping, Vanished
from arrayd.wire import layout
from tests.support.compiled import compiled, way

__all__ = ["compiled", "way"]

DATA = np.arange(1000)
SIZE = 8192 + layout.FOOTER_BYTES


@pytest.fixture
def name() -> Iterator[str]:
    """Give a name in /dev/shm, which is removed at the end."""
    fresh = f"arrayd-test-{secrets.token_hex(8)}"
    yield fresh
    path(fresh).unlink(missing_ok=True)


def path(name: str) -> Path:
    """Return where a segment is."""
    return Path(layout.SHM, name)


def footer(name: str) -> bytes:
    """Return the footer of a segment of `DATA`."""
    return layout.Footer(name, DATA.nbytes, 8192, 0, 0, True).pack()


def write(name: str, footer: bytes) -> None:
    """Write a segment of `DATA`."""
    path(name).write_bytes(DATA.tobytes().ljust(8192, b"\0") + footer)


def mapped(name: str, mode: str = "r", nbytes: int = DATA.nbytes) -> SegmentMapping:
    """Map it, for nobody."""
    return SegmentMapping(name, nbytes, mode, None, mapping.discard, len_of)


def len_of(_: object) -> None:
    """Ring for nobody."""


def values(pages: SegmentMapping) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return what is mapped, as numbers."""
    flat: Any = pages
    return np.asarray(flat).view(np.int64)


def maps(name: str) -> list[str]:
    """Return the kernel's flags of each mapping of a segment in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    found = [line.split()[1] for line in lines if line.removesuffix(" (deleted)").endswith(name)]
    return sorted(found)


@pytest.mark.parametrize(("mode", "flags"), [("r", "r--s"), ("c", "rw-p"), ("w", "rw-s")])
def test_the_modes(way: str, name: str, mode: str, flags: str) -> None:
    """Pages are read-only, private or shared, left out of core dumps, and go with the mapping."""
    write(name, footer(name))
    before = os.listdir("/proc/self/fd")
    pages = mapped(name, mode)
    info = path(name).stat()
    assert (pages.size, pages.inode, pages.nbytes) == (SIZE, info.st_ino, DATA.nbytes)
    assert maps(name) == [flags]
    smaps = Path("/proc/self/smaps").read_text()
    assert re.search(rf"/{name}\n(?:[A-Z].*\n)*?VmFlags:.* dd", smaps)
    seen = values(pages)
    assert (seen == DATA).all()
    assert seen.flags.writeable == (mode != "r")
    if mode != "r":
        seen[3] = 77
    assert np.frombuffer(path(name).read_bytes(), np.int64)[3] == (77 if mode == "w" else 3)
    assert os.listdir("/proc/self/fd") == before
    del pages
    assert maps(name) == [flags]  # an array keeps it
    del seen
    assert maps(name) == []


def test_who_hears_of_the_end(way: str, name: str) -> None:
    """First the pages go, then the owner's finalizer is handed over, then it rings."""
    write(name, footer(name))
    heard: list[Any] = []

    def ended(end: MappingFinalizer) -> None:
        heard.extend((end.owner, maps(name)))
        mapping.discard(end)

    pages = SegmentMapping(name, 8, "r", "me", ended, lambda _: heard.append("ring"))
    assert pages.end.owner == "me"
    assert heard == []
    del pages
    assert heard == ["me", [], "ring"]


def damaged(name: str, at: int, new: bytes, *, sound: bool = True) -> bytes:
    """Return a footer with other bytes at one place; `sound`: its checksum is right."""
    made = bytearray(footer(name))
    made[at : at + len(new)] = new
    if sound:
        made[176:180] = layout._CRC.pack(zlib.crc32(made[:176]))
    return bytes(made)


WRONG: dict[str, tuple[Callable[[str], bytes], str]] = {
    "another's": (lambda name: footer(name[:-1] + "x"), "says that it is arrayd-test-"),
    "no name": (lambda name: footer(""), "says that it is "),
    "a longer name": (lambda name: footer(name + "x"), "says that it is"),
    "the checksum": (lambda name: damaged(name, 20, b"x", sound=False), "the footer is damaged"),
    "the magic": (lambda name: damaged(name, 0, b"b"), "no arrayd footer"),
    "version 0": (lambda name: damaged(name, 8, bytes(4)), "no arrayd footer"),
    "an endless name": (lambda name: damaged(name, 44, b"\x81"), "the footer is damaged"),
    "no text": (lambda name: damaged(name, 48, b"\xff"), "the footer's name is damaged"),
    "zeros": (lambda _: bytes(4096), "no arrayd footer"),
    "half of it": (lambda name: footer(name)[:2048], "too few"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_footer_that_is_wrong(way: str, name: str, what: str) -> None:
    """What does not name itself in a sound footer is not mapped."""
    make, words = WRONG[what]
    write(name, make(name))
    with pytest.raises(Vanished, match=words):
        mapped(name)
    assert maps(name) == []


def test_a_newer_segment(way: str, name: str) -> None:
    """The name of a segment of a later version is read, so it is mapped."""
    write(name, damaged(name, 8, b"\x07"))
    assert (values(mapped(name)) == DATA).all()


def test_what_is_no_segment(way: str, name: str, tmp_path: Path) -> None:
    """What is not there, too short, a link or a folder, in another folder: never mapped."""
    with pytest.raises(Vanished, match="is not in /dev/shm"):
        mapped(name)
    write(name, footer(name))
    for nbytes in (8193, SIZE, 2**40):
        with pytest.raises(Vanished, match="too few"):
            mapped(name, nbytes=nbytes)
    write(name, footer(f"{name}\0"))
    with pytest.raises(ValueError, match="embedded null"):
        mapped(f"{name}\0")
    around = f"../shm/{name}"
    write(name, footer(around))
    with pytest.raises(Vanished, match="no name of a segment"):
        mapped(around)
    with pytest.raises(Vanished, match="too long"):
        mapped("x" * 300)
    path(name).write_bytes(b"arrayd\r\n")
    with pytest.raises(Vanished, match="too few"):
        mapped(name)
    path(name).unlink()
    (tmp_path / "a").write_bytes(DATA.tobytes().ljust(8192, b"\0") + footer(name))
    path(name).symlink_to(tmp_path / "a")
    with pytest.raises(Vanished, match="symbolic links"):
        mapped(name)
    path(name).unlink()
    path(name).mkdir()
    with pytest.raises((Vanished, OSError)):
        mapped(name)
    path(name).rmdir()
    assert maps(name) == []


def test_no_room(way: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a descriptor, or without addresses, the error says what is missing."""
    with open(path(name), "wb") as file:
        file.seek(2**47)
        file.write(footer(name))
    with pytest.raises(arrayd.NoRoom, match="cannot be mapped"):
        mapped(name)
    for code, kind in ((errno.EMFILE, arrayd.NoRoom), (errno.ENOENT, Vanished)):
        failure = OSError(code, os.strerror(code))
        monkeypatch.setattr(failpoints, "hit", lambda _, failure=failure: raised(failure))
        with pytest.raises(kind):
            mapped(name)
    assert maps(name) == []


def raised(error: Exception) -> None:
    """Raise it."""
    raise error


def test_no_descriptor(way: str, name: str) -> None:
    """A process that has as many files open as it may is told so, and leaves nothing behind."""
    import resource

    write(name, footer(name))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    before = len(mapping._ends)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(arrayd.NoRoom, match="descriptors"):
            mapped(name)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == used
    assert len(mapping._ends) == before


def test_a_lease(way: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the daemon looks whether anybody maps it, one waits; for ever, one does not."""
    write(name, footer(name))
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(path(name), os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        monkeypatch.setattr(mapping, "_LEASE_WAIT", 0.01)
        with pytest.raises(arrayd.DaemonError, match="has been barred"):
            mapped(name)
        assert maps(name) == []
        monkeypatch.setattr(mapping, "_LEASE_WAIT", 60.0)
        given_back = threading.Timer(0.01, fcntl.fcntl, (fd, fcntl.F_SETLEASE, fcntl.F_UNLCK))
        given_back.start()
        assert (values(mapped(name)) == DATA).all()
        given_back.join()
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)


def test_sealed_and_moved(way: str, name: str) -> None:
    """What was mapped shared is cut off in place, and shows another segment in place."""
    write(name, footer(name))
    pages = mapped(name, "w")
    seen = values(pages)
    pages.seal()
    assert maps(name) == ["rw-p"]
    seen[3] = 77
    assert np.frombuffer(path(name).read_bytes(), np.int64)[3] == 3
    other = name + "b"
    try:
        write(other, footer(other))
        second = mapped(other)
        pages.move(second)
        assert (maps(name), maps(other)) == ([], ["r--s", "rw-p"])
        assert (seen == DATA).all()
        assert (pages.segment, pages.inode) == (other, second.inode)
        del second, seen, pages
        assert maps(other) == []
    finally:
        path(other).unlink()


def test_a_child(way: str, name: str) -> None:
    """A forked child that drops its mapping unmaps its own; the parent's stays."""
    write(name, footer(name))
    pages = mapped(name)
    pid = os.fork()
    if pid == 0:
        del pages
        os._exit(len(maps(name)))
    assert os.waitpid(pid, 0)[1] == 0
    assert maps(name) == ["r--s"]
    assert (values(pages) == DATA).all()


def interrupting(after: int) -> Callable[[FrameType, str, Any], Any]:
    """Return what interrupts `mapping`, as a signal may, at the moment of that number.

    CPython looks for signals where a function begins, after a call, and where a loop goes back.
    """
    left = after
    last: dict[FrameType, str] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != mapping.__file__:
            return None
        frame.f_trace_opcodes, before = True, ""
        if event == "opcode":
            before = last.get(frame, "")
            last[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
        if event == "call" or before.startswith(("CALL", "JUMP_BACKWARD")):
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        return trace

    return trace


def test_ctrl_c_at_any_moment(way: str, name: str) -> None:
    """Interrupted anywhere, it leaves no page, no descriptor, and no finalizer but heard ones."""
    write(name, footer(name))
    fds, ends = os.listdir("/proc/self/fd"), len(mapping._ends)
    left, done = 0, False
    while not done:
        before = sys.gettrace()
        sys.settrace(interrupting(left))
        try:
            pages = mapped(name)
            done = True
        except KeyboardInterrupt:
            left += 1
        finally:
            sys.settrace(before)
        if done:
            del pages
        gc.collect()
        assert (maps(name), os.listdir("/proc/self/fd")) == ([], fds), left
        assert len(mapping._ends) == ends
    assert left > 10


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(0, 200), st.integers(0, 255), max_size=3), st.booleans())
def test_any_footer(
    compiled: attach.Functions, name: str, changes: dict[int, int], sound: bool
) -> None:
    """`attach.c` takes exactly the footers that `layout.unpack_name` finds the name in."""
    made = bytearray(footer(name))
    for at, new in changes.items():
        made[at] = new
    if sound:
        made[176:180] = layout._CRC.pack(zlib.crc32(made[:176]))
    write(name, bytes(made))
    try:
        right = layout.unpack_name(bytes(made)) == name
    except layout.NotASegment:
        right = False
    record = attach.Record()
    compiled.attach(name.encode(), len(name), ord("r"), record)
    assert (record[0] != 0) == right
    compiled.detach(record)
    assert record[0] == 0
    assert maps(name) == []


@pytest.mark.parametrize("size", [layout.PAGE, (2 << 20) - 4096, 2 << 20, (5 << 20) + 4096])
def test_room_for_huge_pages(size: int) -> None:
    """A large mapping begins at a huge page's address; what else was reserved is given back."""
    before = _reserved()
    start = mapping._reserve(size)
    assert start % (2 << 20 if size >= 2 << 20 else layout.PAGE) == 0
    assert _reserved() - before == size
    mapping.unmap(start, size)
    assert _reserved() == before


def _reserved() -> int:
    """Return how much of the address space is set aside, without any right."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    found = (line.split()[0].split("-") for line in lines if line.split()[1] == "---p")
    return sum(int(stop, 16) - int(start, 16) for start, stop in found)
