"""One client process of the soak: random calls, every value checked against the truth.

``python -m tests.faults.actor JSON`` acts until it is told to halt, through the socket that
is its standard input; `Orders` are the fields of the JSON. `ARRAYD_ENDPOINT` says where.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import re
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import arrayd
from arrayd.session import connection
from tests.faults.acts import COLUMNS, OF_A_PROCESS, WEIGHTS, Hand, World
from tests.faults.truth import PUBLISHED, Board, Expected, Publication, Wrong

_LONGEST_CHILD = 25.0  # seconds: longer than any timeout of what a child does
_OWN_NAMES = 2


@dataclass(frozen=True)
class Orders:
    """What an actor is told when it begins.

    Parameters
    ----------
    slot, slots
        Its row of the board, and how many there are.
    letters
        Descriptors of the two ends of the queue.
    reborn
        Whether this process was another program before, whose holds nobody gave back.
    """

    folder: str
    slot: int
    slots: int
    seed: int
    letters: tuple[int, int]
    reborn: bool = False

    @property
    def command(self) -> list[str]:
        """Return the program with these orders; the daemon is one, and its clients are many."""
        return ["nice", sys.executable, "-m", "tests.faults.actor", json.dumps(asdict(self))]

    def world(self) -> World:
        """Return what its threads share."""
        ends = [socket.socket(fileno=fd) for fd in self.letters]
        board = Board(Path(self.folder) / "board", self.slots, len(COLUMNS))
        return World(self.folder, board, self.slot, (ends[0], ends[1]))


class Actor(Hand):
    """A process of its own, with names that only it publishes under."""

    def __init__(self, orders: Orders) -> None:
        super().__init__(orders.world(), orders.seed)
        self.orders = orders
        self.control = socket.socket(fileno=0)
        self._own: dict[int, tuple[Expected, Any]] = {}  # what it holds under its own names
        self._asked_to_end = False
        if self.chance.random() < 0.5:
            signal.signal(signal.SIGTERM, self._on_term)
        self._begun = _usage_with_a_session()

    def run(self) -> None:
        """Act until told otherwise."""
        while not self._asked_to_end:
            if select.select([self.control], [], [], 0)[0]:
                self._obey()
            self.act(WEIGHTS | OF_A_PROCESS)

    # ---- what it is told -----------------------------------------------------------------

    def _on_term(self, number: int, frame: Any) -> None:
        self._asked_to_end = True

    def _obey(self) -> None:
        """Do as told until told to go on."""
        while (order := self.control.recv(64)) != b"go":
            if order in (b"", b"end"):
                sys.exit()  # with all that it holds
            answer: dict[str, Any] = {}
            if order == b"report":
                answer = self._report()
            elif order == b"drop":
                answer = self._drop_all()
            self.control.send(json.dumps(answer).encode())

    def _report(self) -> dict[str, Any]:
        """Say what it holds; nothing is on its way to it any more."""
        self.empty_queue()
        gc.collect()
        return {"holds": self._segments(), "reborn": self.orders.reborn}

    def _drop_all(self) -> dict[str, Any]:
        """Drop everything, and say what it has more of than when it began."""
        while self.held:
            self.do("drop")
        self._own.clear()
        gc.collect()
        end = time.monotonic() + 2  # a thread that was joined may be about to end
        while (grown := growth(self._begun)) and time.monotonic() < end:
            time.sleep(0.01)
        return {"grown": grown}

    def _segments(self) -> list[str]:
        held = [array for _, array in [*self.held, *self._own.values()]]
        blocks = [a._held for a in held if isinstance(a, arrayd.SharedArray) and a._held]
        return sorted({held.grant.segment for held in blocks if not held.released})

    # ---- names of its own ----------------------------------------------------------------

    def own(self) -> None:
        """Publish under a name of its own, and always find there what was published last."""
        slot = self.chance.randrange(_OWN_NAMES)
        name = f"own{os.getpid()}-{slot}"
        if slot in self._own and self.chance.random() < 0.7:
            expected, _ = self._own[slot]
            expected.check(arrayd.get(f"name:{name}", timeout=5))
            return
        code = PUBLISHED * 10 + os.getpid() % 100_000
        expected = Publication(code, self.chance.randrange(1 << 20)).expected
        array = arrayd.put(
            expected.values(), name, keep=self.chance.random() < 0.1, replace=True, timeout=0.5
        )
        if slot in self._own and self.chance.random() < 0.5:
            self.held.append(self._own[slot])  # without a name from now on
        self._own[slot] = expected, array

    # ---- processes -----------------------------------------------------------------------

    def fork(self) -> None:
        """Have a child check what it inherits, get something, and end or be killed."""
        pid = os.fork()
        if pid == 0:
            self._be_child(dies=self.chance.random() < 0.3)
        self._await(pid)

    def orphan(self) -> None:
        """Leave a process behind that maps what we mapped, whatever becomes of us."""
        pid = os.fork()
        if pid == 0:
            if os.fork() == 0:
                time.sleep(self.chance.random() * 0.5)  # its life, beyond its parent's
                self._be_child(dies=False)
            os._exit(0)
        self._await(pid)

    def share(self) -> None:
        """Write a block together with a child."""
        expected = Publication(PUBLISHED + 50, self.chance.randrange(1 << 20)).expected
        with arrayd.create(expected.shape, "i8") as out:
            middle = len(out) // 2
            pid = os.fork()
            if pid == 0:
                out[:middle] = expected.values()[:middle]
                os._exit(0)
            out[middle:] = expected.values()[middle:]
            self._await(pid)
        expected.check(out)
        self.held.append((expected, out))

    def threads(self) -> None:
        """Act in several threads on one client, and perhaps fork meanwhile."""
        hands = [Hand(self.world, self.chance.randrange(1 << 30)) for _ in range(3)]
        failures: list[BaseException] = []

        def act(hand: Hand) -> None:
            try:
                for _ in range(8):
                    hand.act(WEIGHTS)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=act, args=(hand,)) for hand in hands]
        for thread in threads:
            thread.start()
        if self.chance.random() < 0.5:
            self.fork()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        self.held += [pair for hand in hands for pair in hand.held]

    def reincarnate(self) -> None:
        """Become a new program while holding arrays: the mappings go, the pid stays."""
        orders = replace(self.orders, seed=self.chance.randrange(1 << 30), reborn=True)
        os.execv(sys.executable, orders.command[1:])

    def leave(self) -> None:
        """End as scripts do, with all that is held."""
        sys.exit()

    def die(self) -> None:
        """Be killed in the middle of everything."""
        os.kill(os.getpid(), signal.SIGKILL)

    def _be_child(self, *, dies: bool) -> None:
        """Live and end as a forked child does."""
        code = 3
        with contextlib.suppress(BaseException):
            try:
                for expected, array in self.held:
                    expected.check(array)
                self.do("get")
                self.do("drop")
                if dies:
                    self.die()
                code = 0
            except BaseException:
                traceback.print_exc()
                raise
        sys.stderr.flush()
        os._exit(code)

    def _await(self, pid: int) -> None:
        """Wait for a child; one that hangs shows where."""
        pidfd = os.pidfd_open(pid)
        ended = select.select([pidfd], [], [], _LONGEST_CHILD)[0]
        os.close(pidfd)
        if not ended:
            os.kill(pid, signal.SIGUSR2)
            time.sleep(0.5)  # to write it
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not ended or status not in (0, signal.SIGKILL):
            raise Wrong(f"the child {pid} {'ended with' if ended else 'hung;'} {status}")


def usage() -> Counter[str]:
    """Return how many threads and descriptors of each kind this process has."""
    kinds = Counter({"thread": len(os.listdir("/proc/self/task"))})
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one of this list
            kinds[re.sub(r"\d+", "N", os.readlink(f"/proc/self/fd/{fd}"))] += 1
    return kinds


def _usage_with_a_session() -> Counter[str]:
    """Return what a process has as long as its daemon lives: what comes then is growth."""
    while True:
        daemon = arrayd.status().pid
        now = usage()
        if arrayd.status().pid == daemon:  # it lived, so our connection did, which counts too
            return now


def growth(begun: Counter[str]) -> list[str]:
    """Return what there is more of than in the beginning."""
    now = usage()
    return [f"{kind}: {begun[kind]} → {now[kind]}" for kind in now if now[kind] > begun[kind]]


def main() -> None:
    """Act."""
    faulthandler.register(signal.SIGUSR2)  # for the soak to see where one hangs
    connection.AWAY_TIMEOUT = 40.0  # a machine as busy as ours takes long to start a daemon
    orders = json.loads(sys.argv[1])
    Actor(Orders(**{**orders, "letters": tuple(orders["letters"])})).run()


if __name__ == "__main__":
    main()
