"""The hold table, walked at random against a naive daemon (`holds_world`).

1,000 walks of 100 steps each, from the seeds 0, 1, …; ``ARRAYD_TEST_WALKS=20000`` goes on. Not
hypothesis: it is much slower, and its walks seldom got to where two threads have the same block.
"""

from __future__ import annotations

import contextlib
import os
import random

from tests.support.holds_world import Process, interrupt

SEGMENTS = ("a", "a", "b")

STEPS = {
    "ask": 6,
    "attach": 6,
    "attach_indexed": 4,
    "drop": 4,
    "talk": 10,
    "flush": 3,
    "release": 1,
    "give_up": 1,
    "restart": 1,
    "lose": 1,
    "fork": 1,
    "silence": 1,
    "settle": 1,
}
"""What can happen, and how often among the rest."""

WHOLE = ("fork", "settle")  # the system lets no signal into a fork

OFTEN = [step for step, weight in STEPS.items() for _ in range(weight)]

LENGTH = 100
WALKS = int(os.environ.get("ARRAYD_TEST_WALKS", "1000"))

Step = tuple[str, int, int]
"""What happens, to which of those that it may happen to, and at which moment a Ctrl-C comes."""


class Walk:
    """Threads that ask, attach, drop and are cut off; a daemon that is slow, or dies."""

    def __init__(self) -> None:
        self.process = Process(set(SEGMENTS))

    def go(self, steps: list[Step]) -> None:
        """Let it happen; at the end, all that is used is held, and nothing else."""
        for name, pick, moment in steps:
            cut = 0 if name in WHOLE else moment
            with contextlib.suppress(KeyboardInterrupt), interrupt(cut):
                getattr(self, f"_{name}")(pick)
        self.process.settle()

    def _ask(self, pick: int) -> None:
        self.process.ask(SEGMENTS[pick % len(SEGMENTS)])

    def _attach(self, pick: int) -> None:
        """Attach what was granted and end the call, or be cut off between two steps of that."""
        granted = [call for call in self.process.calls if call.seq]
        if granted:
            call = granted[pick % len(granted)]
            try:
                self.process.attach(call, max(0, pick - 6), shared=pick % 2 == 0)
            finally:
                self.process.end(call)

    def _attach_indexed(self, pick: int) -> None:
        """Attach what the index leads to, or be cut off."""
        segment = SEGMENTS[pick % len(SEGMENTS)]
        self.process.attach_indexed(segment, max(0, pick - 6), shared=pick % 2 == 0)

    def _give_up(self, pick: int) -> None:
        if self.process.calls:
            self.process.end(self.process.calls[pick % len(self.process.calls)])

    def _drop(self, pick: int) -> None:
        if self.process.mappings:
            self.process.drop(self.process.mappings[pick % len(self.process.mappings)])

    def _release(self, pick: int) -> None:
        if self.process.mappings:
            mapping = self.process.mappings[pick % len(self.process.mappings)]
            self.process.table.released(mapping.hold)

    def _flush(self, _: int) -> None:
        self.process.flush()

    def _talk(self, pick: int) -> None:
        for step in range(pick):
            self.process.talk(step)

    def _restart(self, _: int) -> None:
        self.process.daemon.restart("")
        self.process.known = False

    def _lose(self, pick: int) -> None:
        self.process.daemon.restart("b" if pick else "a")
        self.process.known = False

    def _silence(self, _: int) -> None:
        self.process.known = False

    def _fork(self, _: int) -> None:
        self.process.fork()
        self.process.known = False

    def _settle(self, _: int) -> None:
        self.process.settle()


def fails(steps: list[Step]) -> bool:
    """Say whether these steps break a rule."""
    try:
        Walk().go(steps)
    except AssertionError:
        return True
    return False


def shortest(steps: list[Step]) -> list[Step]:
    """Leave out, one by one, the steps that are not needed to fail."""
    for i in reversed(range(len(steps))):
        without = steps[:i] + steps[i + 1 :]
        if fails(without):
            return shortest(without)
    return steps


def test_walk() -> None:
    """No hold that is used is lost, and none that is not used stays."""
    for seed in range(WALKS):
        chance = random.Random(seed)  # a test
        steps = [
            (chance.choice(OFTEN), chance.randrange(10), max(0, chance.randrange(-100, 26)))
            for _ in range(LENGTH)
        ]
        assert not fails(steps), f"seed {seed}: {shortest(steps)}"


def test_a_ctrl_c_amid_the_end_of_a_mapping() -> None:
    """A hold that is cut off between its end and its release is given to nobody else."""
    steps = [("ask", 0, 0), ("talk", 6, 0), ("attach", 1, 0), ("ask", 1, 0), ("drop", 0, 0)]
    for moment in range(1, 30):
        rest = [("flush", 0, moment), ("talk", 6, 0), ("attach", 0, 0), ("settle", 0, 0)]
        assert not fails([*steps, *rest]), moment


def test_a_ctrl_c_amid_a_claim() -> None:
    """Wherever it comes, what was attached by the index is held, told of, and given back."""
    before = [("attach_indexed", 0, 0), ("flush", 0, 0), ("talk", 6, 0), ("drop", 0, 0)]
    again = [("attach_indexed", 0, 0), ("flush", 0, 0), ("talk", 6, 0), ("settle", 0, 0)]
    for at in range(len(before)):
        for moment in range(1, 40):
            cut = [(*step[:2], moment if i == at else 0) for i, step in enumerate(before)]
            assert not fails([*cut, ("drop", 0, 0), ("settle", 0, 0)]), (at, moment)
            assert not fails([*cut, *again]), (at, moment)


def test_the_walk_can_fail() -> None:
    """A hold that nobody uses is found, and a Ctrl-C comes where it was asked for."""
    process = Process({"a"})
    process.ask("a")
    for step in range(6):
        process.talk(step)
    (call,) = process.calls
    assert call.seq
    process.table.attached("a", call.seq)  # which is not so
    with contextlib.suppress(AssertionError):
        process.settle()
        raise KeyError("the lost hold was not found")
    for moment in (1, 2):
        with contextlib.suppress(KeyboardInterrupt), interrupt(moment):
            process.table.pending()
            process.table.stated()
            raise KeyError("no Ctrl-C came")
