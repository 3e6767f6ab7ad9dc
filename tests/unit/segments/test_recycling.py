"""Pages that go on under another name: step by step, and what comes of a step that fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from arrayd.wire import layout
from arrayd_server.kernel import leases
from arrayd_server.segments import recycling
from arrayd_server.segments.adoption import Leftovers, read, read_footer
from arrayd_server.segments.outcome import Outcome
from arrayd_server.segments.scope import Scope
from arrayd_server.segments.store import Segments

META = {"a": 1}
OLD, HEIR = 1, 2


@pytest.fixture
def scope(tmp_path: Path) -> Iterator[Scope]:
    """Give an entered scope of its own, that must be left empty."""
    leases.ignore_sigio()
    with Scope(f"ipc://{tmp_path}/sock") as entered:
        yield entered
    assert not Path(entered.directory).exists()


@pytest.fixture
def segments(scope: Scope) -> Iterator[Segments]:
    """Give its segments, which are removed after the test."""
    made = Segments(scope)
    yield made
    for name in made.names():
        made.discard(name)
    made.close()


@pytest.fixture
def old(segments: Segments, scope: Scope) -> str:
    """Give a sealed segment whose bytes are all 7."""
    name, plan = f"{scope.prefix}-{OLD}", layout.plan(1 << 20, 50)
    segments.make(name, plan, META)
    with Path(segments.path(name)).open("r+b") as file:
        file.write(b"\7" * plan.data_bytes)
    assert segments.seal(name, plan, META)
    return name


@pytest.fixture
def heir(scope: Scope) -> str:
    """Give the name that its pages are to have."""
    return f"{scope.prefix}-{HEIR}"


def inode(path: str) -> int:
    """Return the inode of a file."""
    return os.stat(path).st_ino


def test_the_same_pages_have_another_name(segments: Segments, old: str, heir: str) -> None:
    """Both links lead to them, none by the old name; the footer names nothing."""
    before = inode(segments.path(old))
    assert segments.recycle(old, heir) == (Outcome.RECYCLED, -1)
    assert inode(segments.path(heir)) == inode(segments.public(heir)) == before
    for gone in (segments.path(old), segments.public(old)):
        assert not os.path.exists(gone)
    data = Path(segments.path(heir)).read_bytes()
    assert not any(data[-layout.FOOTER_BYTES :])
    assert data[0] == 7
    assert segments.names() == [heir]
    assert os.stat(segments.path(heir)).st_mode & 0o777 == 0o600


def test_access_is_the_owners_alone_again(segments: Segments, old: str, heir: str) -> None:
    """Whoever was let in to the old block is not to the new one."""
    os.chmod(segments.path(old), 0o640)
    segments.recycle(old, heir)
    assert os.stat(segments.path(heir)).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("data_bytes", [(1 << 20) - 5, (1 << 20) - 9000, (1 << 20) + 9000])
def test_a_load_has_the_pages_and_nothing_else(
    segments: Segments, old: str, heir: str, data_bytes: int
) -> None:
    """What is not data is zero or describes the new block; the file has the planned size."""
    segments.recycle(old, heir)
    before, plan = inode(segments.path(heir)), layout.plan(data_bytes, 50)
    segments.make(heir, plan, META)
    assert inode(segments.path(heir)) == before
    data = Path(segments.path(heir)).read_bytes()
    assert len(data) == plan.size
    fresh = f"{heir}0"
    segments.make(fresh, plan, META)
    clean = Path(segments.path(fresh)).read_bytes()
    assert data[data_bytes : -layout.FOOTER_BYTES] == clean[data_bytes : -layout.FOOTER_BYTES]
    fd = os.open(segments.path(heir), os.O_RDONLY)
    footer = read_footer(fd, plan.size, heir)
    os.close(fd)
    assert (footer.data_bytes, footer.sealed) == (data_bytes, False)


def test_what_somebody_has_open_stays(segments: Segments, old: str, heir: str) -> None:
    """As with any unlink: nothing is changed."""
    fd = os.open(segments.public(old), os.O_RDONLY)
    assert segments.recycle(old, heir) == (Outcome.REFUSED, -1)
    assert read(segments.path(old), old).sealed
    os.close(fd)


@pytest.mark.parametrize("waits", [True, False])
def test_who_comes_amid_the_steps_is_seen(
    segments: Segments, old: str, heir: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client is told to try again, a stdlib opener waits: the segment goes, and is no spare."""
    came: list[int] = []
    path, begun = segments.public(old), threading.Event()

    def come() -> None:
        begun.set()
        came.append(os.open(path, os.O_RDONLY))

    rename, threads = os.rename, [threading.Thread(target=come)]

    def slowly(here: str, there: str) -> None:
        if here == path and waits:
            threads[0].start()
            begun.wait()
            while not _somebody_waits():
                pass
        elif here == path:
            with pytest.raises(BlockingIOError):
                os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        rename(here, there)

    monkeypatch.setattr(os, "rename", slowly)
    outcome, fd = segments.recycle(old, heir)
    for name in (old, heir):
        assert not os.path.exists(segments.path(name))
        assert not os.path.exists(segments.public(name))
    if fd >= 0:
        os.close(fd)
    if waits:
        threads[0].join()
        os.close(came[0])
        segments.discard(old)
    else:
        assert outcome is Outcome.GONE


