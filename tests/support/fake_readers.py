"""The daemon's loop with real segments, and readers that do what a test says."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from arrayd.wire import protocol
from arrayd.wire.requests import parse_request
from arrayd_server.core.effects import Reply, ReportProgress
from arrayd_server.core.model import Asker, Peer
from arrayd_server.core.registry import Registry
from arrayd_server.core.streams import Streams
from arrayd_server.loading.fork_server import ForkServer
from arrayd_server.loading.worker_pool import Pool
from arrayd_server.segments.scope import Scope
from arrayd_server.segments.store import Segments
from arrayd_server.service import status_report
from arrayd_server.service.executor import EffectExecutor
from arrayd_server.service.handlers import HANDLERS
from arrayd_server.service.health import HealthCheck
from arrayd_server.service.published_index import PublishedIndex
from arrayd_server.service.service import Service
from arrayd_server.service.sessions import Sessions
from arrayd_server.stream_identity import StreamIdentity
from arrayd_server.streams.readers import OnFailed, OnRead, OnReady, ReaderPool

ME, YOU = b"m" * 16, b"y" * 16

OPEN: dict[str, Any] = {
    "manifest": "/data/train.manifest",
    "stat": [1, 2, 3, 4, 5],
    "ids": None,
    "start": 0,
    "stop": 100,
    "seed": 7,
    "kind": "exact",
    "block": 1,
    "buffer": 1,
    "fields": [["x", "<f8", [3], "<f4"], ["y", "<i4", [], None]],
    "overflow": "error",
    "slots": 64,
    "batch": 4,
    "position": 0,
    "limit": None,
    "consumers": 1,
    "grace": 30.0,
    "share": 0,
    "scratch": None,
    "windowed": None,
}
"""The fields of a typical ``stream.open``."""


class FakeReaders(ReaderPool):
    """Readers that remember what they are asked for; a test answers for them."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.identity: StreamIdentity
        self.on_ready: OnReady
        self.on_read: OnRead
        self.on_failed: OnFailed

    def start(
        self,
        stream: int,
        identity: StreamIdentity,
        segment_path: str,
        share_path: str | None,
        *,
        on_ready: OnReady,
        on_read: OnRead,
        on_failed: OnFailed,
    ) -> None:
        """Start a reader."""
        sizes = [os.stat(path).st_size for path in (segment_path, share_path) if path]
        self.said.append(("start", stream, *sizes))
        self.identity = identity
        self.on_ready, self.on_read, self.on_failed = on_ready, on_read, on_failed

    def read(self, stream: int, start: int, stop: int) -> None:
        """Ask for a window."""
        self.said.append(("read", stream, start, stop))

    def change_ring(self, stream: int, segment_path: str, generation: int) -> None:
        """Change the ring."""
        assert os.path.exists(segment_path)
        self.said.append(("change", stream, generation))

    def stop(self, stream: int) -> None:
        """End a reader."""
        self.said.append(("stop", stream))

    def close(self) -> None:
        """End all."""


class Bench:
    """A daemon without sockets: requests go in, answers come out; two sessions are open."""

    def __init__(self, scope: Scope, readers: FakeReaders) -> None:
        self.loop = asyncio.new_event_loop()
        self.segments = Segments(scope)
        self.registry = Registry(scope.name, 1 << 24)
        self.streams = Streams(self.registry, bytes(range(16)), os.getpid())
        pool = Pool(ForkServer(self.loop, ()), 1, timeout=1.0, memory=1 << 30)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        index = PublishedIndex(self.registry.blocks, scope.index_path)
        shells = (self.segments, index, pool, readers, self._answer)
        self.executor = EffectExecutor(self.loop, self.registry, self.streams, *shells, check=True)
        self.sessions = Sessions(self.loop, self.registry, self.streams, 9, {}, lambda _: None)
        self._service = Service(
            self.registry,
            self.streams,
            self.sessions,
            self.executor.update_headroom,
            lambda _: None,
            cast(Callable[[], status_report.Facts], None),  # nobody asks for the status here
            lambda nonce: self.registry.sessions[nonce].peer,
            HealthCheck(self.registry, self.streams),
        )
        self._requests = 0
        for nonce in (ME, YOU):
            peer = Peer(os.geteuid(), os.getpid(), "train.py")
            now = time.monotonic()
            self.executor.take(self.registry.hello, Asker(nonce, 0), peer, [], 0, now)

    def _answer(self, effects: Sequence[Reply | ReportProgress]) -> None:
        for effect in effects:
            assert isinstance(effect, Reply)
            if effect.to.request in self._answers:
                self._answers[effect.to.request].set_result(effect.body)

    def ask(self, op: str, nonce: bytes = ME, **fields: Any) -> int:
        """Send a request; return its number."""
        self._requests += 1
        frame = protocol.request(nonce, self._requests, op, **fields)
        request = parse_request(protocol.decode(frame))
        self._answers[request.id] = self.loop.create_future()
        self.executor.take(HANDLERS[op], self._service, request, time.monotonic())
        return request.id

    def answer(self, number: int) -> Any:
        """Return the answer to a request, which may be still to come."""
        waits = asyncio.wait_for(self._answers[number], 20.0)
        return self.loop.run_until_complete(waits)

    def answered(self, number: int) -> bool:
        """Say whether there is an answer yet."""
        return self._answers[number].done()

    def call(self, op: str, nonce: bytes = ME, **fields: Any) -> Any:
        """Send a request; return its answer."""
        return self.answer(self.ask(op, nonce, **fields))

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Let the loop run until something has happened, for 20 s at most."""

        async def watch() -> None:
            while not condition():
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(watch(), 20.0))

    def end(self, nonce: bytes) -> None:
        """Let a session end."""
        self.executor.take(self.sessions.end, nonce, time.monotonic())

    def status(self) -> dict[str, Any]:
        """Return what a status says."""
        facts = status_report.Facts(False, 0.0, "ipc:///sock", "0" * 10, True, 0)
        peer = self.registry.sessions[ME].peer
        return status_report.build(self.registry, self.streams, facts, peer, time.monotonic())

    def close(self) -> None:
        """Let all end, and the loop with it."""
        for nonce in (ME, YOU):
            self.end(nonce)
        self.sessions.close()
        self.executor.close()
        self.loop.close()
