"""Nobody who attaches while pages are recycled reads what is another's."""

from __future__ import annotations

from tests.faults.recycling import Naive, hunt


def test_nobody_reads_what_is_anothers() -> None:
    """Whoever opens a name amid the steps has the right values, or is told that it is gone."""
    counts = hunt(2.0, 2)
    assert counts["right"] > 0
    assert counts["RECYCLED"] > 0
    assert not counts["wrong"] + counts["killed"]


def test_the_hunt_finds_a_wrong_order() -> None:
    """It fails where the footer stays valid, and the size is set without a lease."""
    counts = hunt(2.0, 2, Naive)
    assert counts["wrong"] + counts["killed"] > 0
