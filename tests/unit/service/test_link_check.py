"""The names of segments are looked at where a client is about to open one, and now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from arrayd.errors import ArraydError, NoRoom
from arrayd_server.core.model import State
from arrayd_server.segments.store import Segments
from arrayd_server.service.link_check import LinkCheck
from tests.support.core_script import World


class FakeSegments:
    """Segments whose names somebody may remove; counts how often each was looked at."""

    def __init__(self, named: set[str]) -> None:
        self._named = named
        self.looks: list[str] = []
        self.full = False
        self.changed = True

    def republish(self, name: str) -> bool:
        """Look at a name."""
        self.looks.append(name)
        if self.full:
            raise NoRoom("full")
        return name in self._named

    def names(self) -> list[str]:
        """Return all names."""
        return ["run-1"]

    def names_changed(self) -> bool:
        """Say whether there is anything new."""
        before, self.changed = self.changed, False
        return before


class Scene:
    """A check over a registry with one published block, ``run-1``."""

    def __init__(self) -> None:
        self.world = World()
        self.world.publish(b"b", "n", 30)
        self.segments = FakeSegments(self.world.kernel.named)
        self.check = LinkCheck(self.world.registry, cast(Segments, self.segments), self._take)

    def _take(self, event: Callable[..., Any], *args: Any) -> None:
        self.world.do(lambda: event(*args))

    @property
    def state(self) -> State:
        """Of the block."""
        return self.world.registry.blocks.table["run-1"].state


def test_an_event_looks_at_a_name_once() -> None:
    """However many members of its block it grants; the next event looks again."""
    scene = Scene()
    scene.check.begin()
    assert scene.check.ensure("run-1")
    assert scene.check.ensure("run-1")
    assert scene.segments.looks == ["run-1"]
    scene.check.begin()
    scene.world.kernel.named.remove("run-1")
    assert not scene.check.ensure("run-1")
    assert scene.state is State.UNLINKED


def test_a_name_that_cannot_be_had_is_no_name() -> None:
    """The error goes to who asks, each time; what looks by itself goes on."""
    scene = Scene()
    scene.check.begin()
    scene.segments.full = True
    for _ in range(2):
        with pytest.raises(ArraydError):
            scene.check.ensure("run-1")
    scene.check.relink("run-1")
    assert len(scene.segments.looks) == 3
    assert scene.state is State.SEALED


def test_it_looks_by_itself_where_names_have_changed() -> None:
    """Also amid an event that is sure of the name, for it says that the name has gone."""
    scene = Scene()
    scene.check.begin()
    assert scene.check.ensure("run-1")
    scene.check.look()
    scene.check.look()  # nothing has changed
    assert scene.segments.looks == ["run-1", "run-1"]
    scene.world.kernel.named.remove("run-1")
    scene.check.relink("run-1")
    assert scene.state is State.UNLINKED
