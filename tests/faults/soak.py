"""The soak: client processes that come, go and are killed, on a daemon that is too.

``python -m tests.faults.soak SECONDS [SEED]`` by hand; CI runs it short (`test_soak.py`).
It runs in rounds. In a round actors do what they like (`acts`, `actor`) while the soak kills
and stops them, rewrites their files, and stops the daemon for a moment; in the first third of
the rounds it also kills the daemon, hands over and stops it for good, and starts it again
with another budget. The other rounds are one daemon's, whose growth is measured. At the end
of each round all actors halt, and it is audited (`audit`) that the books agree with the world.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import arrayd
from arrayd.common.bytesize import format_bytes
from tests.faults.acts import COLUMNS
from tests.faults.audit import Audit
from tests.faults.crew import Crew
from tests.faults.truth import SOURCES, Board
from tests.support.daemons import Daemon

ENDINGS = {signal.SIGKILL: 3, signal.SIGUSR1: 3, signal.SIGTERM: 2}
BUDGETS = ("7M", "10M", "32M")

_PER_SECOND = {"kill": 0.6, "term": 0.4, "stop": 0.6, "rewrite": 3.0, "freeze": 0.1, "end": 0.5}
_TICK = 0.02


def flags(budget: str) -> tuple[str, ...]:
    """Return the daemon's."""
    return ("--budget", budget, "--workers", "2")


