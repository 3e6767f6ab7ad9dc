"""`OwnDaemon`: which requests go to the user's own daemon; its sessions say only whose they are."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrayd.errors import (
    AccessDenied,
    ArraydError,
    DaemonLost,
    InUse,
    LoadTimeout,
    NoDaemon,
    NoRoom,
    NoSuchBlock,
)
from arrayd.session import own_daemon, source_blocks
from arrayd.session.fetch import Numbered, Terms
from arrayd.session.own_daemon import MAX_KNOWN, OwnDaemon
from arrayd.session.request import FileRequest
from arrayd.source import Source
from arrayd.system import launch

DENIED = AccessDenied("The daemon may not.", why=3)


class Asked:
    """A session that notes what it is asked.

    Parameters
    ----------
    uid
        Whose daemon's it is; None: an old one, which does not say.
    """

    def __init__(self, uid: int | None, *answers: Any) -> None:
        self.endpoint = "ipc:///somewhere"
        self.daemon: dict[str, Any] = {"uid": uid}
        self.answers = list(answers)
        self.asked: list[list[int]] = []
        self.waits: list[Any] = []
        self.closed, self.index, self.is_open = False, None, True

    def connect(self) -> None:
        """Be connected."""

    def ask(self, _: str, wait: Any, **__: Any) -> list[Any]:
        """Answer with the next of the answers, or raise it."""
        self.waits.append(wait)
        answer = self.answers.pop(0)
        if isinstance(answer, ArraydError):
            raise answer
        return [answer]

    def close(self) -> None:
        """Be closed."""
        self.closed = True


def like_a_session(uid: int | None) -> Any:
    """Return what is as good as a `Session`."""
    return Asked(uid)


class World:
    """A client's session, the own daemon, and what the former refuses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, uid: int | None) -> None:
        self.theirs, self.own = like_a_session(uid), like_a_session(os.geteuid())
        self.made: list[bool] = []
        self.failure: ArraydError | None = None
        self.refuses: set[int] = set()
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
        monkeypatch.setattr(own_daemon, "Session", self.session)
        self.daemon = OwnDaemon(self.theirs, start=True)

    def session(self, endpoint: str, *, start: bool) -> Any:
        """Open the session with the own daemon, if there is one."""
        assert (endpoint, start) == ("private", True)
        if self.failure is not None:
            raise self.failure
        self.made.append(start)
        return self.own

    def answers(self, requests: Sequence[FileRequest]) -> list[Any]:
        """Ask for all of them: those of `refuses` are denied, others get whose answer it is."""

        def ask(session: Any, some: Numbered) -> list[Any]:
            numbers = [number for number, _ in some]
            session.asked.append(numbers)
            if session is self.own:
                return ["own"] * len(numbers)
            return [DENIED if number in self.refuses else "theirs" for number in numbers]

        return self.daemon.answers(requests, ask)


@pytest.fixture
def files(tmp_path: Path) -> list[FileRequest]:
    """Give requests for four files."""
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", np.arange(number))
    return [FileRequest.of(tmp_path / f"{number}.npy", {}) for number in range(4)]


def test_what_is_refused_goes_there(
    monkeypatch: pytest.MonkeyPatch, files: list[FileRequest]
) -> None:
    """In one batch, and from then on at once; what the file was is a part of what is known."""
    world = World(monkeypatch, os.geteuid() + 1)
    world.refuses = {1, 3}
    for _ in range(2):
        assert world.answers(files) == ["theirs", "own", "theirs", "own"]
    assert world.theirs.asked == [[0, 1, 2, 3], [0, 2]]
    assert (world.own.asked, world.made) == ([[1, 3], [1, 3]], [True])
    os.utime(files[1].source.path, ns=(0, 0))
    world.refuses = {0}
    rows = FileRequest.of(files[3].source.path, {"rows": slice(1)})
    assert world.answers([files[1].anew(), rows]) == ["own", "own"]
    assert (world.theirs.asked[2], world.own.asked[2]) == ([0], [1, 0])


