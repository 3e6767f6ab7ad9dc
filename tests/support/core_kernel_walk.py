"""The kernel's and the clock's part in the random walk over the core."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from arrayd.wire.grant import Grant
from arrayd_server.core import bounds, effects
from arrayd_server.core.quotas import NO_LIMITS, Limits
from arrayd_server.core.registry import Registry
from tests.support import core_quotas
from tests.support.core_model import Shell, one
from tests.support.core_naive import Naive
from tests.support.core_strategies import PIDS, limits, picks, sessions

none = st.just(NO_LIMITS)


class KernelWalk(RuleBasedStateMachine):
    """What happens without a request: maps and their ends, other programs, time."""

    shell: Shell
    naive: Naive
    registry: Registry

    def __init__(self) -> None:
        super().__init__()
        self.granted: dict[bytes, dict[str, int]] = {nonce: {} for nonce in PIDS}

    def _read(self) -> None:
        """Let the clients read their answers."""
        for reply in self.shell.replies:
            if isinstance(reply.body, Grant):
                self.granted[reply.to.nonce][reply.body.segment] = reply.body.seq

    @property
    def segments(self) -> list[str]:
        """Names that a peer can come up with."""
        return [*sorted(self.shell.kernel.ever), "run-99", "nonsense"]

    # ---- sessions ------------------------------------------------------------------------

    # ---- the kernel ----------------------------------------------------------------------

    @rule(nonce=sessions, pick=picks)
    def attach(self, nonce: bytes, pick: int) -> None:
        """Map what was granted, if it is still there."""
        if self.granted[nonce]:
            self.shell.kernel.attach(one([*self.granted[nonce]], pick), nonce)

    @rule(pick=picks, where=st.sampled_from("fnii"))
    def stranger(self, pick: int, where: str) -> None:
        """Let a client fork, or a stranger map any block, or all idle ones, by name."""
        kernel = self.shell.kernel
        forked = {segment for segment, _ in kernel.mappers}
        found = {"f": forked, "n": kernel.named, "i": self.naive.idle()}[where]
        if found:
            chosen = found if where == "i" else {one(sorted(found), pick)}
            kernel.mappers |= {(segment, "stranger") for segment in chosen}

    @rule(pick=picks)
    def unmapped(self, pick: int) -> None:
        """Let a stranger go."""
        held = sorted(pair for pair in self.shell.kernel.mappers if isinstance(pair[1], str))
        if held:
            self.shell.unmap(*one(held, pick))

    @rule(group=st.sampled_from([*PIDS.values()]))
    def groups(self, group: int) -> None:
        """Let the last of a process group end, or somebody else be left of it after all."""
        self.shell.kernel.groups ^= {group}

    @rule(nonce=sessions)
    def exec(self, nonce: bytes) -> None:
        """Let a process call exec: its mappings go, its session stays."""
        self._unmap_all(nonce)

    def _unmap_all(self, nonce: bytes) -> None:
        for segment, who in sorted(self.shell.kernel.mappers, key=str):
            if who == nonce:
                self.shell.unmap(segment, nonce)

    @rule(when=st.sampled_from(["before", "after"]))
    def ambush(self, when: str) -> None:
        """Let a stranger map the next block between its test and its unlink, or after that."""
        self.shell.ambush = when

    @rule(pick=picks, keeps=st.sampled_from([0, 20, 60, 1000]))
    def crowd(self, pick: int, keeps: int) -> None:
        """Let other programs take room that a block was promised, and keep some of it."""
        self.shell.crowd(1000)
        reserved = effects.Fill | effects.Make
        begun = [job for job, task in self.shell.work.items() if isinstance(task, reserved)]
        if begun:
            self.shell.finish(one(begun, pick))
            self._read()
        self.shell.crowd(keeps)

    @rule(pick=picks)
    def removed(self, pick: int) -> None:
        """Let somebody remove a block's file, as a resource tracker or a logout does."""
        if self.naive.final - self.naive.unlinked:
            segment = one(sorted(self.naive.final - self.naive.unlinked), pick)
            self.shell.kernel.named.discard(segment)

    @rule(pick=picks)
    def inotify(self, pick: int) -> None:
        """Let the daemon read which segments were closed, and look at one at its own will."""
        self.shell.read_closed()
        self.shell.do(lambda segment: [effects.Inspect(segment)], one(self.segments, pick))
        self._read()

    @rule(user=limits | none, group=limits | none)
    def quotas(self, user: Limits, group: Limits) -> None:
        """Let the administrator change what another user may have; what is there may stay."""

        def change_quotas() -> list[effects.Effect]:
            self.registry.blocks.change_quotas(core_quotas.quotas(user, group))
            return []

        self.shell.do(change_quotas)

    @rule(budget=st.sampled_from([100, 100, 60, 200]))
    def budget(self, budget: int) -> None:
        """Let the administrator change the budget; what is there may stay."""
        self.naive.floor, ambush = sum(self.naive.sizes.values()), self.shell.ambush
        event = self.registry.admission.change_budget
        self.shell.do(event, budget, bounds.GIVEN, self.shell.now)
        self._read()
        beyond = self.registry.blocks.charged - self.registry.blocks.bytes_being_freed() - budget
        idle = {s for s in self.naive.idle() if not self.naive.published(s)}
        unused = {s for s in idle - set(self.shell.closed) if not self.naive.is_pinned(s)}
        spares = self.naive.spares - self.naive.unlinked
        # What somebody maps just after its unlink is made up for with the next event.
        assert beyond <= 0 or not unused | spares or ambush, "beyond it for nobody"

    @rule(seconds=st.sampled_from([0.05, 1.0, 5.0, 25.0, 61.0]))
    def sleep(self, seconds: float) -> None:
        """Let time pass, and the alarm ring in time."""
        self.shell.sleep(seconds)
        self._read()

    @rule(seconds=st.sampled_from([0.5, 6.0, 70.0]))
    def oversleep(self, seconds: float) -> None:
        """Let time pass while the daemon is too busy to look at the clock."""
        self.shell.now += seconds
