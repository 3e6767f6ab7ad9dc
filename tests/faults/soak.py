"""The soak: client processes that come, go and are killed, on a daemon that is too.

``python -m tests.faults.soak SECONDS [SEED]`` by hand; CI runs it short (`test_soak.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import arrayd
from tests.faults.actor import FILES
from tests.fixtures import Daemon

ACTORS = 8
LIFE = 15.0  # seconds that an actor acts at most
HUNG = 30.0  # seconds after its life that an actor counts as hung: longer than any timeout
FLAGS = ("--budget", "6M", "--workers", "2")


@dataclass
class Soak:
    """A soak and what it has seen.

    Parameters
    ----------
    daemon
        Runs; it is killed and handed over at random.
    folder
        For the files.
    seed
        Of all chance; printed with the result.
    """

    daemon: Daemon
    folder: Path
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    _actors: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, seconds: float, restart_every: float = 3.0) -> None:
        """Soak for so long, then let every actor end."""
        for value in range(FILES):
            np.save(self.folder / f"{value}.npy", np.full(50_000 + 1000 * value, value))
        chance, seeds = random.Random(self.seed), iter(range(self.seed, sys.maxsize))
        end = time.monotonic() + seconds
        restart = time.monotonic() + restart_every
        while time.monotonic() < end or self._actors:
            left = end - time.monotonic()
            while left > 1 and len(self._actors) < ACTORS:
                self._actors.append(self._actor(next(seeds), min(left, LIFE)))
            if left < -HUNG:
                self._tell_hung()
            if left > 0 and self._actors and chance.random() < 0.02:
                chance.choice(self._actors).kill()
            if left > 2 and time.monotonic() > restart:
                self._restart(chance.choice([signal.SIGKILL, signal.SIGUSR1]))
                restart = time.monotonic() + restart_every * chance.uniform(0.5, 1.5)
            self._reap()
            time.sleep(0.05)  # the pace of the faults

    def settle(self) -> None:
        """See that the daemon, /dev/shm and the processes that live agree."""
        with arrayd.connect(self.daemon.endpoint) as client:
            deadline = time.monotonic() + 10
            while any(b.state not in ("idle", "lent") for b in client.status().blocks):
                if time.monotonic() > deadline:
                    self.violations.append(f"a block is held by the dead:\n{client.status()}")
                    break
                time.sleep(0.05)
            status = client.status()
            self.done["bytes"] = status.charged
            if sorted(block.segment for block in status.blocks) != self.daemon.segments:
                self.violations.append(f"/dev/shm {self.daemon.segments} is not\n{status}")
            if {session.pid for session in status.sessions} != {os.getpid()}:
                self.violations.append(f"sessions of the dead: {status.sessions}")
        descriptors = len(os.listdir(f"/proc/{self.daemon.pid}/fd"))
        if descriptors > 60:
            self.violations.append(f"the daemon has {descriptors} descriptors")

    def close(self) -> None:
        """End what is left of the actors."""
        for actor in self._actors:
            actor.kill()
            actor.communicate()

    def _actor(self, seed: int, seconds: float) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.actor", str(seed), self.folder, str(seconds)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "ARRAYD_ENDPOINT": self.daemon.endpoint},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _reap(self) -> None:
        for actor in [a for a in self._actors if a.poll() is not None]:
            self._actors.remove(actor)
            said, complained = actor.communicate()
            if actor.returncode == -signal.SIGKILL:
                self.done["kills"] += 1
            elif actor.returncode:
                self.violations.append(complained[-2000:])
            else:
                self.done.update(json.loads(said))
            if "Traceback" in complained and not actor.returncode:
                self.violations.append(complained[-2000:])

    def _tell_hung(self) -> None:
        """Have the actors that do not end show where they are, and end them."""
        for actor in self._actors:
            actor.send_signal(signal.SIGUSR2)
            time.sleep(0.5)  # to write it
            actor.kill()
            self.violations.append(f"hung:\n{actor.communicate()[1][-4000:]}")
        self._actors.clear()

    def _restart(self, number: int) -> None:
        self.done["restarts"] += 1
        self.daemon.end(number)
        self.daemon.start()

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.done.items()))
        return f"seed {self.seed}: {counts}; {len(self.violations)} violations"


def main() -> int:
    """Soak by hand; return 1 if anything was violated."""
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        daemon = Daemon(folder, FLAGS)
        stack.callback(daemon.discard)
        daemon.start()
        soak = Soak(daemon, folder, seed)
        stack.callback(soak.close)
        soak.run(float(sys.argv[1]))
        soak.settle()
        daemon.stop()
        soak.violations += [f"left behind: {name}" for name in daemon.leftovers()]
        sys.stdout.write("\n".join([*soak.violations, str(soak), ""]))
        if soak.violations:
            shutil.copy(folder / "log", "/tmp/arrayd-soak.log")
        return 1 if soak.violations else 0


if __name__ == "__main__":
    sys.exit(main())