def _somebody_waits() -> bool:
    """Say whether an opener waits for a lease of ours, by the kernel's list of locks."""
    locks = Path("/proc/locks").read_text().splitlines()
    return any(f" {os.getpid()} " in line and "BREAKING" in line for line in locks)


def test_a_spare_that_somebody_opens_is_not_used(segments: Segments, old: str, heir: str) -> None:
    """The load has pages of its own then, under the same name."""
    segments.recycle(old, heir)
    fd = os.open(segments.public(heir), os.O_RDONLY)
    segments.make(heir, layout.plan(1 << 20, 50), META)
    assert inode(segments.path(heir)) != os.fstat(fd).st_ino
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


def test_a_spare_that_somebody_removed(segments: Segments, old: str, heir: str) -> None:
    """The load has pages of its own."""
    segments.recycle(old, heir)
    os.unlink(segments.public(heir))
    os.unlink(segments.path(heir))
    segments.make(heir, layout.plan(1 << 20, 50), META)
    assert os.path.exists(segments.public(heir))


@pytest.mark.parametrize("step", ["setxattr", "rename", "rename 2"])
def test_a_step_that_fails(
    segments: Segments,
    scope: Scope,
    old: str,
    heir: str,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The segment is unlinked then; had the daemon been killed there, the next run removed it."""
    call, _, nth = step.partition(" ")
    real, calls = getattr(os, call), iter(range(9))

    def fail(*args: object) -> object:
        if next(calls) < int(nth or 1) - 1:
            return real(*args)
        raise OSError(5, "Input/output error")

    paths = [s(name) for s in (segments.public, segments.path) for name in (old, heir)]
    fd = os.open(segments.path(old), os.O_RDWR)
    links = [(name(old), name(heir)) for name in (segments.public, segments.path)]
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="Input/output"):
            recycling.hand_down(fd, links)
    os.close(fd)
    assert list(Leftovers(Segments(scope))) == []
    assert not any(map(os.path.exists, paths))


def test_a_failed_step_ends_in_an_unlink(
    segments: Segments, old: str, heir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left, under either name."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "setxattr", fail)
        outcome, fd = segments.recycle(old, heir)
    assert outcome is Outcome.GONE
    os.close(fd)
    assert segments.names() == []
    assert not os.path.exists(segments.public(old))


def test_without_a_link_it_is_just_unlinked(segments: Segments, old: str, heir: str) -> None:
    """What somebody has removed a name of is not recycled."""
    os.unlink(segments.public(old))
    outcome, fd = segments.recycle(old, heir)
    assert outcome is Outcome.GONE
    os.close(fd)
    assert not os.path.exists(segments.path(heir))
