"""The plan that reads least within the budget, and what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrayd.common.bytesize import format_bytes
from arrayd.datasets.dataset import Dataset
from arrayd.datasets.decoding import PackRoom, WantedUnits
from arrayd.datasets.plan import Plan, Rates, Sizes, duration
from arrayd.datasets.plan_choice import choose
from arrayd.datasets.planning import ValueTerms
from arrayd.datasets.reader_memory import reader_memory
from arrayd.datasets.scan import scan
from arrayd.errors import NoRoom, SpecMismatch
from arrayd.samples.selection import Rows
from tests.support.scans import ALONE, place, shards

__all__ = ["place"]

SIZES = Sizes(
    rows=1000, total=10_000, row_bytes=4104, read_bytes=[4096, 8], step=8, budget=100 << 20
)


def test_what_decoding_takes_beside_the_budget() -> None:
    """It is said where a chunk is large for the budget, and while there is something to decode."""
    few = WantedUnits(1000, 4096, 4096, ((50, 20),), FULL.budget // 30)
    large = replace(few, unit_bytes=FULL.budget // 20)
    plans = [choose(replace(FULL, decoded=True, units=[units])) for units in (few, large)]
    said = f"up to {format_bytes(3 * (FULL.budget // 20))} while it decodes"
    assert [said in str(plan) for plan in plans] == [False, True]
    done = PackRoom("/scratch", 0, 1)
    assert "while it decodes" not in str(choose(replace(plans[1].sizes, packs=done)))


def test_what_fits_is_resident() -> None:
    """The whole dataset if it fits, for other selections too; else this selection alone."""
    whole = choose(SIZES)
    assert (whole.kind, whole.whole, whole.memory) == ("resident", True, 10_000 * 4104)
    part = choose(replace(SIZES, budget=10 << 20))
    assert (part.kind, part.whole, part.memory) == ("resident", False, 1000 * 4104)
    assert whole.reads == part.reads == (0, 0)
    assert "whole dataset" in str(whole)
    assert "this selection" in str(part)


@settings(deadline=None)
@given(st.integers(1, 4100_000), st.integers(1, 64), st.integers(1, 10_000))
def test_no_plan_exceeds_the_budget(budget: int, step: int, row: int) -> None:
    """Two rings and the share fit, and the ring has room for some steps; or there is an error."""
    sizes = replace(SIZES, budget=budget, step=step, row_bytes=row, read_bytes=[row])
    try:
        plan = choose(sizes)
    except NoRoom as error:
        assert 8 * step * (row + 8) > budget
        assert error.details["bytes"] > budget
        return
    if plan.kind == "resident":
        assert plan.memory <= budget
    else:
        assert plan.slots >= 4 * step
        assert (2 * plan.slots + plan.share) * (row + 8) <= budget
        assert not plan.share or plan.memory + plan.slots * (row + 8) <= budget
        assert plan.reads[0] == (1000 - plan.share) * row


def test_the_reader_has_its_part() -> None:
    """Buffers, the order and where rows of the share are come off the share, and are told."""
    plan = choose(replace(SIZES, rows=10_000, budget=20 << 20))
    assert plan.kind == "row-random"
    buffer = min(4 << 20, plan.slots // 3 * 5120)
    assert plan.reader == 20 * 10_000 + 16 * plan.share + 2 * buffer - (1 << 20)
    assert f"reader           {format_bytes(plan.reader)}" in str(plan)
    left = (20 << 20) - plan.memory - plan.slots * 4112
    assert 0 <= left < 4112 + 16
    for row, buffer in ((2 << 20, 6 << 20), (5 << 20, 4 << 20), (0, 0)):
        assert reader_memory(0, 8, 0, [row], 1 << 20) == max(0, 2 * buffer - (1 << 20))
    assert reader_memory(0, 8, 0, [0], 64 << 20) == 16 << 20


def test_a_share_saves_its_reads() -> None:
    """What stays in memory is not read again, and pages are counted whole."""
    plan = choose(replace(SIZES, total=1000, budget=2 << 20))
    assert plan.kind == "row-random"
    assert 0 < plan.share < 1000
    rows, pages = plan.reads
    assert rows == (1000 - plan.share) * 4104
    assert pages == (1000 - plan.share) * (4096 + 4095 + 8 + 4095)
    assert f"{plan.share:,} rows" in str(plan)


def test_files_that_must_be_decoded_need_scratch_space() -> None:
    """The plan has another name, and says how much; of HDF5 it says that it may be so."""
    sizes = replace(SIZES, total=1000, budget=2 << 20)
    assert choose(replace(sizes, decoded=True)).kind == "lazy pack"
    texts = {decoded: str(choose(replace(sizes, decoded=decoded))) for decoded in (True, None)}
    assert "3.9 MiB, written in the first epoch" in texts[True]
    assert "3.9 MiB, written if the files are compressed" in texts[None]
    assert "scratch" not in str(choose(sizes))


DECODED = replace(
    SIZES,
    total=1000,
    budget=2 << 20,
    decoded=True,
    units=[WantedUnits(1000, 4096, 4096, ((50, 20),))],
    packs=PackRoom("/scratch", 4096_000, 5000_000),
)
"""Rows of which one field must be decoded, 50 at a time, with room for a pack."""

FULL = replace(DECODED, packs=PackRoom("/scratch", 4096_000, 4095_999))
"""The same without."""


def test_without_room_for_a_pack_there_are_windows() -> None:
    """It is said with the factor, the numbers and the remedies; asked for, it is done anyhow."""
    assert choose(DECODED).kind == "lazy pack"
    assert "in /scratch: 3.9 MiB still to be written, 4.8 MiB free" in str(choose(DECODED))
    plan = choose(FULL)
    assert plan == choose(FULL, "row-random") == choose(FULL, "windowed")
    assert plan.kind == "windowed"
    assert 1 < plan.decodes < 50
    assert plan.reads[0] == round(plan.decodes * 4096_000) + (1000 - plan.share) * 8
    lines = str(plan).splitlines()
    assert lines[0].startswith("windowed: 1,000 rows")
    assert f" {plan.decodes:.1f} times per epoch" in lines[1]
    assert "none: /scratch has 4,095,999 B free, and the rows take 4,096,000 B" in lines[3]
    assert "scratch=" in lines[3]
    asked = choose(DECODED, "windowed")
    assert (asked.kind, asked.decodes) == ("windowed", plan.decodes)
    assert "asked for" in str(asked)
    with pytest.raises(NoRoom, match=r"/scratch has .*scratch=.*plan='windowed'") as caught:
        choose(FULL, "lazy pack")
    assert caught.value.details == {"needed": 4096_000, "free": 4095_999}
    for kind in ("lazy pack", "windowed"):
        with pytest.raises(SpecMismatch, match="must be decoded"):
            choose(SIZES, kind)


def test_the_budget_goes_where_it_saves_decoding() -> None:
    """To the ring where units have many rows, to the share where each is one row."""
    chunks = choose(replace(FULL, units=[WantedUnits(1000, 4096, 4096, ((500, 2),))]))
    files = choose(replace(FULL, units=[WantedUnits(1000, 4096, 4096, ((1, 1000),))]))
    assert chunks.slots > 2 * files.slots
    assert files.share > 2 * chunks.share
    assert files.decodes == pytest.approx(1 - files.share / 1000)
    assert chunks.memory <= FULL.budget
    assert (2 * chunks.slots + chunks.share) * (4104 + 8) <= FULL.budget


ROWS = replace(SIZES, total=1000, budget=2 << 20)
"""Rows that are read in place."""


def timed(sizes: Sizes, at_random: float | None = None, kind: str | None = None) -> Plan:
    """Return the plan with rates: 10 rows per second in order."""
    return replace(choose(sizes, kind), rates=Rates(at_random=at_random, in_order=10.0))


def test_times_follow_from_rates() -> None:
    """The first epoch reads all, later ones but for the share; what is decoded, in whole units."""
    assert choose(ROWS).seconds is None
    plan = timed(ROWS, 5.0)
    assert plan.seconds == (200.0, (1000 - plan.share) / 5, 100.0)
    assert timed(replace(ROWS, budget=1 << 30)).seconds == (100.0, 0.0, 100.0)
    some = replace(DECODED, units=[WantedUnits(2500, 4096, 4096, ((20, 50),))])
    assert timed(some).seconds == (250.0, None, 250.0)
    done = replace(some, packs=PackRoom("/scratch", 0, 0))
    plan = timed(done, 5.0)
    assert plan.kind == "lazy pack"
    assert plan.seconds == (200.0, (1000 - plan.share) / 5, 250.0)
    plan = timed(some, kind="windowed")
    assert plan.seconds is not None
    first, later, once = plan.seconds
    assert later == pytest.approx(plan.decodes * 250)
    assert once == 250
    assert first >= plan.decodes * 250


def test_times_in_words() -> None:
    """Rates and times beside the least that there can be; or how to get them."""
    assert "--measure" in str(choose(ROWS))
    assert "measure" not in str(choose(replace(ROWS, budget=1 << 30)))
    text = str(timed(ROWS, 2.5))
    assert "2 rows/s (10.0 KiB/s) at random, 10 rows/s (40.1 KiB/s) in order" in text
    assert "the first 6.7 min;" in text
    assert "would take 100.0 s" in text
    assert "time to load     100.0 s" in str(timed(replace(ROWS, budget=1 << 30)))
    text = str(timed(DECODED))
    assert "10 rows/s (40.1 KiB/s) decoded" in text
    assert "100.0 s to decode in the first" in text
    assert [duration(s) for s in (0.04, 119.9, 120, 7199, 7200)] == [
        *("0.0 s", "119.9 s", "2.0 min", "120.0 min", "2.0 h")
    ]


def test_a_plan_that_cannot_be() -> None:
    """Asked for by name, a plan is made or is an error; it never becomes another one."""
    with pytest.raises(NoRoom, match="do not fit"):
        choose(replace(SIZES, budget=1 << 20), "resident")
    assert choose(SIZES, "row-random").kind == "row-random"
    with pytest.raises(SpecMismatch, match="one of"):
        choose(SIZES, "magic")


def test_a_pack_is_read_after_the_cast() -> None:
    """What lies in the files as it is delivered is read before the cast; each field for itself."""
    shards(4, 4, 4, kind="f8")
    np.save("y.npy", np.arange(3))
    Path("all.lst").write_text("s1.npy\ns2.npy\ns3.npy\n")
    manifest = scan(ALONE, {"x": "all.lst", "y": "y.npy"})
    terms = ValueTerms({"x": np.dtype("f2"), "y": np.dtype("i2")}, "error", None, None)
    client: Any = SimpleNamespace(status=lambda: SimpleNamespace(budget=2000))
    client._for_datasets = lambda: client
    plan = Dataset(manifest, Rows(3), terms, client).plan(1, plan="row-random")
    assert (plan.kind, plan.sizes.row_bytes, plan.share) == ("lazy pack", 24 + 2, 3)
    assert replace(plan, share=0).reads[0] == 3 * (24 + 8)
