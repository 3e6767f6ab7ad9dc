"""Each epoch delivers each row once, in the one order, whatever happens: proved by receipts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arrayd.samples.order import EpochOrder
from arrayd.samples.receipt import expected
from arrayd.samples.selection import Rows
from tests.benchmarks.disk import LargeSet
from tests.benchmarks.processes import Consumer, Daemon, crew, together
from tests.benchmarks.table import Table

SIZE, SEED, EPOCHS = 4096, 11, 2
Found = dict[str, Any]
Run = Callable[[], list[Found]]


class Runs:
    """Ways through the same two epochs; each returns what its consumers found.

    Parameters
    ----------
    daemon
        To be used, and hurt.
    large
        The set.
    """

    def __init__(self, daemon: Daemon, large: LargeSet) -> None:
        self._daemon = daemon
        self._large = large

    def _options(self, plan: str, batch: int, **more: Any) -> Found:
        return {"plan": plan, "batch_size": batch, "seed": SEED, "epochs": EPOCHS, **more}

    def _spec(self, plan: str) -> Found:
        spec = self._large.spec(self._daemon)
        return {**spec, "dataset": {} if plan == "resident" else spec["dataset"]}

    def plain(self, plan: str, batch: int, consumers: int = 1) -> list[Found]:
        """Go through it at once."""
        options = self._options(plan, batch, consumers=consumers)
        with crew([self._spec(plan)] * consumers) as crowd:
            return together(crowd, open=options, batches=None, check=True)

    def ranks(self, world: int) -> list[Found]:
        """Share it among ranks."""
        with crew([self._spec("row-random")] * world) as crowd:
            for rank, one in enumerate(crowd):
                more = {"rank": rank, "world": world, "consumers": world}
                one.tell(open=self._options("row-random", 64, **more), batches=None, check=True)
            return [one.answer() for one in crowd]

    def daemon_killed(self, plan: str) -> list[Found]:
        """Kill the daemon in mid-epoch, and start it again."""
        with Consumer(self._spec(plan)) as one:
            some = self._large.rows // 100
            together([one], open=self._options(plan, 64), batches=some, check=True)
            self._daemon.kill()
            self._daemon.start()
            return together([one], batches=None, check=True)

    def trainer_killed(self, plan: str) -> list[Found]:
        """Kill a consumer in mid-epoch; another one goes on from its state, in other batches."""
        spec = self._spec(plan)
        with Consumer(spec) as one:
            some = self._large.rows // 100
            task = {"open": self._options(plan, 64), "batches": some, "check": True}
            state = together([one], **task)[0]["state"]
            one.kill()
        with Consumer(spec) as other:
            options = self._options(plan, 100)
            return together([other], open=options, state=state, batches=None, check=True)


def run(table: Table, folder: Path, daemon: Daemon, mib: int) -> None:
    """Measure row 9."""
    large = LargeSet.make(folder, max(64, mib // 8), SIZE)
    rows = Rows(large.rows)
    right = [
        expected(EpochOrder(rows, SEED, epoch), large.rows).hexdigest() for epoch in range(EPOCHS)
    ]
    table.head(
        f"9. exactness: {EPOCHS} epochs of {large.rows:,} rows; each row's value is looked at",
        "equal: receipts that are complete and have the sha256 of the published order",
    )
    runs = Runs(daemon, large)
    ways: dict[str, Run] = {
        "resident, batches of 256": lambda: runs.plain("resident", 256),
        "resident, batches of 100": lambda: runs.plain("resident", 100),
        "row-random, batches of 256": lambda: runs.plain("row-random", 256),
        "row-random, batches of 100": lambda: runs.plain("row-random", 100),
        "row-random, 2 consumers": lambda: runs.plain("row-random", 256, 2),
        "row-random, 4 consumers": lambda: runs.plain("row-random", 256, 4),
        "row-random, 2 ranks": lambda: runs.ranks(2),
        "row-random, daemon killed and restarted": lambda: runs.daemon_killed("row-random"),
        "row-random, trainer killed and resumed": lambda: runs.trainer_killed("row-random"),
        "resident, trainer killed and resumed": lambda: runs.trainer_killed("resident"),
    }
    for name, way in ways.items():
        receipts = [list(map(json.loads, one["receipts"])) for one in way()]
        _judge(table, name, receipts, right)


def _judge(table: Table, name: str, receipts: list[list[Found]], right: list[str]) -> None:
    """Compare the receipts of each consumer with the order."""
    equal = total = 0
    for of_one in receipts:
        for epoch, digest in enumerate(right):
            total += 1
            equal += any(
                one["epoch"] == epoch and one["sha256"] == digest and one["complete"]
                for one in of_one
            )
    missing = sum(one["missing"] for of_one in receipts for one in of_one)
    repeated = sum(one["repeated"] for of_one in receipts for one in of_one)
    table.line(
        name,
        f"{equal} of {total} equal",
        f"{missing} missing, {repeated} repeated",
        (equal - missing - repeated) / total,
        least=1,
    )