@pytest.mark.parametrize("uid", [os.geteuid(), None])
def test_a_daemon_of_ones_own_is_believed(
    monkeypatch: pytest.MonkeyPatch, files: list[FileRequest], uid: int | None
) -> None:
    """So is one that does not say whose it is."""
    world = World(monkeypatch, uid)
    world.refuses = {1}
    assert world.answers(files) == ["theirs", DENIED, "theirs", "theirs"]
    assert world.daemon.for_datasets() == world.theirs
    assert [*world.daemon.all_running()] == [(world.theirs, False)]
    assert world.made == []


def test_what_does_not_go_there(monkeypatch: pytest.MonkeyPatch, files: list[FileRequest]) -> None:
    """Files that this process may not read, names, and other errors."""
    world = World(monkeypatch, os.geteuid() + 1)
    monkeypatch.setattr(os, "access", lambda path, *_, **__: not str(path).endswith("1.npy"))
    requests = [files[0], files[1], FileRequest.of("name:x", {})]
    world.refuses = {1, 2}
    assert world.answers(requests) == ["theirs", DENIED, DENIED]
    room = NoRoom("none")
    assert world.daemon.answers(requests, lambda _, some: [room for _ in some]) == [room] * 3
    with pytest.raises(AccessDenied):  # not an answer: a segment that cannot be opened
        world.daemon.answers(requests, lambda *_: _raise(DENIED))
    assert world.made == []


def _raise(error: ArraydError) -> list[Any]:
    raise error


class Index:
    """Of the private daemon: it has these keys."""

    def __init__(self, *keys: bytes) -> None:
        self.keys = keys

    def find_for(self, _: FileRequest, key: bytes) -> object:
        """Return something for a key that it has."""
        return self if key in self.keys else None


def test_what_the_own_one_has_in_memory(
    monkeypatch: pytest.MonkeyPatch, files: list[FileRequest]
) -> None:
    """It is looked at first, and opened only if it has what is wanted, and the other is others'."""
    index = Index(b"a")
    monkeypatch.setattr(own_daemon, "BlockIndex", lambda path: index if "/arrayd-" in path else 0)
    world = World(monkeypatch, os.geteuid() + 1)
    assert world.daemon.having(files[0], b"b") is None
    assert world.made == []
    assert world.daemon.having(files[0], b"a") == world.own
    assert world.daemon.having(files[0], b"b") == world.own  # it may hold that
    assert world.own.index is index
    for uid in (os.geteuid(), None):
        assert World(monkeypatch, uid).daemon.having(files[0], b"a") is None
    met = World(monkeypatch, None)
    met.theirs.daemon, met.theirs.answers = {}, [LoadTimeout("silent")]
    assert met.daemon.having(files[0], b"a") is None
    met.theirs.answers, met.daemon._silent_until = [DENIED], 0.0
    assert met.daemon.having(files[0], b"a") == met.own
    ended = World(monkeypatch, os.geteuid() + 1)
    ended.failure = NoDaemon("None is there.")
    assert ended.daemon.having(files[0], b"a") is None
    private = World(monkeypatch, os.geteuid() + 1)
    private.theirs.endpoint = launch.private_endpoint()
    assert private.daemon.having(files[0], b"a") is None


def test_who_is_not_welcome_asks_the_own_one(
    monkeypatch: pytest.MonkeyPatch, files: list[FileRequest]
) -> None:
    """Of a daemon that does not serve this user nothing is asked any more."""
    world = unmet(monkeypatch, DENIED)
    assert world.daemon.for_datasets() == world.own
    assert world.answers(files) == ["own"] * 4
    assert world.theirs.asked == []
    other = unmet(monkeypatch)

    def ask(session: Any, some: Numbered) -> list[Any]:
        return _raise(DENIED) if session is other.theirs else ["own" for _ in some]

    assert other.daemon.answers(files, ask) == ["own"] * 4


