"""The matrix of deaths: at each failpoint the process is killed, stopped, ended, or refused.

``python -m tests.faults.matrix [POINT…]`` prints what the user saw. One daemon serves all
cases, through all its deaths, and so does a client that holds arrays all the time.

A case: a process makes its journey to the point, is hit there, and comes to its end or is
dead; whoever keeps the daemon starts it again if that died. Then another process makes the
same journey and meets nothing; the survivor's arrays are what they were; and what is left in
/dev/shm is what the survivor holds.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import arrayd
from arrayd.common import failpoints
from tests.faults import journey
from tests.faults.routes import Case, cases
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import Puppet, PuppetError, Stage, block_of, wait_until, workers

ROOT = Path(__file__).resolve().parents[2]

HELD = 0.05
"""Seconds that a stopped process stays stopped: longer than all that is not lost waits."""

HUNG = 25.0
"""Seconds in which any journey ends."""

MOST_RESTARTS = 300
"""Times that the daemon is started again at most, in all cases together."""

FLAGS = ("--budget", "64M", "--workers", "2")


PRELUDE = f"""import faulthandler, signal, sys, h5py
sys.path.insert(0, {str(ROOT)!r})
faulthandler.register(signal.SIGUSR2)
from tests.faults.journey import Journey"""


@dataclass
class Outcome:
    """What became of a case."""

    met: list[str] = field(default_factory=list)
    seconds: float = 0.0
    ended: bool = False  # the journey's process
    restarts: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the errors met, without repetitions."""
        names = [one.partition(":")[0] for one in self.met]
        return tuple(n for n, before in zip(names, ["", *names], strict=False) if n != before)

    def __str__(self) -> str:
        right = () if "KeyboardInterrupt" in self.classes else ("right values",)
        saw = "dead" if self.ended else ", then ".join((*self.classes, *right))
        again = f", daemon started again ×{self.restarts}" if self.restarts else ""
        return f"{saw} in {self.seconds:.2f} s{again}"


class Kept(Daemon):
    """A daemon that somebody keeps: started again whenever it has ended, until `release`."""

    restarts = 0

    def keep(self) -> None:
        """Begin; the daemon runs."""
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()

    def release(self) -> int:
        """Stop it for good; return its exit code."""
        self.restarts = -sys.maxsize
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self._keeper.join()
        process, self.process = self.process, None
        return process.wait()

    def _keep(self) -> None:
        while self.restarts >= 0:
            assert self.process is not None
            self.process.wait()
            if 0 <= self.restarts < MOST_RESTARTS:
                self.restarts += 1
                self.process = self.launched()


