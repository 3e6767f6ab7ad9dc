"""How the rows of a selection are delivered, and what that costs: a pure function of sizes.

The cost model
==============
n rows of b bytes (after the cast) are wanted once each per epoch, in an order that is another one
each time. If they fit the budget they are read once and stay: *resident*. If not, every epoch has
to read at least ``n - share`` rows, where ``share`` is how many can stay in memory: between two
uses of a row lies the boundary of the epochs, at which no more than that are there. A share that
stays the same all the time reaches this; a cache of the rows used last is far below it (CoorDL's
MinIO: Mohan et al., VLDB 2021). So the budget is divided: a *ring*, for the rows on their way, and
the *resident share*. A bigger ring gives more rows to sort at a time, and more room for consumers
that differ in speed; a bigger share saves its part of all reads.

A ring may be needed twice for a while (a consumer that stands still keeps the old one), so two are
set aside; and so is what the reader needs for itself (`arrayd.datasets.reader_memory`). A budget
that is too small for that has the smallest ring and no share.

Files that cannot be read row by row (compressed, text, one per sample) are decoded once, when a row
of them is first wanted, into a *pack*: a scratch file of the rows, from which all later reads come.
That is one decode and one write of all rows, in the first epoch; reading compressed chunks at
random would decode each as often as it has rows. Where there is no room for a pack, they are
decoded anew for each *window* of the future order: all its rows of a unit come of one decoding. How
often that is, `arrayd.datasets.decoding` tells. The larger the window, the fewer times: so the
budget goes to the ring where units have many rows, and to the share where they have few.

A row that does not begin on a page costs the disk ``(b + 4095) / b`` times its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from arrayd.common.bytesize import format_bytes
from arrayd.datasets.decoding import PackRoom, WantedUnits
from arrayd.datasets.reader_memory import SHARE_BYTES, reader_memory
from arrayd.errors import NoRoom, SpecMismatch

PAGE = 4096

ID_BYTES = 8
"""Of the number of a row, which lies beside it in a ring and in a resident share."""

MOST_OF_RING = 512 << 20
"""Bytes of the largest ring that is planned: what more would give is better spent on the share."""

WINDOWED = "windowed"

KINDS = ("resident", "row-random", "lazy pack", WINDOWED)

_SPLITS = 33
"""Sizes of the ring, between the least and all of the budget, of which the best is taken."""


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
    """

    kind: str
    sizes: Sizes
    whole: bool = True
    slots: int = 0
    share: int = 0

    @property
    def memory(self) -> int:
        """Bytes of memory that it takes."""
        if self.kind == "resident":
            return (self.sizes.total if self.whole else self.sizes.rows) * self.sizes.row_bytes
        return (self.slots + self.share) * (self.sizes.row_bytes + ID_BYTES) + self.reader

    @property
    def reader(self) -> int:
        """Bytes of it that the reader needs for itself."""
        return _reader(self.sizes, self.slots, self.share, windowed=self.kind == WINDOWED)

    @property
    def reads(self) -> tuple[int, int]:
        """Bytes of rows that an epoch reads after the first, and bytes of pages for them.

        Windowed: bytes that come of decoding, those of rows read in place with them.
        """
        if self.kind == "resident":
            return 0, 0
        left, each = self.sizes.rows - self.share, self.sizes.read_bytes
        if self.kind == WINDOWED:
            packed = sum(one.cast_bytes for one in self.sizes.units)
            return (self._decoded + left * (sum(each) - packed),) * 2
        return left * sum(each), left * sum(size + PAGE - 1 for size in each if size)

    @property
    def decodes(self) -> float:
        """How often a unit is decoded per epoch, by bytes of fields; 0: not again once it was."""
        if self.kind != WINDOWED:
            return 0.0
        return self._decoded / max(1, sum(one.nbytes for one in self.sizes.units))

    @property
    def _decoded(self) -> int:
        return round(_decoded(self.sizes, self.slots, self.share))

    def __str__(self) -> str:
        sizes = self.sizes
        need = format_bytes(sizes.rows * sizes.row_bytes)
        rows = f"{sizes.rows:,} rows of {format_bytes(sizes.row_bytes)} ({need})"
        if self.kind == "resident":
            what = "the whole dataset" if self.whole else "this selection alone"
            return (
                f"resident: {rows} fit the budget of {format_bytes(sizes.budget)}\n"
                f"  memory           {format_bytes(self.memory)}, once for all processes ({what})\n"
                "  reads per epoch  none after the first load"
            )
        first = ""
        if self.kind == WINDOWED:
            first = (
                f"  decodes          each chunk, part of a text, or file {self.decodes:.1f} times "
                f"per epoch\n                   (order='exact') instead of once: {self.why}\n"
            )
        part = self.share / max(1, sizes.rows)
        ring = format_bytes(self.slots * sizes.row_bytes)
        share = format_bytes(self.share * sizes.row_bytes)
        return (
            f"{self.kind}: {rows} do not fit the budget of {format_bytes(sizes.budget)}\n"
            f"{first}"
            f"  ring             {ring} ({self.slots:,} rows on their way)\n"
            f"  resident share   {share} ({self.share:,} rows, {part:.0%}: never read again)\n"
            f"  reader           {format_bytes(self.reader)} (its buffers, and the order of rows)\n"
            f"{self._scratch_words(need)}"
            f"  reads per epoch  {self._read_words()}; once for all\n"
            "                   consumers of the stream"
        )

    @property
    def why(self) -> str:
        """Why nothing is kept of what is decoded, and what to do about it; of a windowed plan."""
        packs = self.sizes.packs
        if packs is None or not packs.short:
            return "plan='windowed' was asked for"
        return (
            f"{packs.folder} has {format_bytes(packs.free)} free, and the rows take "
            f"{format_bytes(packs.needed)}: make room, or name another folder (scratch=)"
        )

    def _scratch_words(self, need: str) -> str:
        packs = self.sizes.packs
        if self.kind == WINDOWED or self.sizes.decoded is False:
            return ""
        when = "if the files are compressed" if self.sizes.decoded is None else "in the first epoch"
        where = ""
        if packs is not None:
            where = (
                f"                   in {packs.folder}: {format_bytes(packs.needed)} still to be "
                f"written, {format_bytes(packs.free)} free\n"
            )
        return f"  scratch file     {need}, written {when}: all is decoded once\n{where}"

    def _read_words(self) -> str:
        read, pages = map(format_bytes, self.reads)
        if self.kind == WINDOWED:
            return f"{read} decoded"
        return f"{read} of rows, about {pages} in pages of 4 KiB"