def unmet(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> World:
    """Return a world whose daemon has not welcomed the client; these are its next answers."""
    world = World(monkeypatch, None)
    world.theirs.daemon, world.theirs.answers = {}, list(answers)
    return world


def test_a_silent_daemon_is_waited_for_once(
    monkeypatch: pytest.MonkeyPatch, files: list[FileRequest]
) -> None:
    """Not for each file, and not beyond the end of the call; once it has spoken, it is known."""
    monkeypatch.setattr(own_daemon, "BlockIndex", lambda _: Index(b"a"))
    world = unmet(monkeypatch, LoadTimeout("silent"))
    soon = time.monotonic() + 0.25
    assert [world.daemon.having(one, b"a", soon) for one in files * 5] == [None] * 20
    (wait,) = world.theirs.waits
    assert 0 <= wait <= 0.25
    world.theirs.daemon = {"uid": os.geteuid() + 1}  # by another call
    assert world.daemon.having(files[0], b"a") == world.own
    late = unmet(monkeypatch, LoadTimeout("silent"))
    assert late.daemon.having(files[0], b"a", time.monotonic() - 1) is None
    assert late.theirs.waits == [0.0]


def test_who_is_let_in_later(monkeypatch: pytest.MonkeyPatch, files: list[FileRequest]) -> None:
    """Where the own daemon is not to be had, the other one is asked anew each time."""
    world = unmet(monkeypatch)
    world.failure, serves = NoDaemon("None is there."), False

    def ask(session: Any, some: Numbered) -> list[Any]:
        assert session is world.theirs
        return ["theirs" for _ in some] if serves else _raise(DENIED)

    for _ in range(2):
        assert [type(one) for one in world.daemon.answers(files, ask)] == [AccessDenied] * 4
    serves = True  # its administrator adds this user to `allow`
    assert world.daemon.answers(files, ask) == ["theirs"] * 4
    other = unmet(monkeypatch, DENIED, {"ok": {}})
    other.failure = world.failure
    with pytest.raises(AccessDenied, match=r"The daemon may not\. .* None is there"):
        other.daemon.for_datasets()
    assert other.daemon.for_datasets() == other.theirs


def test_blocks_of_who_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """The own daemon alone is asked who uses a source, and frees it; a number is not its own."""
    monkeypatch.setattr(launch, "serves", lambda _: True)
    source, one = Source(path="/x.npy"), {"blocks": 1, "bytes": 10, "arrays": 1}
    world = unmet(monkeypatch, DENIED)
    world.own.answers = [{"ok": one}, {"ok": {"blocks": [{}], "jobs": []}}]
    assert source_blocks.freed(world.daemon, source, None) == one
    assert source_blocks.uses(world.daemon, source) == {"blocks": [{"own": True}], "jobs": []}
    world.theirs.answers = [DENIED]
    with pytest.raises(AccessDenied, match=r"^The daemon may not\.$"):
        source_blocks.freed(world.daemon, None, 3)
    monkeypatch.setattr(launch, "serves", lambda _: False)
    for ended in (world, unmet(monkeypatch, DENIED)):
        with pytest.raises(AccessDenied, match=r"^The daemon may not\.$"):
            source_blocks.uses(ended.daemon, source)
        ended.theirs.answers = [{"ok": {}}, {"ok": {"blocks": [], "jobs": []}}]
        assert source_blocks.uses(ended.daemon, source)["blocks"] == []  # she is let in


def test_status_of_who_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal says how to see what the own daemon holds, if that runs."""
    for runs, words in ((True, "status --endpoint private"), (False, r"^The daemon may not\.$")):
        monkeypatch.setattr(launch, "serves", lambda _, runs=runs: runs)
        with pytest.raises(AccessDenied, match=words) as caught:
            unmet(monkeypatch, DENIED).daemon.status()
        assert caught.value.details == {"why": 3}


def test_both_reasons(monkeypatch: pytest.MonkeyPatch, files: list[FileRequest]) -> None:
    """Where the own one cannot be had, each file gets the refusal, and why not."""
    world = World(monkeypatch, os.geteuid() + 1)
    world.failure, world.refuses = NoDaemon("None is there."), {1}
    for _ in range(2):
        first, error, *_ = world.answers(files)
        assert (first, type(error), error.details) == ("theirs", AccessDenied, {"why": 3})
        assert str(error) == (
            "The daemon may not. "
            "Your own daemon would read it, but is not to be had: None is there."
        )
    with pytest.raises(AccessDenied, match=r"reads no dataset for another user.*None is there"):
        world.daemon.for_datasets()
    world.refuses = set()
    assert world.answers(files)[1] == "theirs"  # it is asked again: it may be able to by now
    world.failure, world.refuses = None, {1}
    assert world.answers(files)[1] == "own"


def test_closed(monkeypatch: pytest.MonkeyPatch, files: list[FileRequest]) -> None:
    """A client that is closed asks nobody, and says so."""
    world = World(monkeypatch, os.geteuid() + 1)
    world.daemon.close()
    world.refuses = {0}
    lost = DaemonLost("closed")

    def ask(session: Any, some: Numbered) -> list[Any]:
        return [DENIED for _ in some] if session is world.theirs else _raise(lost)

    with pytest.raises(DaemonLost):
        world.daemon.answers(files[:1], ask)
    assert world.own.closed


def test_what_is_remembered_is_bounded(
    monkeypatch: pytest.MonkeyPatch, files: list[FileRequest]
) -> None:
    """Of more files than `MAX_KNOWN` the daemon is asked anew."""
    world = World(monkeypatch, os.geteuid() + 1)
    one = files[0]
    many = [FileRequest(Source(path=one.source.path, member=str(i)), one.stat) for i in range(9)]
    monkeypatch.setattr(own_daemon, "MAX_KNOWN", 4)
    world.refuses = set(range(9))
    assert world.answers(many) == ["own"] * 9
    assert len(world.daemon._denied) <= 4 < MAX_KNOWN


def test_progress_of_a_part() -> None:
    """It has the numbers of the whole call."""
    seen: list[Any] = []
    terms = Terms(report=lambda *what: seen.append(what))
    report = terms.of([3, 5]).report
    assert report is not None
    report(1, 10, 20)
    assert seen == [(5, 10, 20)]
    assert Terms().of([1]) == Terms()


def test_evictions_of_both_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freed is what either has freed; an error says what the first had freed before."""
    world = World(monkeypatch, os.geteuid() + 1)
    monkeypatch.setattr(launch, "serves", lambda _: True)
    none = {"err": {"code": "NoSuchBlock", "message": "None.", "details": {}}}
    used = {"err": {"code": "InUse", "message": "Held.", "details": {"pid": 7}}}
    two = {"ok": {"blocks": 2, "bytes": 20, "arrays": 5}}

    def freed(theirs: Any, own: Any, block: int | None = None) -> dict[str, int]:
        world.theirs.answers, world.own.answers = [theirs], [own]
        return source_blocks.freed(world.daemon, Source(path="/x.npy"), block)

    assert freed(two, two) == {"blocks": 4, "bytes": 40, "arrays": 10}
    assert freed(two, none) == freed(none, two) == two["ok"]
    assert freed(two, used, block=3) == two["ok"]
    with pytest.raises(NoSuchBlock):
        freed(none, none)
    with pytest.raises(InUse, match=r"^Held\.$"):
        freed(used, two)
    with pytest.raises(InUse, match=r"^Held\.$"):
        freed(none, used)
    with pytest.raises(
        InUse, match=r"own daemon; the other one has freed 2 blocks, 20 B"
    ) as caught:
        freed(two, used)
    assert caught.value.details == {"pid": 7}
    monkeypatch.setattr(launch, "serves", lambda _: False)
    with pytest.raises(NoSuchBlock):
        freed(none, two)
