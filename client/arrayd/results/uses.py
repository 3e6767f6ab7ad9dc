"""`Uses`: who holds what of one file, and who waits for it; printed as a table.

::

    BLOCK  STATE    PID   USER   COMMAND    SINCE  SOURCE
    42     held     9911  alice  train.py   2 h    /data/train.h5:/x
    42     held     9950  bob    eval.py    9 s    /data/train.h5:/x
    -      probing  9951  bob    collect    1 s    /data/train.h5:/y
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from arrayd.common.users import user_name
from arrayd.results.columns import Row, cut_left
from arrayd.results.status import BlockStatus, Holder, JobStatus, listed
from arrayd.results.status_table import duration, printable
from arrayd.wire.records import Record

USES_HEAD = ("BLOCK", "STATE", "PID", "USER", "COMMAND", "SINCE", "SOURCE")


@dataclass(frozen=True, slots=True)
class Uses(Record):
    """Blocks of a file that are in memory, and loads of it that have no block yet."""

    blocks: tuple[BlockStatus, ...]
    jobs: tuple[JobStatus, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain data for `json.dumps`."""
        plain: dict[str, Any] = listed(self.to_wire())
        return plain

    def __str__(self) -> str:
        return "\n".join(self.lines(None))

    def lines(self, width: int | None) -> list[str]:
        """Return the table, a row for each process, in lines of at most `width` characters.

        The source is cut at its left, and a line that is too wide all the same at its right.
        """
        rows = [USES_HEAD, *self._rows()]
        if len(rows) == 1:
            return ["not in memory, and nobody waits for it"]
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        room = None if width is None else max(12, width - sum(wide[:-1]) - 2 * (len(wide) - 1))
        lines = []
        for *cells, source in rows:
            shown = source if room is None else cut_left(source, room)
            padded = [cell.ljust(count) for cell, count in zip(cells, wide[:-1], strict=True)]
            lines.append("  ".join([*padded, shown])[:width])
        return lines

    def _rows(self) -> Iterator[Row]:
        for block in self.blocks:
            source, number = printable(block.source), _number(block)
            yield from _people(number, block.state, block.holders, source)
            yield from _people(number, "waits", block.waiters, source)
            for pid in block.mapped_by:  # who they are is known of holders alone
                yield (
                    number,
                    block.state,
                    str(pid),
                    *"--",
                    duration(block.unused),
                    source,
                )
            if not block.holders and not block.waiters and not block.mapped_by:
                words = (number, block.state, "-", "-", "-", duration(block.unused))
                yield (*words, source)
        for job in self.jobs:
            yield from _people("-", job.stage, job.waiters, printable(job.source))


def _number(block: BlockStatus) -> str:
    """Return a block's number, which is that of a daemon: the user's own has others."""
    return f"own {block.number}" if block.own else str(block.number)


def _people(number: str, state: str, people: tuple[Holder, ...], source: str) -> Iterator[Row]:
    for one in people:
        who = (str(one.pid or "?"), user_name(one.uid), printable(one.program))
        yield (number, state, *who, duration(one.since), source)