def choose(sizes: Sizes, kind: str | None = None) -> Plan:
    """Return the plan for these sizes.

    Parameters
    ----------
    kind
        ``"resident"``; ``"row-random"`` for one that reads from the files, by a pack if they must
        be decoded and there is room for one; ``"lazy pack"`` or ``"windowed"`` for that alone;
        None: the one that reads least.

    Raises
    ------
    NoRoom
        The budget is too small for the plan asked for, or for any; or there is none for a pack that
        was asked for.
    SpecMismatch
        There is no such plan, or none for files whose rows are read in place.
    """
    if kind not in (None, *KINDS):
        raise SpecMismatch(f"plan={kind!r}: it is one of {', '.join(KINDS)}, or None.")
    if kind in (None, "resident"):
        for whole, rows in ((True, sizes.total), (False, sizes.rows)):
            if rows * sizes.row_bytes <= sizes.budget:
                return Plan(kind="resident", sizes=sizes, whole=whole)
        if kind == "resident":
            raise NoRoom(
                f"{sizes.rows:,} rows of {format_bytes(sizes.row_bytes)} do not fit the budget of "
                f"{format_bytes(sizes.budget)}. Leave out plan=, raise budget=, or take fewer bits "
                "per value (cast=)."
            )
    short = sizes.packs is not None and sizes.packs.short
    if kind in ("lazy pack", WINDOWED) and sizes.decoded is False:
        raise SpecMismatch(
            f"plan={kind!r} is for files that must be decoded, and the rows of these lie there as "
            "they are in memory: leave out plan=."
        )
    if kind == WINDOWED or (kind != "lazy pack" and sizes.decoded and short):
        return _windowed(sizes)
    if kind == "lazy pack" and sizes.packs is not None and sizes.packs.short:
        raise _no_pack(sizes.packs)
    return _row_random(sizes)


