"""Spare pages go when memory is short, and nothing looks at memory while there are none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from arrayd_server.core.effects import Effect, Unlink
from arrayd_server.service import relief
from tests.support.core_script import World


def test_it_looks_while_there_are_spares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without spares the pressure is nobody's business; with some they go at once."""
    world, looks = World(), list[bool]()
    spares = world.registry.holds.spares
    spares.seconds, spares.least = 1000.0, 1

    class Pressure:
        """Answers as it is told to."""

        high = False

        def is_high(self) -> bool:
            looks.append(self.high)
            return self.high

    monkeypatch.setattr(relief, "Pressure", Pressure)

    def act(effects: Sequence[Effect]) -> None:
        world.do(lambda: list(effects))

    watch = relief.Relief(world.registry, act)
    watch.look()
    assert looks == []
    world.release(b"b", world.publish(b"b", "n", 30))
    world.read_closed()
    assert world.registry.blocks.spare_bytes == 30
    watch.look()
    assert world.registry.blocks.spare_bytes == 30
    Pressure.high = True
    watch.look()
    assert world.registry.blocks.spare_bytes == 0
    assert [type(effect) for effect in world.seen] == [Unlink]
    assert looks == [False, True]