class World:
    """A daemon, a client that survives everything, and a source of processes.

    Parameters
    ----------
    folder
        For all of it; its path is short.
    """

    def __init__(self, folder: Path) -> None:
        self.points = folder / "points"
        self.files = folder / "files"
        for path in (self.points, self.files, folder / "d"):
            path.mkdir(mode=0o700)
        for name, value in {**journey.FILES, "mine.npy": 9}.items():
            np.save(self.files / name, np.full(journey.ITEMS, value))
        variables = {failpoints.VARIABLE: str(self.points)}
        self.daemon = Kept(folder / "d", FLAGS, variables=variables)
        with contextlib.ExitStack() as ends:
            ends.callback(self.daemon.discard)
            self.daemon.start()
            self.daemon.keep()
            ends.callback(self._end_daemon)
            self.stage = Stage(f"{folder}/stage")
            ends.callback(self.stage.close)
            variables["ARRAYD_ENDPOINT"] = self.daemon.endpoint
            self.zygote = self.stage.start(variables, PRELUDE)
            self.survivor = arrayd.connect(self.daemon.endpoint)
            ends.callback(self.survivor.close)
            self.held = self.survivor.get(self.files / "mine.npy")
            self.published = self.survivor.put(np.arange(1000), name="mine")
            self._ends = ends.pop_all()

    def close(self) -> None:
        """End all; assert that nothing is left."""
        del self.held, self.published
        gc.collect()
        self._ends.close()

    def _end_daemon(self) -> None:
        assert self.daemon.release() == 0, self.daemon.log[-2000:]
        assert self.daemon.leftovers() == []

    def run(self, case: Case) -> Outcome:
        """Let a case happen."""
        outcome, logged, restarts = Outcome(), len(self.daemon.log), self.daemon.restarts
        traveller = self._traveller()
        traveller(f"journey.go(*{case.before!r})")
        if case.point == "daemon.spawning":
            self._end_workers()
        failpoints.arm(self.points, case.point, case.arms)
        began = time.monotonic()
        traveller.send(f"journey.go({case.step!r})")
        with _violating(outcome, "at the fault"):
            self._attend(case, traveller)
            outcome.seconds = time.monotonic() - began
            self._arrive(case, traveller, outcome)
        traveller.discard()
        self.stage.cast.remove(traveller)
        with _violating(outcome, "after the fault"):
            self._check(case)
        self._disarm()
        outcome.restarts = self.daemon.restarts - restarts
        if "Traceback" in self.daemon.log[logged:]:
            outcome.violations.append(self.daemon.log[logged:])
        return outcome

    def _traveller(self) -> Puppet:
        child = self.zygote.fork()
        child(f"journey = Journey({self.daemon.endpoint!r}, {str(self.files)!r})")
        return child

    def _end_workers(self) -> None:
        """Let the next load need a new loader process."""
        for pid in workers(self.daemon):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not workers(self.daemon), "the loader processes are gone")

    # ---- during the fault ----------------------------------------------------------------

    def _attend(self, case: Case, traveller: Puppet) -> None:
        """Wake who is stopped, until the traveller arrives or is dead, and the point was passed."""
        end, sleeps = time.monotonic() + HUNG, case.sleeps
        ends = [traveller._sock.fileno(), traveller._pidfd]
        while not (over := select.select(ends, [], [], 0.005)[0]) or sleeps or not self._hit(case):
            if sleeps and (pid := self._hit(case)):
                self._wake(case, pid)
                sleeps = False
            if time.monotonic() > end:
                os.kill(traveller.pid, signal.SIGUSR2)  # it shows where it is
                raise AssertionError("the point was not passed" if over else "it hangs")

    def _wake(self, case: Case, pid: int) -> None:
        stat = Path(f"/proc/{pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it stops")
        if case.action.startswith("restart"):
            os.kill(self.daemon.pid, signal.SIGKILL)
            self._others_go_on()
        elif case.point.startswith("client."):
            self._others_go_on()
        else:
            time.sleep(HELD)  # nobody else is to do anything
        with contextlib.suppress(ProcessLookupError):  # a worker ends with its daemon
            os.kill(pid, signal.SIGCONT)

    def _others_go_on(self) -> None:
        """Assert that a stopped client keeps nobody from anything."""
        with arrayd.connect(self.daemon.endpoint) as other:
            for name, value in journey.FILES.items():
                assert (other.get(self.files / name, timeout=PATIENCE) == value).all()
            assert (other.put([1, 2], timeout=PATIENCE) == [1, 2]).all()
        self._check_survivor()
        self._check_name()

    def _arrive(self, case: Case, traveller: Puppet, outcome: Outcome) -> None:
        if case.ends_the_traveller:
            traveller._wait()
            outcome.ended = True
            return
        outcome.met = traveller.reply()
        assert outcome.classes == case.met, f"the user met {outcome.met}"
        assert traveller("journey.go('drop')") == []  # it lets go of all it ever got
        traveller.end()

    def _hit(self, case: Case) -> int:
        """Return the process that was hit; 0: none yet."""
        marks = [path.name for path in self.points.glob(f"{case.point}.*")]
        return int(marks[0].rpartition(".")[2]) if marks else 0

    def _disarm(self) -> None:
        for path in self.points.iterdir():
            path.unlink()

    # ---- after the fault -----------------------------------------------------------------

    def _check(self, case: Case) -> None:
        """Assert that nothing of the fault is left."""
        if case.lasts:
            self._restart()
        self._check_survivor()
        self._check_name()
        again = self._traveller()
        try:
            step = "load_all" if case.step in ("hand_over", "stop") else case.step
            assert again(f"journey.go(*{(*case.before, step)!r})") == []
            again.end()
        finally:
            again.discard()
            self.stage.cast.remove(again)
        wait_until(self._is_tidy, "only what the survivor holds is left")
        self._check_survivor()

    def _restart(self) -> None:
        pid = self.survivor.status().pid
        os.kill(pid, signal.SIGUSR1)
        wait_until(lambda: self.survivor.status().pid != pid, "the next daemon")

    def _check_survivor(self) -> None:
        assert (self.held == 9).all()
        assert np.array_equal(self.published, np.arange(1000))
        assert np.array_equal(self.survivor.get("name:mine"), np.arange(1000))

    def _check_name(self) -> None:
        """Assert that the name of the journey is whole or absent, and so is what it wrote."""
        with contextlib.suppress(arrayd.NoSuchBlock):
            journey.check_named(self.survivor.get(f"name:{journey.NAME}"))
        out = self.files / "out.h5"
        if out.exists():
            journey.check_gathered(out)
            out.unlink()
        packed = self.files / "set.npy"
        if packed.exists():
            journey.check_packed(packed)
            packed.unlink()
        rows = self.files / "rows.npy"
        if rows.exists():
            journey.check_written(rows)
            rows.unlink()

    def _is_tidy(self) -> bool:
        """Free what is idle; say whether the rest is the survivor's, in the kernel as well."""
        status = self.survivor.status()
        for block in status.blocks:
            if block.state == "idle":
                with contextlib.suppress(arrayd.BlockError):
                    self.survivor.evict(block=block.number)
        mine = sorted(block_of(shared).name for shared in (self.held, self.published))
        spares = os.listdir(f"/dev/shm/arrayd-{os.geteuid()}-{status.scope}")
        return (
            sorted(block.segment for block in status.blocks) == mine
            and self.daemon.segments == mine
            and sorted(spares) == sorted([*mine, "index", "lock"])
            and {session.pid for session in status.sessions} == {os.getpid()}
            and not status.jobs
            and status.charged == sum(block.size for block in status.blocks)
        )


