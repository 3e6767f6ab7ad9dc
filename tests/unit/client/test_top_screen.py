"""The screen of `arrayd top`, driven by keys without a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from arrayd.cli import top_screen
from arrayd.cli.top_screen import TopScreen
from tests.unit.client.test_status import IDLE, status

BLOCKS = [
    replace(IDLE, number=i, size=1000 - i, source=f"/data/s{i:03}.npy", unused=float(i))
    for i in range(500)
]
SOME = 60
"""Blocks where their number does not matter."""


class FakeFeed:
    """A feed that notes what it is asked for."""

    def __init__(self) -> None:
        self.evicted: list[int] = []
        self.started = 0

    def start(self) -> None:
        """Begin."""
        self.started += 1

    def evict(self, number: int) -> None:
        """Take note."""
        self.evicted.append(number)

    def stop(self) -> None:
        """End."""


Act = Callable[[TopScreen, FakeFeed, Pilot[int]], Awaitable[None]]


def played(act: Act, size: tuple[int, int] = (80, 24)) -> TopScreen:
    """Let `act` press keys on a screen of that size."""
    screen, feed = TopScreen(), FakeFeed()
    screen.feed = feed

    async def play() -> None:
        async with screen.run_test(size=size) as pilot:
            assert feed.started == 1
            await act(screen, feed, pilot)

    asyncio.run(play())
    return screen


def lines(screen: TopScreen, part: str) -> list[str]:
    """Return what a part of the screen shows."""
    return str(screen.query_one(f"#{part}", Static).content).splitlines()


async def show(screen: TopScreen, pilot: Pilot[int], count: int) -> None:
    """Let the feed give a status with so many blocks."""
    screen.take(status(*BLOCKS[:count]), "")
    await pilot.pause()


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
@pytest.mark.parametrize("count", [0, 3, 500])
def test_what_is_shown(count: int, size: tuple[int, int]) -> None:
    """Header, as many rows as there is place for, and the keys; nothing beyond the edges."""

    async def act(screen: TopScreen, _: FakeFeed, pilot: Pilot[int]) -> None:
        await show(screen, pilot, count)
        head, body, foot = (lines(screen, part) for part in ("head", "body", "foot"))
        assert len(head) + len(body) + len(foot) <= size[1]
        assert max(map(len, [*head, *body, *foot])) <= size[0]
        assert len(body) == (1 if not count else min(count + 1, size[1] - len(head) - 1))
        assert foot[0].startswith(f"by size, {count} rows")
        assert foot[0].endswith("q quit")
        assert "/data/s000.npy"[-8:] in body[1] if count else body == ["no blocks"]

    played(act, size)


def test_moving_and_sorting() -> None:
    """A selected row stays selected when others come; a new order begins at its top."""

    async def act(screen: TopScreen, _: FakeFeed, pilot: Pilot[int]) -> None:
        await show(screen, pilot, SOME)
        await pilot.press("down", "down", "up", "pagedown")
        selected = screen._rows[screen._selected].number
        assert selected is not None
        assert selected > 10
        screen.take(status(replace(BLOCKS[0], number=900, size=5000), *BLOCKS[:SOME]), "")
        assert screen._rows[screen._selected].number == selected
        await pilot.press("end")
        assert screen._selected == SOME
        assert "s059" in lines(screen, "body")[-1]
        await pilot.press("i")
        assert [row.number for row in screen._rows[:2]] == [59, 58]
        assert screen._selected == 0
        await pilot.press("home", "up")
        assert screen._selected == 0

    played(act)


def test_a_filter_is_typed() -> None:
    """Letters that are keys otherwise are text meanwhile; Enter keeps it, Esc ends it."""

    async def act(screen: TopScreen, feed: FakeFeed, pilot: Pilot[int]) -> None:
        await show(screen, pilot, SOME)
        await pilot.press("slash", "s", "0", "1", "q", "backspace")
        assert len(screen._rows) == 10
        assert lines(screen, "foot")[0].startswith("only rows that contain: s01")
        await pilot.press("enter", "n")
        assert lines(screen, "foot")[0].startswith("by name, 10 rows  [s01]")
        await pilot.press("slash", "x", "x")
        assert lines(screen, "body") == ["no rows contain that"]
        await pilot.press("escape")
        assert len(screen._rows) == SOME
        assert not feed.evicted

    played(act)


def test_evict_asks_first() -> None:
    """Only y evicts; any other key is a no, and does nothing else."""

    async def act(screen: TopScreen, feed: FakeFeed, pilot: Pilot[int]) -> None:
        await pilot.press("e")
        assert lines(screen, "foot") == ["no block is selected"]
        await show(screen, pilot, 3)
        await pilot.press("down", "e")
        assert lines(screen, "foot") == ["evict block 1 (999 B, /data/s001.npy)? y/n"]
        await pilot.press("q")
        assert not feed.evicted
        await pilot.press("e", "y")
        assert feed.evicted == [1]
        screen.tell("evicted block 1")
        assert lines(screen, "foot") == ["evicted block 1"]
        await pilot.press("y")
        assert feed.evicted == [1]

    played(act)


def test_a_daemon_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and what was shown goes; one that does not answer is said as well."""

    async def act(screen: TopScreen, _: FakeFeed, pilot: Pilot[int]) -> None:
        assert lines(screen, "head") == ["waiting for the daemon"]
        await show(screen, pilot, 3)
        screen.take(None, "daemon not running, waiting")
        await pilot.pause()
        assert lines(screen, "head") == ["daemon not running, waiting"]
        assert lines(screen, "body") == []
        await show(screen, pilot, 3)
        assert len(lines(screen, "body")) == 4
        monkeypatch.setattr(top_screen, "SLOW", -1.0)
        screen._show_foot()
        assert lines(screen, "foot")[0].startswith("no answer for 0 s")

    played(act)


@pytest.mark.parametrize(("key", "code"), [("q", 0), ("ctrl+c", 130)])
def test_the_end(key: str, code: int) -> None:
    """By q, and by Ctrl-C, also while a question is asked."""

    async def act(screen: TopScreen, _: FakeFeed, pilot: Pilot[int]) -> None:
        await show(screen, pilot, 3)
        if key == "ctrl+c":
            await pilot.press("e")
        await pilot.press(key)

    assert played(act).return_value == code
