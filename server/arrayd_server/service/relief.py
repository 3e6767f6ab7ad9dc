"""Pages that are kept for loads to come go at once when other programs need memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from arrayd_server.core.effects import Effect
from arrayd_server.core.registry import Registry
from arrayd_server.kernel.memory_limits import Pressure


class Relief:
    """Looks at the pressure on memory while there are spare pages, and at nothing else.

    Parameters
    ----------
    registry
        Has the spares.
    act
        Performs effects.
    """

    def __init__(self, registry: Registry, act: Callable[[Sequence[Effect]], None]) -> None:
        self._registry = registry
        self._act = act
        self._pressure: Pressure | None = None

    def look(self) -> None:
        """Give spare pages back if memory is short; to be called every second or so."""
        if not self._registry.blocks.spares:
            self._pressure = None
            return
        self._pressure = self._pressure or Pressure()
        if self._pressure.is_high():
            self._act(self._registry.holds.spares.give_back())
