"""What `arrayd top` shows: which rows in which order, and what is above them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrayd.results import top_view
from arrayd.results.status import FailureStatus, Holder, JobStatus, UserSum
from tests.unit.client.test_status import IDLE, LOADING, TYPICAL, block, status

WAITS = JobStatus("waiting for room", "/data/later.npy", 9 << 30, (Holder(5, 0, "x.py", 1.0),), 1.0)
ALL = status(block(), IDLE, LOADING, jobs=(WAITS,))


@pytest.mark.parametrize(
    ("order", "numbers"),
    [
        ("size", [42, None, 43, 44]),
        ("idle", [43, None, 44, 42]),
        ("holders", [42, None, 44, 43]),
        ("name", [None, 43, 44, 42]),
    ],
)
def test_orders(order: str, numbers: list[int | None]) -> None:
    """The largest, the longest idle, those with most holders (then waiters) first; or by name."""
    assert [row.number for row in top_view.chosen(ALL, order)] == numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", [42, None, 43, 44]),
        ("TRAIN.h5", [42]),
        ("9950", [44]),
        ("x.py", [None]),
        ("idle", [43]),
        ("other", [42]),
        ("no such", []),
    ],
)
def test_filter(text: str, numbers: list[int | None]) -> None:
    """A row stays if a cell, its whole source, or any process of it contains the text."""
    assert [row.number for row in top_view.chosen(ALL, "size", text)] == numbers


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("count", [0, 3, 500])
def test_nothing_is_wider_than_the_screen(count: int, width: int) -> None:
    """Neither the head nor any row, however many there are."""
    blocks = [replace(IDLE, number=i, source=f"/data/{'long' * 30}{i}") for i in range(count)]
    failed = FailureStatus("/x", "BadFile", "y" * 300, 1.0, ())
    users = (UserSum(0, 1 << 40, 3, 4), UserSum(1, 5, 6, 7), UserSum(None, 8, 9, 10))
    shown = status(*blocks, LOADING, users=users, failures=(failed,))
    rows = top_view.chosen(shown)
    lines = [*top_view.header(shown, width), *top_view.table(rows, width)]
    assert len(lines) > count
    assert not [line for line in lines if len(line) > max(width, 60)]
    assert not [line for line in top_view.header(shown, width) if len(line) > width]


def test_the_bar() -> None:
    """It is as full as the budget, with what is held, idle and spare apart."""
    half = replace(TYPICAL, budget=100, charged=50, held=25, idle=15, spare=10)
    line = top_view.bar(half, 160)
    assert f"[{'█' * 10}{'▒' * 6}{'░' * 4}{'·' * 20}] 50 %" in line
    assert "░" * 2 not in top_view.bar(
        replace(half, budget=0, charged=0, held=0, idle=0, spare=0), 80
    )
    over = top_view.bar(replace(half, charged=200, held=200, idle=0, spare=0), 160)
    assert f"[{'█' * 40}] 100 %" in over


def test_loads_above_the_table() -> None:
    """The largest three, with what is left; the others are counted."""
    loads = [replace(LOADING, number=i, size=i, source=f"/{i}", eta=5.0) for i in range(1, 6)]
    lines = top_view.header(status(*loads), 160)
    assert lines[-4] == "load    [██████····] 61 %, 5 s left, 5 B  /5"
    assert lines[-1] == "        and 2 more loads"
    assert not [line for line in top_view.header(status(IDLE), 160) if line.startswith("load ")]


@given(st.integers(0, 50), st.integers(0, 49), st.integers(1, 60), st.integers(1, 50))
def test_the_selected_row_is_shown(first: int, selected: int, height: int, count: int) -> None:
    """And no place below the last row stays empty while rows are left out above."""
    selected = min(selected, count - 1)
    shown = top_view.first_shown(first, selected, height, count)
    assert 0 <= shown <= selected < shown + height
    assert shown + height <= max(count, height)
