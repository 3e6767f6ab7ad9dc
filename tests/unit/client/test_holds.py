"""The hold table, walked at random against a naive daemon (`holds_world`).

``ARRAYD_TEST_WALKS=20000`` walks longer, from random seeds.
"""

from __future__ import annotations

import contextlib

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.support.core_strategies import WALKS
from tests.support.holds_world import Process, interrupt

SEGMENTS = ("a", "b")
TROUBLE = ("none",) * 16 + ("silence", "restart", "fork", "a")

segments = st.sampled_from(SEGMENTS)
picks = st.integers(0, 9)
moments = st.one_of(*[st.just(0)] * 4, st.integers(1, 25))


class Walk(RuleBasedStateMachine):
    """Threads that ask, attach, drop and are cut off; a daemon that is slow, or dies."""

    def __init__(self) -> None:
        super().__init__()
        self.process = Process(set(SEGMENTS))

    @rule(segment=segments, moment=moments, steps=st.sampled_from((0, 6, 6)))
    def ask(self, segment: str, moment: int, steps: int) -> None:
        """Begin a call; often the grant comes at once."""
        with contextlib.suppress(KeyboardInterrupt), interrupt(moment):
            self.process.ask(segment)
        for step in range(steps):
            self.process.talk(step)

    @precondition(lambda self: any(call.seq for call in self.process.calls))
    @rule(
        pick=picks, shared=st.booleans(), cut=st.sampled_from((0, 0, 0, 0, 1, 2, 3)), moment=moments
    )
    def attach(self, pick: int, shared: bool, cut: int, moment: int) -> None:
        """Attach what was granted and end the call, or be cut off amid it."""
        granted = [call for call in self.process.calls if call.seq]
        call = granted[pick % len(granted)]
        with contextlib.suppress(KeyboardInterrupt), interrupt(moment):
            try:
                self.process.attach(call, cut, shared=shared)
            finally:
                self.process.end(call)

    @precondition(lambda self: self.process.calls)
    @rule(pick=picks, moment=moments)
    def give_up(self, pick: int, moment: int) -> None:
        """End a call before it has attached anything: a timeout, or a Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt), interrupt(moment):
            self.process.end(self.process.calls[pick % len(self.process.calls)])

    @precondition(lambda self: self.process.mappings)
    @rule(pick=picks)
    def drop(self, pick: int) -> None:
        """Drop an array."""
        self.process.drop(self.process.mappings[pick % len(self.process.mappings)])

    @precondition(lambda self: self.process.mappings)
    @rule(pick=picks, moment=moments)
    def release(self, pick: int, moment: int) -> None:
        """End a hold, whatever arrays there are."""
        mapping = self.process.mappings[pick % len(self.process.mappings)]
        with contextlib.suppress(KeyboardInterrupt), interrupt(moment):
            self.process.table.released(mapping.hold)

    @rule(moment=moments)
    def flush(self, moment: int) -> None:
        """Let the flusher run."""
        with contextlib.suppress(KeyboardInterrupt), interrupt(moment):
            self.process.flush()

    @rule(steps=st.integers(1, 9), moment=moments)
    def talk(self, steps: int, moment: int) -> None:
        """Let messages travel; after a Ctrl-C amid an answer, that is heard again."""
        for step in range(steps):
            with contextlib.suppress(KeyboardInterrupt), interrupt(moment):
                self.process.talk(step)

    @rule(trouble=st.sampled_from(TROUBLE))
    def trouble(self, trouble: str) -> None:
        """Have the daemon die, or fall silent; or go on in a forked child."""
        if trouble == "fork":
            self.process.fork()
        elif trouble not in ("silence", "none"):
            self.process.daemon.restart(trouble)
        self.process.known &= trouble == "none"

    @precondition(lambda self: len(self.process.calls) > 3)
    @rule()
    def settle(self) -> None:
        """Wait until all is quiet."""
        self.process.settle()

    def teardown(self) -> None:
        """At the end, nothing is held that is not used."""
        self.process.settle()


TestWalk = Walk.TestCase
TestWalk.settings = WALKS


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