@dataclass
class Worlds:
    """One world for all cases, and a new one after a case that has spoilt it.

    Parameters
    ----------
    folder
        Where they are made.
    """

    folder: Path
    _world: World | None = None
    _made: int = 0

    def run(self, case: Case) -> Outcome:
        """Let a case happen."""
        if self._world is None:
            self._made += 1
            folder = self.folder / str(self._made)
            folder.mkdir()
            self._world = World(folder)
        outcome = self._world.run(case)
        if outcome.violations:
            self.close(outcome)
        return outcome

    def close(self, outcome: Outcome) -> None:
        """End the world; what is left of it is a violation."""
        world, self._world = self._world, None
        if world is not None:
            with _violating(outcome, "at the end"):
                world.close()


@contextlib.contextmanager
def _violating(outcome: Outcome, when: str) -> Iterator[None]:
    """Note what goes wrong, and go on."""
    try:
        yield
    except (AssertionError, arrayd.ArraydError, PuppetError, OSError, ValueError) as error:
        outcome.violations.append(f"{when}: {type(error).__name__}: {error}")
    except BaseException as error:
        if type(error).__name__ != "Failed":  # pytest.fail, of `wait_until`
            raise
        outcome.violations.append(f"{when}: {error}")


def main(wanted: list[str]) -> int:
    """Print the matrix, or the part that is asked for; return 1 if anything was violated."""
    violations = 0
    with tempfile.TemporaryDirectory(prefix="ad", dir="/tmp") as name:
        worlds, end = Worlds(Path(name)), Outcome()
        for case in cases():
            if not wanted or any(word in str(case) for word in wanted):
                outcome = worlds.run(case)
                line = f"{case.point:<22} {case.action:<10} {case.step:<10} {outcome}"
                violations += _say(line, outcome)
        worlds.close(end)
        violations += _say("the end", end)
    return 1 if violations else 0


def _say(line: str, outcome: Outcome) -> int:
    words = [line, *(f"    VIOLATION {one}" for one in outcome.violations), ""]
    sys.stdout.write("\n".join(words))
    sys.stdout.flush()
    return len(outcome.violations)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
