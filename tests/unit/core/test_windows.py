"""Windows by example: how large each is, and when it is planned."""

from __future__ import annotations

import math

from arrayd_server.core.windows import Windows


def test_windows_grow_and_keep_within_an_epoch() -> None:
    """One batch, then twice as much, up to a third of the ring, in batches; an epoch's end cuts."""
    windows, made = Windows(rows=50, slots=64, batch=3, first=40), []
    for _ in range(7):
        window = windows.plan(low=windows.head, limit=math.inf)
        assert window is not None
        made.append(window)
        assert windows.read(*window)
    assert made == [(40, 43), (43, 49), (49, 50), (50, 71), (71, 92), (92, 100), (100, 121)]


def test_two_windows_are_in_flight() -> None:
    """The third is planned when one of them has been read."""
    windows = Windows(rows=100, slots=16, batch=1, first=0)
    assert [windows.plan(0, math.inf) for _ in range(3)] == [(0, 1), (1, 3), None]
    assert windows.read(1, 3)
    assert (windows.head, windows.planned) == (0, 3)
    assert windows.plan(0, math.inf) == (3, 7)
    assert windows.read(0, 1)
    assert windows.head == 3


def test_a_small_window_waits_for_the_one_before() -> None:
    """Where few slots are free the second window would be small: it is planned later, larger."""
    windows = Windows(rows=1000, slots=16, batch=4, first=0)
    for start in (0, 4, 8):
        assert windows.plan(0, math.inf) == (start, start + 4)
        assert windows.read(start, start + 4)
    assert windows.plan(0, math.inf) == (12, 16)
    assert windows.plan(1, math.inf) is None
    assert windows.read(12, 16)
    assert windows.plan(1, math.inf) == (16, 17)


def test_windows_have_whole_batches() -> None:
    """As many as fit a third of the ring; where not even one does, what does."""
    for slots, batch, largest in ((100, 10, 30), (29, 10, 9), (2, 10, 1)):
        windows = Windows(rows=1000, slots=slots, batch=batch, first=0)
        lengths = []
        for _ in range(5):
            window = windows.plan(low=windows.head, limit=math.inf)
            assert window is not None
            assert windows.read(*window)
            lengths.append(window[1] - window[0])
        assert lengths[-1] == largest


def test_windows_stop_at_the_limit() -> None:
    """What nobody wants is not read; a window is read once, and no other one at all."""
    windows = Windows(rows=100, slots=64, batch=16, first=0)
    assert windows.plan(0, 10) == (0, 10)
    assert windows.plan(0, 10) is None
    assert not windows.read(0, 9)
    assert windows.read(0, 10)
    assert not windows.read(0, 10)


def test_whole_windows_wait_for_room() -> None:
    """Half the ring, one at a time: what is consumed of a ring is filled in one go, or not yet."""
    windows = Windows(rows=1000, slots=16, batch=4, first=0, whole=True)
    assert windows.plan(0, math.inf) == (0, 4)
    assert windows.plan(0, math.inf) is None
    assert windows.read(0, 4)
    assert windows.plan(0, math.inf) == (4, 12)
    assert windows.read(4, 12)
    assert not windows.has_room(3)
    assert windows.plan(3, math.inf) is None
    assert windows.has_room(3, limit=15)
    assert windows.plan(4, math.inf) == (12, 20)


def test_whole_windows_end_with_an_epoch() -> None:
    """The last one of an epoch is as small as it is, and so is one up to the limit."""
    windows, made = Windows(rows=20, slots=16, batch=8, first=0, whole=True), []
    while (window := windows.plan(windows.head, 43)) is not None:
        made.append(window)
        assert windows.read(*window)
    assert made == [(0, 8), (8, 16), (16, 20), (20, 28), (28, 36), (36, 40), (40, 43)]
