"""The room that there is, or would be, as `core_naive` knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.core_model import Shell
    from tests.support.core_naive import Naive


def check(naive: Naive, shell: Shell, needed: int) -> None:
    """Assert that there was none, even with all that is idle."""
    if needed > shell.registry.blocks.budget or shell.registry.jobs.queued():
        return
    idle = naive.idle() - set(shell.closed)
    spare = {s for s in idle if not naive.published(s) and not naive.is_pinned(s)}
    spare |= {s for s in _only_lent(naive, shell) if not naive.is_pinned(s) and s not in naive.kept}
    room = without(naive, shell, spare | naive.spares | coming(naive, shell))
    assert room < needed, f"refused {needed} bytes though {room} could be had"


def _only_lent(naive: Naive, shell: Shell) -> set[str]:
    """Return the final blocks that nobody has but references of long ago."""
    mapped = {segment for segment, _ in shell.kernel.mappers}
    held = {segment for _, segment in naive.holds}
    lent = {segment for segment, _ in naive.lends} & naive.final
    return {s for s in lent - mapped - held - naive.unlinked if naive.is_old(s)}


def coming(naive: Naive, shell: Shell) -> set[str]:
    """Return what is on its way back to the kernel, as far as the core knows."""
    blocks = shell.registry.blocks.table
    return {segment for segment in naive.unlinked if not blocks[segment].mapped}


def without(naive: Naive, shell: Shell, spare: set[str]) -> int:
    """Return the room there would be if these segments were gone."""
    pages, kernel = shell.kernel.pages, shell.kernel
    busy = naive.sizes.keys() - spare
    unfilled = sum(naive.sizes[s] - pages.get(s, 0) for s in busy)
    free = kernel.free + sum(pages.get(s, 0) for s in spare) - unfilled
    return min(shell.registry.blocks.budget - sum(naive.sizes[s] for s in busy), free)
