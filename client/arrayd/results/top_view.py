"""What `arrayd top` shows of a status: which rows, in which order, and the lines above them.

Pure: a status, what was chosen, and the size of the screen in; lines out. `cli.top_screen` puts
them on a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arrayd.common.bytesize import format_bytes
from arrayd.results.columns import HEAD, Row, beginning, flow, grid
from arrayd.results.status import BlockStatus, DaemonStatus, JobStatus
from arrayd.results.status_table import (
    block_row,
    daemon_words,
    duration,
    failure,
    job_row,
    printable,
)
from arrayd.results.sums_text import memory_words, quota_sums, user_sums

_BAR = 40  # characters of the bar of the budget at most
_LOADS = 3  # lines of loads above the table


@dataclass(frozen=True, slots=True)
class TopRow:
    """A row of the table: a block, or work that has none yet."""

    what: BlockStatus | JobStatus
    cells: Row

    @property
    def number(self) -> int | None:
        """Of the block; None: there is none."""
        return self.what.number if isinstance(self.what, BlockStatus) else None

    @property
    def words(self) -> str:
        """All that a filter looks at, in lower case."""
        people = (*self.what.waiters, *getattr(self.what, "holders", ()))
        named = (f"{one.pid} {one.program}" for one in people)
        return printable(" ".join([*self.cells, self.what.source, *named])).lower()


def _size(row: TopRow) -> tuple[float, ...]:
    return (-row.what.size,)


def _idle(row: TopRow) -> tuple[float, ...]:
    return (-row.what.unused if isinstance(row.what, BlockStatus) else 0.0,)


def _holders(row: TopRow) -> tuple[float, ...]:
    holders = len(row.what.holders) if isinstance(row.what, BlockStatus) else 0
    return (-holders, -len(row.what.waiters))


def _name(_: TopRow) -> tuple[float, ...]:
    return ()


ORDERS: dict[str, Callable[[TopRow], tuple[float, ...]]] = {
    "size": _size,
    "idle": _idle,
    "holders": _holders,
    "name": _name,
}
"""By what the table can be sorted; the largest, or the longest idle, come first."""


def chosen(status: DaemonStatus, order: str = "size", text: str = "") -> list[TopRow]:
    """Return the rows that contain `text`, in an order of `ORDERS`; equal ones by name."""
    rows = [TopRow(block, block_row(block)) for block in status.blocks]
    rows += [TopRow(job, job_row(job)) for job in status.jobs]
    if wanted := text.lower():
        rows = [row for row in rows if wanted in row.words]
    key = ORDERS[order]
    return sorted(rows, key=lambda row: (*key(row), row.what.source, row.number or 0))


def table(rows: Sequence[TopRow], width: int) -> list[str]:
    """Return the head and a line for each row, none of them wider than `width`."""
    return [beginning(line, width) for line in grid([HEAD, *(row.cells for row in rows)], width)]


def first_shown(first: int, selected: int, height: int, count: int) -> int:
    """Return which of `count` rows comes first in a window of `height`, so that one is in it."""
    first = min(max(first, selected - height + 1), selected)
    return max(0, min(first, count - height))


def header(status: DaemonStatus, width: int) -> list[str]:
    """Return the lines above the table: the daemon, a bar of its budget, users, loads."""
    lines = [*flow(daemon_words(status), "  ", width), *flow(memory_words(status), "   ", width)]
    lines.append(bar(status, width))
    for sums in filter(None, (user_sums(status), quota_sums(status, width))):
        lines += flow(sums, "   ", width)
    lines += _loads(status)
    if status.failures:
        lines.append(f"failed  {failure(status.failures[0])}")
    return [beginning(line, width) for line in lines]


def bar(status: DaemonStatus, width: int) -> str:
    """Return a bar of the budget: ``█`` in use, ``▒`` idle, ``░`` pages kept for the next load."""
    legend = "  █ held  ▒ idle  ░ spare"
    room = max(10, min(_BAR, width - len(legend) - 10))
    budget = max(1, status.budget, status.charged)
    ends = [status.held, status.held + status.idle, status.held + status.idle + status.spare]
    at = [min(room, round(room * end / budget)) for end in ends]
    filled = "█" * at[0] + "▒" * (at[1] - at[0]) + "░" * (at[2] - at[1])
    share = 100 * status.charged // budget
    return f"        [{filled:·<{room}}] {share} %{legend}"


def _loads(status: DaemonStatus) -> list[str]:
    """Return how far the largest loads are, and when they are done."""
    loading = [block for block in status.blocks if block.state == "loading"]
    loading.sort(key=lambda block: -block.size)
    lines = [f"load    {_load(block)}" for block in loading[:_LOADS]]
    more = len(loading) - _LOADS
    return [*lines, f"        and {more} more loads"] if more > 0 else lines


def _load(block: BlockStatus) -> str:
    share = block.done / block.total if block.total else 0.0
    left = "" if block.eta is None else f", {duration(block.eta)} left"
    done = int(10 * share)
    filled = "█" * done + "·" * (10 - done)
    size = format_bytes(block.size)
    return f"[{filled}] {int(100 * share)} %{left}, {size}  {printable(block.source)}"