def _no_pack(packs: PackRoom) -> NoRoom:
    return NoRoom(
        f"{packs.folder} has {format_bytes(packs.free)} free, and the rows to be decoded take "
        f"{format_bytes(packs.needed)}. Free some, name another folder (scratch=), or decode "
        "without one: plan='windowed'.",
        needed=packs.needed,
        free=packs.free,
    )


def _windowed(sizes: Sizes) -> Plan:
    """Return the plan that decodes the fewest bytes per epoch; of two, the one with more share."""
    plain = _row_random(sizes)
    row = sizes.row_bytes + ID_BYTES
    room = (sizes.budget - _reader(sizes, sizes.rows, 0, windowed=True)) // row
    most = max(plain.slots, min(room // 2, 2 * sizes.rows))
    best = None
    for at in range(_SPLITS):
        slots = plain.slots + (most - plain.slots) * at // (_SPLITS - 1)
        share = _share(sizes, slots, windowed=True)
        found = _decoded(sizes, slots, share), slots, share
        best = found if best is None else min(best, found)
    assert best is not None
    _, slots, share = best
    return replace(plain, kind=WINDOWED, slots=slots, share=share)


def _decoded(sizes: Sizes, slots: int, share: int) -> float:
    """Return the bytes that come of decoding in an epoch; a window is half a ring."""
    n = max(1, sizes.rows)
    window, kept = min(n, max(1, slots // 2)), min(share, n) / n
    return sum(one.nbytes * one.decodes(window, n, kept) for one in sizes.units)


def _row_random(sizes: Sizes) -> Plan:
    row = sizes.row_bytes + ID_BYTES
    least = 4 * sizes.step  # two windows on their way, while a step is used
    if 2 * least * row > sizes.budget:
        raise NoRoom(
            f"The budget of {format_bytes(sizes.budget)} is too small for steps of "
            f"{sizes.step:,} rows of {format_bytes(row)}: it needs "
            f"{format_bytes(2 * least * row)}, room for eight steps. Raise budget=, or take "
            "smaller batches.",
            bytes=2 * least * row,
        )
    slots = max(least, min(sizes.budget // 8, MOST_OF_RING) // row)
    while slots > least and 2 * slots * row + _reader(sizes, slots, 0) > sizes.budget:
        slots = max(least, slots // 2)
    slots -= slots % sizes.step  # so that no step wraps around
    kind = "lazy pack" if sizes.decoded else "row-random"
    return Plan(kind=kind, sizes=sizes, whole=False, slots=slots, share=_share(sizes, slots))


def _reader(sizes: Sizes, slots: int, share: int, *, windowed: bool = False) -> int:
    """Return what the reader needs for itself; what it decodes does not pass its buffers."""
    each = sizes.read_bytes
    if windowed:
        each = [sum(each) - sum(one.cast_bytes for one in sizes.units)]
    return reader_memory(sizes.rows, slots, share, each)


def _share(sizes: Sizes, slots: int, *, windowed: bool = False) -> int:
    """Return how many rows there is room for beside two rings and what the reader needs."""
    row = sizes.row_bytes + ID_BYTES
    left = sizes.budget - 2 * slots * row - _reader(sizes, slots, 0, windowed=windowed)
    return min(sizes.rows, max(0, left // (row + SHARE_BYTES)))
