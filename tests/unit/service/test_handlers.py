"""What a request means, where neither a core nor a socket is needed to tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from arrayd.errors import DaemonError
from arrayd.source import Source
from arrayd.wire.requests import Request
from arrayd_server import identity
from arrayd_server.core.model import Asker, Peer, Session, Wanted
from arrayd_server.service import handlers

ME = b"me"
MAX, SHARE = handlers.MAX_IN_FLIGHT, handlers.SHARE


class NoBlocks:
    """One that has a block of `/there.npy` alone."""

    def find(self, alias: object) -> str | None:
        """Return it."""
        return "block" if alias == identity.alias(_source("/there.npy"), None) else None


def _source(path: str) -> Any:
    return Source.from_wire({"path": path})


def _daemon(*jobs: int) -> Any:
    """Return a daemon with so much of one session, and of all, in flight."""
    registry = SimpleNamespace(
        blocks=NoBlocks(), jobs=SimpleNamespace(in_flight=lambda _: tuple(jobs))
    )
    sessions = SimpleNamespace(draining=False)
    return SimpleNamespace(registry=registry, sessions=sessions, caller=lambda _: Peer(7, 1))


def _wanted(daemon: Any, path: object, **options: bool) -> Any:
    item = {"source": {"path": path}, "stat": None}
    return handlers._wanted(daemon, Asker(ME, 1), item, **options)


@pytest.mark.parametrize(
    ("mine", "every", "refused"),
    [
        (0, 0, False),
        (MAX // (SHARE + 1) - 1, MAX // (SHARE + 1) - 1, False),  # a hog alone
        (MAX // (SHARE + 1), MAX // (SHARE + 1), True),
        (500, MAX - 2100, False),  # one who has little, among many
        (500, MAX - 1900, True),
        (0, MAX - 1, False),
        (0, MAX, True),
    ],
)
def test_one_request_too_many(mine: int, every: int, refused: bool) -> None:
    """Of what is left a session has its share; what is in memory is to be had all the same."""
    daemon = _daemon(mine, every)
    assert isinstance(_wanted(daemon, "/new.npy"), DaemonError if refused else Wanted)
    assert isinstance(_wanted(daemon, "/there.npy"), Wanted)


def test_loads_that_nobody_waits_for() -> None:
    """Prefetches, which are nobody's, leave half of all to those who wait."""
    full = _daemon(0, MAX // 2)
    assert isinstance(_wanted(_daemon(0, MAX // 2 - 1), "/x.npy", detached=True), Wanted)
    assert isinstance(_wanted(full, "/new.npy", detached=True), DaemonError)
    assert isinstance(_wanted(full, "/there.npy", detached=True), Wanted)
    assert isinstance(_wanted(full, "/new.npy"), Wanted)


def test_small_files_are_refused_together() -> None:
    """Each item that nothing is begun for gets the error, at its own place."""
    daemon = _daemon(MAX, MAX)
    daemon.registry.sessions = {ME: Session(ME, Peer(7, 1, members=True), 0.0)}
    daemon.registry.blocks = daemon.registry.jobs
    daemon.registry.jobs.locate = lambda _: None
    items = [{"source": {"path": f"/{n}.npy"}, "stat": [1, n, 640, 3, 4]} for n in range(3)]
    fields = {"items": items, "pin": None, "wait": None, "progress": None}
    replies: Any = handlers.get(daemon, Request(5, ME, "get", fields), 0.0)
    assert [reply.to for reply in replies] == [Asker(ME, 5, n) for n in range(3)]
    assert all(isinstance(reply.body, DaemonError) for reply in replies)


def test_nonsense_is_told_first() -> None:
    """A source that is none is an error of its own, however many loads there are."""
    assert "no source" in str(_wanted(_daemon(MAX, MAX), 7))
