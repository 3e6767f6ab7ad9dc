"""A daemon and its clients in single steps, for example-based tests of the core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ParamSpec

from arrayd.wire.grant import Grant
from arrayd_server.core.effects import Effect, Reply
from arrayd_server.core.model import Asker, AwaitedItem, Block, Draft, Peer, State, Wanted
from tests.support.core_files import SPEC, File, wanted, wanted_name
from tests.support.core_model import Shell

P = ParamSpec("P")

SMALL, MEDIUM, LARGE, HUGE = (File(f"f{size}", size) for size in (25, 40, 60, 101))


class World(Shell):
    """A shell with sessions ``a`` (pid 1) and ``b`` (pid 2), and every answer ever given."""

    def __init__(self, budget: int = 100, capacity: int | None = None) -> None:
        super().__init__(budget, capacity)
        self.answers: dict[Asker, list[Any]] = {}
        self._asked = 0
        for pid, nonce in enumerate((b"a", b"b"), 1):
            self.hello(nonce, pid)

    def do(
        self, event: Callable[P, list[Effect]], *args: P.args, **kwargs: P.kwargs
    ) -> list[Reply]:
        """Let one event happen, and keep its answers."""
        replies = super().do(event, *args, **kwargs)
        for reply in replies:
            self.answers.setdefault(reply.to, []).append(reply.body)
        return replies

    def asker(self, nonce: bytes, what: Any = None, pin: float = 0.0) -> Asker:
        """Return the asker of a new request."""
        self._asked += 1
        return self.naive.ask(Asker(nonce, self._asked), what, pin)

    def hello(
        self,
        nonce: bytes,
        pid: int,
        holds: Iterable[str] = (),
        latest: int = 0,
        *,
        peer: Peer | None = None,
    ) -> Any:
        """Open a session, or restate its holds; return the answer."""
        to, peer = self.asker(nonce), peer or Peer(7, pid, "py", pid)
        self.naive.sessions.setdefault(nonce, pid)
        self.do(self.registry.hello, to, peer, holds, latest, self.now)
        return self.answer(to)

    def answer(self, to: Asker) -> Any:
        """Return the one answer to a request; None: there is none yet."""
        answers = self.answers.get(to, [])
        assert len(answers) < 2
        return answers[0] if answers else None

    def get(
        self, nonce: bytes, what: File | Wanted | str, timeout: float = 1.0, pin: float = 0.0
    ) -> Asker:
        """Ask for an array."""
        if not isinstance(what, Wanted):
            what = wanted_name(what) if isinstance(what, str) else wanted(what)
        return self.get_again(
            self.asker(nonce, what, pin), what, AwaitedItem(pin=pin, timeout=timeout)
        )

    def get_again(self, to: Asker, what: Wanted, waiter: AwaitedItem) -> Asker:
        """Send a request for an array."""
        self.do(self.registry.get, to, what, waiter, self.now)
        return to

    def work_off(self) -> None:
        """Let all work end well."""
        while self.work:
            self.finish(next(iter(self.work)))

    def load(
        self, nonce: bytes, what: File | Wanted, pin: float = 0.0, *, maps: bool = True
    ) -> Grant:
        """Have an array loaded, and map it."""
        to = self.get(nonce, what, pin=pin)
        self.work_off()
        grant = self.answer(to)
        assert isinstance(grant, Grant), grant
        if maps:
            self.kernel.attach(grant.segment, nonce)
        return grant

    def release(self, nonce: bytes, grant: Grant, *, unmaps: bool = True) -> None:
        """Let go of an array."""
        if unmaps:
            self.unmap(grant.segment, nonce)
        self.naive.release(nonce, grant.segment, grant.seq)
        self.do(self.registry.release, nonce, [(grant.segment, grant.seq, 0)], self.now)

    def cache(self, what: File, pin: float = 0.0) -> str:
        """Have an idle block; return its segment."""
        grant = self.load(b"a", what, pin)
        self.release(b"a", grant)
        return grant.segment

    def end(self, nonce: bytes) -> None:
        """Let a process die."""
        for segment, who in list(self.kernel.mappers):
            if who == nonce:
                self.unmap(segment, who)
        self.naive.end(nonce)
        self.do(self.registry.ended, nonce, self.now)

    def cancel(self, to: Asker) -> None:
        """Give up waiting."""
        self.naive.excuse(to.__eq__)
        self.do(self.registry.cancel, to.nonce, to.request, self.now)

    def create(
        self,
        nonce: bytes,
        size: int = 25,
        name: str | None = None,
        *,
        keep: bool = False,
        replace: bool = False,
    ) -> Asker:
        """Ask for a block to write."""
        draft = Draft(SPEC, size, f"name:{name}", name, keep, replace)
        to = self.asker(nonce, draft)
        self.do(self.registry.create, to, draft, 1.0, self.now)
        return to

    def write(self, nonce: bytes, size: int = 25, name: str | None = None, **how: bool) -> Grant:
        """Have a block to write, and map it."""
        to = self.create(nonce, size, name, **how)
        self.work_off()
        grant = self.answer(to)
        assert isinstance(grant, Grant), grant
        self.kernel.attach(grant.segment, nonce)
        return grant

    def seal(self, nonce: bytes, segment: str) -> Asker:
        """Ask to seal a block."""
        to = self.asker(nonce)
        self.do(self.registry.seal, to, segment, self.now)
        return to

    def publish(self, nonce: bytes, name: str, size: int = 25, **how: bool) -> Grant:
        """Write, seal and map a block; return the grant after the seal."""
        to = self.seal(nonce, self.write(nonce, size, name, **how).segment)
        self.work_off()
        grant = self.answer(to)
        assert isinstance(grant, Grant), grant
        return grant

    def evict(self, segment: str | None = None) -> Asker:
        """Ask for the memory of one block, or of all."""
        to = self.asker(b"a")
        self.naive.evicting = True
        self.do(self.registry.evict, to, lambda b: segment in (None, b.segment))
        self.naive.evicting = False
        return to

    def free_all(self) -> None:
        """Let the kernel have the pages of everything unlinked."""
        while self.closing:
            self.free()

    def adopt(self, block: Block, *, mapped: bool = False) -> None:
        """Take over what an earlier run left."""
        self.naive.adopt(block, mapped)
        self.do(self.registry.adopt, block, self.now)

    def block(self, segment: str) -> Block:
        """Return a block of the registry."""
        return self.registry.blocks.table[segment]

    def state(self, segment: str) -> State | None:
        """Return the state of a block; None: it is gone."""
        block = self.registry.blocks.table.get(segment)
        return None if block is None else block.state
