"""Which plan delivers the rows of a selection: a pure function of sizes.

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

from dataclasses import replace

from arrayd.common.bytesize import format_apart, format_bytes
from arrayd.datasets.decoding import PackRoom
from arrayd.datasets.plan import ID_BYTES, WINDOWED, Plan, Sizes, decoded_bytes, reader_bytes
from arrayd.datasets.reader_memory import SHARE_BYTES
from arrayd.errors import NoRoom, SpecMismatch

MOST_OF_RING = 512 << 20
"""Bytes of the largest ring that is planned: what more would give is better spent on the share."""

KINDS = ("resident", "row-random", "lazy pack", WINDOWED)

_SPLITS = 33
"""Sizes of the ring, between the least and all of the budget, of which the best is taken."""


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
            need, budget = format_apart(sizes.rows * sizes.row_bytes, sizes.budget)
            raise NoRoom(
                f"{sizes.rows:,} rows of {format_bytes(sizes.row_bytes)} ({need}) do not fit the "
                f"budget of {budget}. Leave out plan=, raise budget=, or take fewer bits per value "
                "(cast=)."
            )
    short = sizes.packs if sizes.packs is not None and sizes.packs.short else None
    if kind in ("lazy pack", WINDOWED) and sizes.decoded is False:
        raise SpecMismatch(
            f"plan={kind!r} is for files that must be decoded, and the rows of these lie there as "
            "they are in memory: leave out plan=."
        )
    if kind == "lazy pack" and short is not None:
        raise _no_pack(short)
    if kind == WINDOWED or (sizes.decoded and short is not None):
        return _windowed(sizes)
    return _row_random(sizes)


def _no_pack(packs: PackRoom) -> NoRoom:
    free, needed = format_apart(packs.free, packs.needed)
    return NoRoom(
        f"{packs.folder} has {free} free, and the rows to be decoded take {needed}. Free some, "
        "name another folder (scratch=), or decode without one: plan='windowed'.",
        needed=packs.needed,
        free=packs.free,
    )


def _windowed(sizes: Sizes) -> Plan:
    """Return the plan that decodes the fewest bytes per epoch; of two, the one with more share."""
    plain = _row_random(sizes)
    row = sizes.row_bytes + ID_BYTES
    room = (sizes.budget - reader_bytes(sizes, sizes.rows, 0, windowed=True)) // row
    most = max(plain.slots, min(room // 2, 2 * sizes.rows))
    best, halves = None, 2 * sizes.step  # a window is half a ring, of whole steps
    for at in range(_SPLITS):
        slots = plain.slots + (most - plain.slots) * at // (_SPLITS - 1)
        slots = max(halves, slots - slots % halves)
        share = _share(sizes, slots, windowed=True)
        found = decoded_bytes(sizes, slots, share), slots, share
        best = found if best is None else min(best, found)
    assert best is not None
    _, slots, share = best
    return replace(plain, kind=WINDOWED, slots=slots, share=share)


def _row_random(sizes: Sizes) -> Plan:
    row = sizes.row_bytes + ID_BYTES
    least = 4 * sizes.step  # two windows on their way, while a step is used
    if 2 * least * row > sizes.budget:
        budget, need = format_apart(sizes.budget, 2 * least * row)
        raise NoRoom(
            f"The budget of {budget} is too small for steps of {sizes.step:,} rows of "
            f"{format_bytes(row)}: it needs {need}, room for eight steps. Raise budget=, or take "
            "smaller batches.",
            bytes=2 * least * row,
        )
    slots = max(least, min(sizes.budget // 8, MOST_OF_RING) // row)
    while slots > least and 2 * slots * row + reader_bytes(sizes, slots, 0) > sizes.budget:
        slots = max(least, slots // 2)
    slots -= slots % sizes.step  # so that no step wraps around
    kind = "lazy pack" if sizes.decoded else "row-random"
    return Plan(kind=kind, sizes=sizes, whole=False, slots=slots, share=_share(sizes, slots))


def _share(sizes: Sizes, slots: int, *, windowed: bool = False) -> int:
    """Return how many rows there is room for beside two rings and what the reader needs."""
    row = sizes.row_bytes + ID_BYTES
    left = sizes.budget - 2 * slots * row - reader_bytes(sizes, slots, 0, windowed=windowed)
    return min(sizes.rows, max(0, left // (row + SHARE_BYTES)))
