"""How the rows of a selection are delivered, and what that costs, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from arrayd.common.bytesize import format_apart, format_bytes
from arrayd.datasets.decoding import PackRoom, WantedUnits
from arrayd.datasets.reader_memory import reader_memory

PAGE = 4096

ID_BYTES = 8
"""Of the number of a row, which lies beside it in a ring and in a resident share."""

WINDOWED = "windowed"

_UNITS = 3
"""What decoding takes at most, in units of what is decoded together (measured: 2.1 to 2.9)."""

_INDENT = " " * 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a plan is made of.

    Parameters
    ----------
    rows, total
        Of the selection, and of the dataset.
    row_bytes
        Of one row in memory, all fields together, after the cast.
    read_bytes
        What is read for one row, for each field: from its file, or after the cast from a pack.
    step
        Rows that all ranks together take at a time.
    budget
        Bytes of memory that may be used.
    decoded
        Whether files must be decoded to be read; None: not known.
    units
        Of the fields that must be: what is decoded together.
    packs
        The room for what is decoded; None: not known.
    """

    rows: int
    total: int
    row_bytes: int
    read_bytes: Sequence[int]
    step: int
    budget: int
    decoded: bool | None = False
    units: Sequence[WantedUnits] = ()
    packs: PackRoom | None = None


class Seconds(NamedTuple):
    """How long reading takes: the first epoch, each later one (None: not known), and all once.

    The last is the least that there can be: all rows in order, each decoded once.
    """

    first: float
    later: float | None
    once: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Rows per second, as measured; see `arrayd.datasets.measuring`.

    Parameters
    ----------
    at_random
        Of rows that can be read alone; None: there are none.
    in_order
        Of rows that follow each other; of files that must be decoded, of decoding.
    """

    at_random: float | None
    in_order: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How rows are delivered; prints as an explanation.

    Parameters
    ----------
    kind
        ``"resident"``, ``"row-random"``, ``"lazy pack"`` or ``"windowed"``.
    sizes
        What it was made of.
    whole
        Resident: the blocks hold the whole dataset, for other selections as well.
    slots
        Else: rows of the ring.
    share
        Else: rows that stay in memory.
    rates
        How fast rows come; None: that was not measured.
    """

    kind: str
    sizes: Sizes
    whole: bool = True
    slots: int = 0
    share: int = 0
    rates: Rates | None = None

    @property
    def memory(self) -> int:
        """Bytes of memory that it takes."""
        if self.kind == "resident":
            return (self.sizes.total if self.whole else self.sizes.rows) * self.sizes.row_bytes
        return (self.slots + self.share) * (self.sizes.row_bytes + ID_BYTES) + self.reader

    @property
    def reader(self) -> int:
        """Bytes of it that the reader needs for itself."""
        return reader_bytes(self.sizes, self.slots, self.share, windowed=self.windowed)

    @property
    def reads(self) -> tuple[int, int]:
        """Bytes of rows that an epoch reads after the first, and bytes of pages for them.

        Windowed: bytes that come of decoding, those of rows read in place with them.
        """
        if self.kind == "resident":
            return 0, 0
        left, each = self.sizes.rows - self.share, self.sizes.read_bytes
        if self.windowed:
            packed = sum(one.cast_bytes for one in self.sizes.units)
            return (self._decoded + left * (sum(each) - packed),) * 2
        return left * sum(each), left * sum(size + PAGE - 1 for size in each if size)

    @property
    def windowed(self) -> bool:
        """Whether rows are decoded anew for each window."""
        return self.kind == WINDOWED

    @property
    def decodes(self) -> float:
        """How often a unit is decoded per epoch, by bytes of fields; 0: not again once it was."""
        if not self.windowed:
            return 0.0
        return self._decoded / max(1, sum(one.nbytes for one in self.sizes.units))

    @property
    def _decoded(self) -> int:
        return round(decoded_bytes(self.sizes, self.slots, self.share))

    @property
    def is_packed(self) -> bool:
        """Whether all that is to be decoded was, by an earlier run, and will be found."""
        packs = self.sizes.packs
        return self.kind == "lazy pack" and packs is not None and not packs.needed

    @property
    def seconds(self) -> Seconds | None:
        """How long reading takes, at the rates that were measured; None: they were not."""
        rates, sizes = self.rates, self.sizes
        if rates is None:
            return None
        loaded = sizes.total if self.kind == "resident" and self.whole else sizes.rows
        once = max([loaded, *(one.rows for one in sizes.units)]) / rates.in_order
        if self.kind == "resident":
            return Seconds(once, 0.0, once)
        if self.windowed:
            all_once = max(1, sum(one.nbytes for one in sizes.units))
            first = decoded_bytes(sizes, self.slots, 0) / all_once
            return Seconds(first * once, self.decodes * once, once)
        later = None if rates.at_random is None else (sizes.rows - self.share) / rates.at_random
        if rates.at_random is None or (self.kind == "lazy pack" and not self.is_packed):
            return Seconds(once, later, once)
        return Seconds(sizes.rows / rates.at_random, later, once)

    def __str__(self) -> str:
        return _words(self)

    @property
    def why(self) -> str:
        """Why nothing is kept of what is decoded, and what to do about it; of a windowed plan."""
        packs = self.sizes.packs
        if packs is None or not packs.short:
            return "plan='windowed' was asked for"
        free, needed = format_apart(packs.free, packs.needed)
        return (
            f"{packs.folder} has {free} free, and the rows take {needed}: make room, or name "
            "another folder (scratch=)"
        )


