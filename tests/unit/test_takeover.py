"""What is told to clients while a daemon takes over the blocks of an earlier run."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from arrayd.wire import layout
from arrayd.wire.grant import Spec
from arrayd.wire.requests import Request
from arrayd_server import systemd, takeover
from arrayd_server.core.effects import Effect
from arrayd_server.core.registry import Registry
from arrayd_server.identity import BlockIdentity
from arrayd_server.segments.block_metadata import Metadata, planned
from arrayd_server.segments.scope import Scope
from arrayd_server.segments.store import Segments
from arrayd_server.takeover import Takeover

BLOCKS = 5

LIMITS = [BLOCKS + 1]
"""With how many blocks it is over."""


class Wire:
    """Stands for the server: keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, int, dict[str, Any]]] = []

    def send(self, route: Any, number: int, **body: Any) -> None:
        """Note an answer."""
        self.sent.append((route, number, body))


class Route:
    """Stands for a connection."""


class Performer:
    """Stands for the executor: performs nothing."""

    def act(self, effects: Sequence[Effect]) -> None:
        """Do nothing."""


@pytest.fixture
def left(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a takeover of a few blocks, between each two of which it looks at what has come."""
    monkeypatch.setattr(takeover, "SLICE", -1.0)
    with Scope(f"ipc://{short_directory}/sock") as scope:
        segments = Segments(scope)
        origin = BlockIdentity(None, "put")
        spec = Spec((4,), "<f8", "C", 8)
        for number in range(BLOCKS):
            name, plan = f"{scope.prefix}-{number}", planned(spec, origin)
            meta = Metadata(spec, origin, published=True, keep=True, name=f"n{number}").to_wire()
            segments.make(name, plan, meta)
            segments.reserve(name, plan.data_bytes)
            segments.describe(name, plan, meta)
        later, registry = Segments(scope), Registry(scope.name, 1 << 30)
        over = lambda: len(registry.blocks.table) >= LIMITS[0]  # noqa: E731
        yield Takeover(later, registry, Performer(), over), registry  # type: ignore[arg-type]
        for block in list(registry.blocks.table.values()):
            later.discard(block.segment)


def asked(op: str, number: int = 1) -> Request:
    """Return a request of a new session."""
    return Request(number, secrets.token_bytes(16), op, {})


def test_hellos_are_kept_and_answered_with_how_far_it_is(left: Any) -> None:
    """Of each connection the last is served at the end; other requests are to be asked again."""
    one, registry = left
    wire, last = Wire(), asked("hello", 7)
    first, second, third, gone = Route(), Route(), Route(), Route()

    def keep(request: Request, route: Any) -> None:
        one.keep_waiting(request, route, wire)

    async def come() -> None:
        for _ in range(2):
            keep(asked("hello"), first)
            await asyncio.sleep(0)
        keep(last, first)
        keep(asked("get", 3), second)
        keep(asked("release", 4), second)  # has no answer
        keep(asked("hello"), third)
        keep(asked("bye"), third)
        keep(asked("hello"), gone)
        one.forget(gone)

    async def run() -> Any:
        return (await asyncio.gather(come(), one.run()))[1]

    hellos = asyncio.run(run())
    assert hellos == {first: last}
    assert len(registry.blocks.table) == BLOCKS
    told = [body["starting"] for route, _, body in wire.sent if route is first]
    assert told == [[0, 0], [1, BLOCKS], [2, BLOCKS]]
    assert [(number, body) for route, number, body in wire.sent if route is second] == [
        (3, {"hello": True})
    ]


def test_systemd_waits_as_long_as_it_goes_on(left: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slice says how far it is, and that the start is no hang."""
    said: list[Sequence[str]] = []
    monkeypatch.setattr(systemd, "notify", lambda *assignments: said.append(assignments))
    asyncio.run(left[0].run())
    assert said[0] == (
        f"STATUS=taking over blocks: 1 of {BLOCKS}",
        "EXTEND_TIMEOUT_USEC=60000000",
    )
    assert len(said) == BLOCKS


def test_what_is_left_to_the_next_run(left: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is to hand over does so at once, with what it has."""
    monkeypatch.setattr("tests.unit.test_takeover.LIMITS", [2])
    one, registry = left
    assert asyncio.run(one.run()) == {}
    assert len(registry.blocks.table) == 2
    for path in Path(layout.SHM).glob(f"{one._segments.family}*"):
        path.unlink()
        Path(one._segments.path(path.name)).unlink()


def test_what_is_no_segment_is_none_of_them(left: Any) -> None:
    """It is removed, and the others are taken over."""
    one, registry = left
    family = one._segments.family
    path = next(path for path in Path(layout.SHM).iterdir() if path.name.startswith(family))
    path.write_bytes(b"\0" * path.stat().st_size)
    assert asyncio.run(one.run()) == {}
    assert len(registry.blocks.table) == BLOCKS - 1
    assert not path.exists()
