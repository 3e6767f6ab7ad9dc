"""`Status`: the daemon's status, printed as a table that fits its terminal, or as HTML.

::

    arrayd 0.1.0  private  pid 4711  up 2 h 03  ipc:///run/user/1000/arrayd/sock  leases on
    memory  41.2 of 64.0 GiB budget (held 39.9, idle 1.3)   /dev/shm 49.3 of 94 GiB   loads 1
    beside  8.0 GiB in 3 blocks of other daemons, bob's
    BLOCK  SIZE      SHAPE      DTYPE     STATE         SOURCE      HELD BY                 AGE
    42     39.9 GiB  (6.5e6,…)  f4        held ×2       train.h5:/x 9911 train.py alice +1  2 h
    43     1.3 GiB   (4e6,)     5 fields  idle 6 min    s1.cov.txt  -                       1 h
    -      -         -          -         loading 61 %  s2.cov.txt  waits: 9950 collect     9 s
    STREAM  AT             LAG   STALLED  STATE     SOURCE
    1       epoch 2, 41 %  -     -        reading   train (x, y), read 1.04 × used, ring 96.0 MiB
    1       epoch 2, 40 %  1024  3 %      attached  9911 train.py alice
"""

from __future__ import annotations

import html as _html
import shutil
import sys
from collections.abc import Iterable, Sequence

import numpy as np

from arrayd.common.bytesize import format_bytes
from arrayd.common.users import user_name
from arrayd.results.columns import HEAD, STREAM_HEAD, Row, beginning, flow, grid, stream_grid
from arrayd.results.status import (
    BlockStatus,
    ConsumerStatus,
    DaemonStatus,
    FailureStatus,
    Holder,
    JobStatus,
    StreamStatus,
)
from arrayd.results.sums_text import beside, memory_words, quota_sums, user_sums

_FAILURES = 3  # in the table; ``--json`` has ten
_NAMED_DIMENSION = 100_000  # from here up as 1.2e5
_LONG_SHAPE = 10
_HOUR, _DAY = 3600, 86400


class Status(DaemonStatus):
    """A `DaemonStatus` that prints as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return the table, as wide as the terminal it goes to."""
        return text(self, terminal_width())

    def _repr_html_(self) -> str:
        return html(self)


Status.__doc__ = DaemonStatus.__doc__  # for `help(arrayd.Status)`: what the fields mean