def decoded_bytes(sizes: Sizes, slots: int, share: int) -> float:
    """Return the bytes that come of decoding in an epoch; a window is half a ring."""
    n = max(1, sizes.rows)
    window, kept = min(n, max(1, slots // 2)), min(share, n) / n
    return sum(one.nbytes * one.decodes(window, n, kept) for one in sizes.units)


def reader_bytes(sizes: Sizes, slots: int, share: int, *, windowed: bool = False) -> int:
    """Return what the reader needs for itself; what it decodes does not pass its buffers."""
    each = sizes.read_bytes
    if windowed:
        each = [sum(each) - sum(one.cast_bytes for one in sizes.units)]
    return reader_memory(sizes.rows, slots, share, each, sizes.budget)


def _words(plan: Plan) -> str:
    """Return the text of a plan: what it is, what it takes, and how long that lasts."""
    sizes = plan.sizes
    need, budget = format_apart(sizes.rows * sizes.row_bytes, sizes.budget)
    rows = f"{sizes.rows:,} rows of {format_bytes(sizes.row_bytes)} ({need})"
    if plan.kind == "resident":
        lines = [f"resident: {rows} fit the budget of {budget}", *_resident(plan)]
    else:
        fits = "would fit" if sizes.rows * sizes.row_bytes <= sizes.budget else "do not fit"
        lines = [f"{plan.kind}: {rows} {fits} the budget of {budget}", *_through_ring(plan)]
    return "\n".join([*lines, *_times(plan)])


def _resident(plan: Plan) -> list[str]:
    what = "the whole dataset" if plan.whole else "this selection alone"
    return [
        f"  memory           {format_bytes(plan.memory)}, once for all processes ({what})",
        "  reads per epoch  none after the first load",
    ]


def _through_ring(plan: Plan) -> list[str]:
    sizes = plan.sizes
    part = plan.share / max(1, sizes.rows)
    ring = format_bytes(plan.slots * sizes.row_bytes)
    share = format_bytes(plan.share * sizes.row_bytes)
    read, pages = map(format_bytes, plan.reads)
    reads = f"{read} of rows, about {pages} in pages of 4 KiB; once for all"
    return [
        *_decodes(plan),
        f"  ring             {ring} ({plan.slots:,} rows on their way)",
        f"  resident share   {share} ({plan.share:,} rows, {part:.0%}: never read again)",
        f"  reader           {format_bytes(plan.reader)} (buffers, order of the rows, process)",
        *_beside(plan),
        *_scratch(plan),
        f"  reads per epoch  {f'{read} decoded; once for all' if plan.windowed else reads}",
        f"{_INDENT}consumers of the stream",
    ]


def _beside(plan: Plan) -> list[str]:
    """Return what is said of memory that the budget does not count, where that is much."""
    unit = max((one.unit_bytes for one in plan.sizes.units), default=0)
    if plan.is_packed or _UNITS * unit < plan.sizes.budget // 8:
        return []
    return [
        f"  beside it        up to {format_bytes(_UNITS * unit)} while it decodes: a chunk, part",
        f"{_INDENT}of text, or file has {format_bytes(unit)}; smaller ones take less",
    ]


def _decodes(plan: Plan) -> list[str]:
    if not plan.windowed:
        return []
    return [
        f"  decodes          {plan.decodes:.1f} times per epoch each chunk, part of text, or file,",
        f"{_INDENT}in exact order, instead of once",
        f"  scratch file     none: {plan.why}",
    ]


def _scratch(plan: Plan) -> list[str]:
    sizes, packs = plan.sizes, plan.sizes.packs
    if plan.windowed or sizes.decoded is False:
        return []
    need = format_bytes(sizes.rows * sizes.row_bytes)
    when = "if the files are compressed" if sizes.decoded is None else "in the first epoch"
    lines = [f"  scratch file     {need}, written {when}: all is decoded once"]
    if packs is not None:
        lines.append(
            f"{_INDENT}in {packs.folder}: {format_bytes(packs.needed)} still to be written, "
            f"{format_bytes(packs.free)} free"
        )
    return lines


def _times(plan: Plan) -> list[str]:
    rates, times = plan.rates, plan.seconds
    if rates is None or times is None:
        if plan.kind == "resident":
            return []
        return ["  time per epoch   not measured: plan(measure=True), or `arrayd plan --measure`"]
    found = [] if rates.at_random is None else [f"{_rate(plan, rates.at_random)} at random"]
    found.append(f"{_rate(plan, rates.in_order)} {'decoded' if plan.sizes.units else 'in order'}")
    lines = [f"  measured now     {', '.join(found)}"]
    if plan.kind == "resident":
        return [
            *lines,
            f"  time to load     {duration(times.once)}, once; later epochs read nothing",
        ]
    if times.later is None:
        return [
            *lines,
            f"  time per epoch   {duration(times.first)} to decode in the first, and to write the",
            f"{_INDENT}scratch file; for later ones measure again when it is there",
        ]
    return [
        *lines,
        f"  time per epoch   {duration(times.later)} to read, the first {duration(times.first)};",
        f"{_INDENT}all rows once, in order, would take {duration(times.once)}",
    ]


def _rate(plan: Plan, rows: float) -> str:
    return f"{rows:,.0f} rows/s ({format_bytes(round(rows * plan.sizes.row_bytes))}/s)"


def duration(seconds: float) -> str:
    """Return a time with one decimal: ``14.2 s``, ``3.5 min``, ``7.4 h``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"