@dataclass
class Soak:
    """A soak and what it has seen.

    Parameters
    ----------
    daemon
        Runs with `flags`.
    folder
        For the files.
    seed
        Of all chance; printed with the result.
    actors
        How many act at a time.
    """

    daemon: Daemon
    folder: Path
    seed: int
    actors: int = 30
    rounds: int = 0
    done: Counter[str] = field(default_factory=Counter)
    growth: list[dict[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._board = Board(self.folder / "board", self.actors, len(COLUMNS))
        self.crew = Crew(self.daemon.endpoint, self.folder, self.actors, self._chance)
        self._client = arrayd.connect(self.daemon.endpoint)
        self._audit = Audit(self.daemon, self._client)
        self._frozen_until = 0.0
        for source in SOURCES:
            self._board.rewrite(source, str(self.folder))

    @property
    def violations(self) -> list[str]:
        """Return everything that should not have been."""
        return self.crew.violations + self._audit.violations

    @property
    def restarts(self) -> int:
        """Return how often the daemon was ended and started again."""
        return sum(count for what, count in self.done.items() if what.startswith("restarts"))

    def run(self, seconds: float, length: float = 25.0, *, calm: bool = False) -> None:
        """Soak in rounds of `length` seconds; `calm`: without restarts.

        Three rounds are the least: a storm, one to warm up, and one to compare with.
        """
        end, rounds = time.monotonic() + seconds, max(3, round(seconds / length))
        storms = 0 if calm else max(1, rounds // 3)
        while time.monotonic() < end or self.rounds < 3:
            storm = self.rounds < storms
            self._round(min(length, seconds / 3), storm=storm)
            self._audit_round(storm=storm, last=time.monotonic() >= end)
            self.rounds += 1

    def settle(self) -> None:
        """Let all actors end, and see that nothing is left of them, on a good day or ever."""
        self.crew.dismiss(len(self.crew.members))
        self._audit.holders({})
        self._audit.books({})
        self.done["sealed bytes"] = self._audit.log()
        self._client.close()
        for column, count in zip(COLUMNS, self._board.tally.sum(axis=0), strict=True):
            self.done[column] += int(count)
        self.done.update(self.crew.done)

    def close(self) -> None:
        """End what is left."""
        self.crew.close()
        self._client.close()

    # ---- a round -------------------------------------------------------------------------

    def _round(self, seconds: float, *, storm: bool) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.crew.hire()
            self.crew.bury()
            self.crew.resume()
            for fault, rate in _PER_SECOND.items():
                if self._chance.random() < rate * _TICK and (storm or fault != "end"):
                    getattr(self, f"_{fault}")()
            if self._frozen_until and time.monotonic() > self._frozen_until:
                self._thaw()
            time.sleep(_TICK)  # the pace of the faults
        self._thaw()
        self.crew.resume(all_of_them=True)

    def _kill(self) -> None:
        self.crew.strike(signal.SIGKILL)

    def _term(self) -> None:
        self.crew.strike(signal.SIGTERM)

    def _stop(self) -> None:
        self.crew.strike(signal.SIGSTOP)

    def _rewrite(self) -> None:
        changing = [source for source in SOURCES if source.changes]
        self._board.rewrite(self._chance.choice(changing), str(self.folder))
        self.done["rewritten files"] += 1

    def _freeze(self) -> None:
        """Stop the daemon for a moment."""
        if not self._frozen_until:
            self._signal(signal.SIGSTOP)
            self._frozen_until = time.monotonic() + self._chance.uniform(0.1, 1)
            self.done["daemon stops"] += 1

    def _thaw(self) -> None:
        if self._frozen_until:
            self._signal(signal.SIGCONT)
            self._frozen_until = 0.0

    def _signal(self, number: int) -> None:
        assert self.daemon.process is not None
        self.daemon.process.send_signal(number)

    def _end(self) -> None:
        """End the daemon in one way or another, and start it again with some budget."""
        (number,) = self._chance.choices(list(ENDINGS), list(ENDINGS.values()))
        self._board.restarting(frees=number == signal.SIGTERM)
        if number != signal.SIGKILL:
            self._thaw()
        self._frozen_until = 0.0
        code = self.daemon.end(number)
        if code not in (0, -signal.SIGKILL):
            self._audit.violations.append(f"the daemon ended with {code}")
        if self._chance.random() < 0.3:
            self.crew.strike(signal.SIGKILL)  # nobody sees this death
        self.daemon.flags = flags(self._chance.choice(BUDGETS))
        self.daemon.start()
        self._board.restarted()
        self.done[f"restarts by {signal.Signals(number).name}"] += 1

    # ---- the end of a round --------------------------------------------------------------

    def _audit_round(self, *, storm: bool, last: bool) -> None:
        self.crew.order("halt")
        answers = self.crew.order("report")
        self._audit.holders(answers)
        for pid, answer in self.crew.order("drop").items():
            if answer["grown"]:
                self._audit.violations.append(f"actor {pid} has grown: {answer['grown']}")
        self._audit.books(answers)
        if last or self.rounds % 3 == 2:
            self._audit.all_room(answers, wait_for_lent=last and self.actors >= 30)
        first_of_its_daemon = storm or not self.growth
        self._audit.measure(actors=len(self.crew.members), warm=not first_of_its_daemon)
        if not storm:
            self.growth.append(self._audit.last)
        self.crew.dismiss(len(self.crew.members) // 3)
        self.crew.go()

    def __str__(self) -> str:
        """Return what was done and seen, as a few lines."""
        counts = ", ".join(
            f"{name} {count:,}" for name, count in sorted(self.done.items()) if "bytes" not in name
        )
        return (
            f"seed {self.seed}: {self.rounds} rounds of {self.actors} actors; {counts}\n"
            f"sealed {format_bytes(self.done['sealed bytes'])}, "
            f"attached {format_bytes(self.done['attached bytes'])}, "
            f"peak RSS of the daemon {format_bytes(self._audit.peak)}, "
            f"one daemon over {len(self.growth)} rounds: {self._audit.first} → {self._audit.last}\n"
            f"{len(self.violations)} violations"
        )


def main() -> int:
    """Soak by hand; return 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("seed", type=int, nargs="?", default=random.randrange(1 << 30))
    parser.add_argument("--actors", type=int, default=30)
    parser.add_argument("--round", type=float, default=25.0, help="seconds")
    parser.add_argument("--calm", action="store_true", help="never restart the daemon")
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}\n")
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        daemon = Daemon(folder, flags("10M"))
        stack.callback(daemon.discard)
        daemon.start()
        soak = Soak(daemon, folder, options.seed, options.actors)
        stack.callback(soak.close)
        soak.run(options.seconds, options.round, calm=options.calm)
        soak.settle()
        daemon.stop()
        left = [f"left behind: {name}" for name in daemon.leftovers()]
        sys.stdout.write("\n".join([*soak.violations[:20], *left, str(soak), ""]))
        if soak.violations or left:
            shutil.copy(folder / "log", "/tmp/arrayd-soak.log")
        return 1 if soak.violations or left else 0


if __name__ == "__main__":
    sys.exit(main())
