"""How fast rows come, measured: some are read as a training would read them, by the daemon.

Rows are read in *windows* of equal size, into a ring that has room for a few of them, and the time
is taken from the end of the first window to the end of the last: so starting the reader and opening
files is not counted. There are two rates:

- *at random*: rows from all over the selection, past the page cache where that can be had. They lie
  further apart than those of the windows of a training, which has more rows at a time to sort: on a
  rotating disk it is a low estimate.
- *in order*: rows that follow each other. Of files that must be decoded these are whole units, so
  it is the rate of decoding; the page cache is told to forget those files before.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, replace

import numpy as np

from arrayd.client import Client
from arrayd.common.bytesize import format_bytes
from arrayd.datasets import cache
from arrayd.datasets.decoding import WantedUnits
from arrayd.datasets.deliveries import Pace, Values, ring
from arrayd.datasets.plan import WINDOWED, Plan, Rates, Sizes
from arrayd.errors import SpecMismatch
from arrayd.samples.manifest import Field, Manifest
from arrayd.samples.order import EpochOrder
from arrayd.samples.selection import Rows

SAMPLE_BYTES = 64 << 20
"""Bytes of rows that are read at most, for each rate."""

UNIT_BYTES = 64 << 20
"""Bytes of the largest unit that is decoded for a measurement."""

_WINDOWS = 16
"""Windows that are timed. Three may have been read when the first is seen, if this process is kept
from running: so many, that it matters little."""

_DECODED_WINDOWS = 3
"""The same of files that must be decoded; one may have been read."""

_FEW, _FILES = 16, 128
"""Rows of a window: at first, and where each is a file to be decoded."""

_LONG = 0.4
"""Seconds: what took less is measured again, with as many more rows."""


@dataclass(frozen=True, slots=True)
class RateMeter:
    """Reads rows of a dataset to see how fast they come.

    Parameters
    ----------
    client
        The session to use.
    manifest, values
        The dataset, and what is wanted of it.
    scratch
        As for `Pace`.
    """

    client: Client
    manifest: Manifest
    values: Values
    scratch: str | None

    def rates(self, plan: Plan) -> Rates:
        """Return how fast rows come that are delivered by a plan.

        Raises
        ------
        SpecMismatch
            To decode any of them takes too long; or there are too few to measure.
        ArraydError
            They cannot be read.
        """
        n, row = len(self.values.rows), max(1, plan.sizes.row_bytes)
        if n < 2:
            raise SpecMismatch(f"{n} rows are too few to measure how fast they come.")
        at_random = None
        if plan.is_packed or (plan.sizes.decoded is False and plan.kind != "resident"):
            most = max(1, min(n, SAMPLE_BYTES // row) // (_WINDOWS + 1))
            at_random, seconds = self._at_random(min(_FEW, most))
            if (count := min(most, int(_FEW * _LONG / seconds))) > _FEW:
                at_random, _ = self._at_random(count)
        return Rates(at_random=at_random, in_order=self._in_order(row))

    def _at_random(self, count: int) -> tuple[float, float]:
        """Return rows per second in windows of `count`, and the seconds that it took."""
        rows, random = self.values.rows, np.random.default_rng()
        at = np.unique(random.integers(0, len(rows), count * (_WINDOWS + 1)))
        return self._in_windows(Rows.of(rows.at(at), rows.total))

    def _in_windows(self, rows: Rows) -> tuple[float, float]:
        count = max(1, len(rows) // (_WINDOWS + 1))
        seconds = self._seconds(rows, count, 3 * count, windowed=False)
        return (len(rows) - count) / seconds, seconds

    def _in_order(self, row_bytes: int) -> float:
        """Return rows per second of rows that follow each other, whole units of them."""
        rows, most = self.values.rows, SAMPLE_BYTES // row_bytes
        unit = max((self._unit(field) for field in self.values.fields), default=0)
        if not unit:
            return self._in_windows(rows[: max(2, most)])[0]
        if unit * row_bytes > UNIT_BYTES:
            raise SpecMismatch(
                f"To have any row, {unit:,} must be decoded ({format_bytes(unit * row_bytes)}): "
                "how fast that is, is not measured. Leave out measure=True."
            )
        windows = min(_DECODED_WINDOWS + 1, len(rows))
        count = _FILES if unit == 1 else max(unit, most // windows // unit * unit)
        count = min(count, len(rows) // windows)
        some = rows[: windows * count]
        self._forget(some)
        seconds = self._seconds(some, count, 2 * count, windowed=True)
        return self._decoded(some[count:]) / seconds

    def _unit(self, field: Field) -> int:
        starts = self.manifest.files[field.files].starts
        return min(field.unit or 0, int(np.diff(starts).max()))

    def _decoded(self, rows: Rows) -> int:
        """Return how many rows are read to have these: all of their units."""
        units = [(self.manifest.files[one.files], self._unit(one)) for one in self.values.fields]
        found = [WantedUnits.of(files, unit, rows, 0, 0).rows for files, unit in units if unit]
        return max(found, default=len(rows))

    def _forget(self, rows: Rows) -> None:
        """Tell the page cache to forget the files of these rows, as far as they are decoded."""
        ids = rows.ids(0, len(rows)).astype(np.int64)
        for field in self.values.fields:
            files = self.manifest.files[field.files]
            for number in np.unique(files.locate(ids)[0]).tolist() if self._unit(field) else ():
                with contextlib.suppress(OSError):  # the reader says what is wrong with it
                    fd = os.open(files.path(number), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                    try:
                        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    finally:
                        os.close(fd)

    def _seconds(self, rows: Rows, count: int, slots: int, *, windowed: bool) -> float:
        """Return the time from the first window of `count` rows to the end of all rows."""
        values = replace(self.values, rows=rows)
        sizes = Sizes(rows=len(rows), total=0, row_bytes=0, read_bytes=(), step=count, budget=0)
        plan = Plan(kind=WINDOWED if windowed else "row-random", sizes=sizes, slots=slots)
        kept = None if rows.array is None else cache.ids_path(rows.digest().hex())
        known = kept is not None and os.path.exists(kept)
        pace = Pace(
            batch=count,
            limit=len(rows),
            consumers=1,
            grace=1.0,
            writable=False,
            scratch=self.scratch,
        )
        order = EpochOrder(rows, 0, 0, "sequential")
        delivery = ring(self.client, values, plan, order, pace)
        began = 0.0
        try:
            for start in range(0, len(rows), count):
                stop = min(start + count, len(rows))
                delivery.fetch(start, stop, slice(0, 0))
                delivery.pass_to(stop)
                began = began or time.perf_counter()
            return max(1e-6, time.perf_counter() - began)
        finally:
            delivery.close()
            if kept is not None and not known:
                with contextlib.suppress(OSError):
                    os.unlink(kept)