def terminal_width() -> int | None:
    """Return the columns of the terminal; None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def text(status: DaemonStatus, width: int | None = None) -> str:
    """Return the table of `status`, in lines of at most `width` characters if that can be."""
    lines = [*flow(daemon_words(status), "  ", width), *flow(memory_words(status), "   ", width)]
    for sums in filter(None, (user_sums(status), quota_sums(status, width))):
        lines += flow(sums, "   ", width)
    lines += [line if width is None else beginning(line, width) for line in beside(status)]
    rows = _rows(status)
    table = grid([HEAD, *rows], width) if rows else ["no blocks"]
    streams = stream_grid(_stream_rows(status), width)
    failures = [line if width is None else beginning(line, width) for line in _failures(status)]
    return "\n".join([*lines, *table, *_more(status), *streams, *failures])


def html(status: DaemonStatus) -> str:
    """Return the table of `status` as HTML."""
    lines = ["  ".join(daemon_words(status)), "   ".join(memory_words(status))]
    lines += ["   ".join(sums) for sums in (user_sums(status), quota_sums(status, None)) if sums]
    lines += beside(status)
    head = "".join(f"<div>{_html.escape(line)}</div>" for line in lines)
    rows = _rows(status)
    last = "".join(f"<div>{_html.escape(line)}</div>" for line in _failures(status))
    if not rows:
        return f"{head}<div>no blocks</div>{last}"
    more = "".join(f"<div>{line}</div>" for line in _more(status))
    streams = _stream_rows(status)
    return head + _html_table(HEAD, rows) + more + _html_table(STREAM_HEAD, streams) + last


def _html_table(head: Row, rows: Sequence[Row]) -> str:
    body = "".join(_html_row(row, "td") for row in rows)
    table = f"<table><thead>{_html_row(head, 'th')}</thead><tbody>{body}</tbody></table>"
    return table if rows else ""


def _html_row(cells: Iterable[str], tag: str) -> str:
    inside = "".join(
        f'<{tag} style="text-align: left">{_html.escape(cell)}</{tag}>' for cell in cells
    )
    return f"<tr>{inside}</tr>"


# ---- the contents -----------------------------------------------------------------------------


def daemon_words(status: DaemonStatus) -> list[str]:
    """Return which daemon it is, in parts."""
    return [
        f"arrayd {status.version}",
        "private" if status.private else f"user {user_name(status.uid)}",
        f"pid {status.pid}",
        f"up {duration(status.uptime, fine=True)}",
        status.endpoint,
        f"leases {'on' if status.leases else 'off'}",
        *(["draining"] if status.draining else []),
    ]


def _failures(status: DaemonStatus) -> list[str]:
    """Return the latest failed loads, a line each, and how many more are known."""
    lines = [f"failed  {failure(one)}" for one in status.failures[:_FAILURES]]
    more = len(status.failures) - _FAILURES
    return [*lines, f"and {more} more failed (see --json)"] if more > 0 else lines


def failure(one: FailureStatus) -> str:
    """Return in a line when a load failed, why, and for whom."""
    first = one.askers[0] if one.askers else None
    who = "" if first is None else f", {first.pid or '?'} {first.program} {user_name(first.uid)}"
    more = f" +{len(one.askers) - 1}" if len(one.askers) > 1 else ""
    about = "" if one.source in one.message else f"{one.source}: "
    words = f"{duration(one.age)} ago{who}{more}  {one.error}: {about}{one.message}"
    return printable(words)


def _rows(status: DaemonStatus) -> list[Row]:
    return [*map(block_row, status.blocks), *map(job_row, status.jobs)]


def _more(status: DaemonStatus) -> list[str]:
    more = status.blocks_more
    return [f"and {more:,} more blocks (those in use are shown first)"] if more else []


def block_row(block: BlockStatus) -> Row:
    """Return the cells of a block, as `HEAD` names them."""
    waits = f"waits: {_who(block.waiters)}" if block.waiters else "-"
    return (
        str(block.number),
        format_bytes(block.size),
        _arrays(block.members) if block.members else _shape(block.shape),
        "-" if block.members else _dtype(block.dtype),
        _state(block) + (", kept" if block.pinned else ""),
        printable(block.source),
        _who(block.holders, user=True) if block.holders else waits,
        duration(block.age),
    )


def _arrays(count: int) -> str:
    return f"{count} arrays" if count > 1 else "1 array"


def job_row(job: JobStatus) -> Row:
    """Return the cells of work that has no block yet."""
    size = format_bytes(job.size) if job.size else "-"
    held = f"waits: {_who(job.waiters)}" if job.waiters else "-"
    return ("-", size, "-", "-", job.stage, printable(job.source), held, duration(job.age))


def _stream_rows(status: DaemonStatus) -> list[Row]:
    """Return a row for each stream and each consumer, whose STREAM is the same number."""
    return [
        row
        for stream in status.streams
        for row in (_stream(stream), *(_consumer(stream, c) for c in stream.consumers))
    ]


def _stream(stream: StreamStatus) -> Row:
    words = [printable(stream.source)]
    if stream.windowed:
        words.append("windowed")
    if stream.bytes_used:
        words.append(f"read {stream.bytes_read / stream.bytes_used:.2f} × used")
    words.append(f"ring {format_bytes(stream.ring_bytes)}")
    if stream.share_bytes:
        words.append(f"share {format_bytes(stream.share_bytes)}")
    at = _position(stream.head, stream.rows)
    return (str(stream.number), at, "-", "-", stream.state, ", ".join(words))


def _consumer(stream: StreamStatus, consumer: ConsumerStatus) -> Row:
    who = (str(consumer.pid or "?"), printable(consumer.program), user_name(consumer.uid))
    return (
        str(stream.number),
        _position(consumer.cursor, stream.rows),
        str(consumer.lag),
        f"{100 * consumer.stalled / consumer.age if consumer.age else 0:.0f} %",
        "detached" if consumer.detached else "attached",
        " ".join(who),
    )


def _position(position: int, rows: int) -> str:
    epoch, row = divmod(position, rows)
    return f"epoch {epoch}, {100 * row // rows} %"


def _state(block: BlockStatus) -> str:
    if block.state == "held":
        return f"held ×{len(block.holders)}"
    if block.state == "idle":
        return f"idle {duration(block.unused)}"
    if block.state == "loading" and block.total:
        left = "" if block.eta is None else f", {duration(block.eta)} left"
        return f"loading {100 * block.done // block.total} %{left}"
    if block.mapped_by:
        pids = f"pid {block.mapped_by[0]}"
        more = len(block.mapped_by) - 1
        return f"{block.state} {pids}" + (f" +{more}" if more else "")
    return block.state


def _who(people: Sequence[Holder], *, user: bool = False) -> str:
    """Return the holder of longest standing, and the number of the others."""
    first = max(people, key=lambda person: person.since)
    words = [str(first.pid or "?"), printable(first.program)]  # pid 0: in another namespace
    words += [user_name(first.uid)] if user else []
    words += [f"+{len(people) - 1}"] if len(people) > 1 else []
    return " ".join(words)


def _shape(shape: tuple[int, ...]) -> str:
    dims = [_dimension(n) for n in shape]
    words = f"({dims[0]},)" if len(dims) == 1 else f"({','.join(dims)})"
    return words if len(words) <= _LONG_SHAPE else f"({dims[0]},…)"


def _dimension(n: int) -> str:
    return str(n) if n < _NAMED_DIMENSION else f"{n:.2g}".replace("e+0", "e").replace("e+", "e")


def _dtype(dtype: np.dtype[np.generic]) -> str:
    """Return ``f4`` for the native ``<f4``, ``>f4`` for the other order, ``5 fields``."""
    if dtype.names is None:
        return dtype.str[1:] if dtype.isnative else dtype.str
    return "1 field" if len(dtype.names) == 1 else f"{len(dtype.names)} fields"


def duration(seconds: float, *, fine: bool = False) -> str:
    """Return ``9 s``, ``6 min``, ``2 h`` or ``3 d``; with `fine`, ``2 h 03`` and ``3 d 4 h``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // 60} min"
    if whole < _DAY:
        return f"{whole // _HOUR} h" + (f" {whole % _HOUR // 60:02}" if fine else "")
    return f"{whole // _DAY} d" + (f" {whole % _DAY // _HOUR} h" if fine else "")


def printable(words: str) -> str:
    """Replace control characters: a peer chooses its name, and a terminal would obey them."""
    return "".join(c if c.isprintable() else "?" for c in words)
