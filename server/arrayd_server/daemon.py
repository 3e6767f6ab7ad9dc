"""The daemon: one loop that receives, decides in the core, and performs.

request → `transport` (decode) → `service.handlers` (meaning) → `core.registry` (decision) →
effects → `service.executor` (segments, workers), `service.sessions` (answers). Nothing slow runs
on the loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from arrayd.common import failpoints, proc
from arrayd.errors import ArraydError, DaemonError
from arrayd.wire import protocol
from arrayd.wire.requests import Request
from arrayd_server import events, logs, systemd
from arrayd_server.config import Config
from arrayd_server.core import shutdown
from arrayd_server.core.effects import Answer, Unlink
from arrayd_server.core.model import Asker, Peer
from arrayd_server.core.registry import Registry
from arrayd_server.core.streams import Streams
from arrayd_server.kernel import leases
from arrayd_server.loading import early_start
from arrayd_server.loading.fork_server import ForkServer
from arrayd_server.loading.worker_pool import Pool
from arrayd_server.metrics import http_server
from arrayd_server.metrics.meter import Meter
from arrayd_server.metrics.observation import Observation
from arrayd_server.reloading import Reloading, has_terminal
from arrayd_server.segments.outcome import Outcome
from arrayd_server.segments.scope import Scope
from arrayd_server.segments.store import Segments
from arrayd_server.service import status_report
from arrayd_server.service.executor import EffectExecutor
from arrayd_server.service.gate import Gate
from arrayd_server.service.handlers import HANDLERS, WITHOUT_ANSWER, WITHOUT_SESSION
from arrayd_server.service.health import HealthCheck
from arrayd_server.service.published_index import PublishedIndex
from arrayd_server.service.reception import Reception
from arrayd_server.service.service import Service
from arrayd_server.service.sessions import Sessions
from arrayd_server.streams.readers import ReaderPool
from arrayd_server.takeover import Takeover
from arrayd_server.transport import peers
from arrayd_server.transport.server import PeerConnection, Server
from arrayd_server.transport.socket_file import SocketFile
from arrayd_server.upkeep import Upkeep

log = logging.getLogger(__name__)

SETTLED = 5.0
"""Seconds after which a shared daemon starts its fork server: it is no daemon of a moment."""

PARTING = 1.0
"""Seconds that a stop waits for clients that said goodbye to unmap their blocks."""


class Daemon:
    """Everything that lives as long as the daemon does; `run` is its life.

    Parameters
    ----------
    config
        The options.
    scope
        Entered: its lock is ours.
    read
        Returns the options as they are now, for a reload.
    passed
        The socket, if a socket unit has made it.
    metrics
        The sockets for metrics that one has made.
    """

    def __init__(
        self,
        config: Config,
        scope: Scope,
        read: Callable[[], Config],
        passed: socket.socket | None = None,
        metrics: Sequence[socket.socket] = (),
    ) -> None:
        self._config = config
        self._read_options = read
        self._reloading: Reloading
        self._passed = passed
        self._scope = scope
        self._started = time.monotonic()
        self._segments = Segments(scope)
        self._registry = Registry(scope.name, config.budget, config.budget.bound)
        self._registry.holds.spares.seconds = config.keep_pages
        self._registry.blocks.change_quotas(config.limits)
        self._sessions: Sessions
        self._executor: EffectExecutor
        self._metrics_sockets = [*metrics]
        self._observation: Observation | None = None
        self._upkeep: Upkeep
        self._takeover: Takeover | None = None
        self._service: Service
        self._index: PublishedIndex
        self._reception: Reception
        self._server: Server
        self._forks: ForkServer
        self._pool: Pool
        self._readers: ReaderPool
        self._stopping = asyncio.Event()
        self._signal = 0
        self._socket_file: SocketFile

    async def run(self) -> None:
        """Serve until a signal, `stop`, or (private) until nobody needs us."""
        loop = asyncio.get_running_loop()
        leases.ignore_sigio()
        early_start.raise_descriptor_limit()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            loop.add_signal_handler(number, self.stop, number)
        # The hang-up of one's own terminal is no request.
        hung_up = (self.stop, signal.SIGTERM) if has_terminal() else (self._reload,)
        loop.add_signal_handler(signal.SIGHUP, *hung_up)
        self._forks = ForkServer(loop, early_start.MODULES)
        self._pool = Pool(
            self._forks,
            self._config.workers,
            timeout=self._config.load_timeout,
            memory=self._config.loader_memory,
        )
        self._readers = ReaderPool(
            self._forks, timeout=self._config.load_timeout, memory=self._config.loader_memory
        )
        if self._config.metrics_listen is not None:
            self._metrics_sockets.append(http_server.listen(*self._config.metrics_listen))
        if self._metrics_sockets or self._config.metrics_textfile is not None:
            wanted = (self._config.metrics_textfile, self._metrics_sockets)
            self._observation = Observation(loop, *wanted)
        self._make_service(loop)
        listening = (self._config.endpoint, self._on_request, self._on_close)
        mode = self._config.callers.socket_mode
        self._server = Server(loop, *listening, self._passed, mode=mode)
        self._sessions.server = self._server
        path, passed = self._config.endpoint.removeprefix("ipc://"), self._passed is not None
        self._socket_file = SocketFile(path, passed=passed)
        await self._take_over()
        if self._observation is not None:
            garbage = lambda: self._server.garbage  # noqa: E731
            self._observation.begin(self._registry, self._service.streams, garbage)
        # Whoever started a private one is about to ask it for something.
        loop.call_later(0 if self._config.private else SETTLED, self._forks.start)
        failpoints.hit("daemon.bound")
        version, endpoint = protocol.PACKAGE_VERSION, self._config.endpoint
        log.info("arrayd %s serves %s", version, endpoint, extra=events.STARTED.about())
        systemd.notify(systemd.READY, systemd.status(status_report.summary(self._registry)))
        upkeep = loop.create_task(self._upkeep.run(self._socket_file))
        watched = loop.create_task(systemd.feed_watchdog())
        try:
            await self._stopping.wait()
        finally:
            upkeep.cancel()
            await self._end()
            watched.cancel()

    def stop(self, number: int) -> None:
        """Stop: SIGUSR1 hands over to the next run, anything else frees what it can."""
        self._signal = number
        self._stopping.set()

    def _reload(self) -> None:
        """Read the options again; what cannot change while we run waits for a restart."""
        self._config = self._reloading.reload(self._config)
        self._socket_file.set_mode(self._config.callers.socket_mode)

    def _make_service(self, loop: asyncio.AbstractEventLoop) -> None:
        registry, segments, config = self._registry, self._segments, self._config
        about_us: dict[str, Any] = {
            "pid": os.getpid(),
            "uid": os.geteuid(),
            "version": protocol.PACKAGE_VERSION,
            "run": self._scope.run,
            "leases": segments.leases,
        }
        if segments.leases:  # else the registry alone knows who uses a block
            about_us["index"] = self._scope.index_path
        streams = Streams(registry, secrets.token_bytes(16), os.getpid())
        sessions = Sessions(loop, registry, streams, config.max_clients, about_us, self._on_death)
        self._index = PublishedIndex(registry.blocks, self._scope.index_path)
        meter = self._meter
        answer = sessions.answer if meter is None else meter.watching(sessions.answer)
        on_ended = None if meter is None else meter.load_ended
        shells = (segments, self._index, self._pool, self._readers, answer, on_ended)
        executor = EffectExecutor(loop, registry, streams, *shells, check=config.check)
        self._sessions, self._executor = sessions, executor
        kept = (self._scope, registry, executor, self._index)
        self._upkeep = Upkeep(*kept, lambda: self._config.idle_exit, self.stop)
        self._reception = Reception(config.callers, Gate(loop, config.roots), self._on_vetted)
        who = (executor, sessions, self._reception, self._pool, self._readers)
        self._reloading = Reloading(self._read_options, registry, *who)
        means = (executor.update_headroom, self.stop, self._facts, self._caller)
        health = HealthCheck(registry, streams)
        others = lambda: self._config.callers.allow.words != "none"  # noqa: E731 - as short
        self._service = Service(registry, streams, sessions, *means, health, others)

    @property
    def _meter(self) -> Meter | None:
        """What counts requests, if metrics are wanted."""
        return None if self._observation is None else self._observation.meter

    def _facts(self) -> status_report.Facts:
        return status_report.Facts(
            self._config.private,
            self._started,
            self._config.endpoint,
            self._scope.id,
            self._segments.leases,
            self._server.garbage,
            self._sessions.draining,
        )

    # ---- requests ------------------------------------------------------------------------

    def _on_request(self, request: Request, route: PeerConnection, peer: peers.Address) -> None:
        if self._takeover is not None:
            self._takeover.keep_waiting(request, route, self._server)
            return
        if self._stopping.is_set():
            return  # the client sees us die, and asks the next daemon
        now = time.monotonic()
        if self._meter is not None:
            self._meter.request(request, answered=request.op not in WITHOUT_ANSWER)
        try:
            failpoints.hit("daemon.request")
            self._reception.check(route.credentials, peer.pid)
            refused = self._registry.admit(request.nonce, peer.pid, peer.uid)
            if isinstance(refused, ArraydError):
                raise refused
            if request.op == "hello":
                self._hello(request, route, now)
            elif refused is None or request.op in WITHOUT_SESSION:
                self._sessions.heard(request.nonce, route)
                self._handle(request, route, now)
            elif request.op not in WITHOUT_ANSWER:
                self._send(request, route, refused)
        except Exception as error:
            self._fail(request, route, error)
        self._sessions.drop_unknown(request.nonce)

    def _fail(self, request: Request, route: PeerConnection, error: Exception) -> None:
        """Answer a request that cannot be served."""
        if not isinstance(error, ArraydError):
            who = route.address
            text = "request %s from pid %d: a bug in arrayd"
            about = events.BUG.about(uid=who.uid, pid=who.pid)
            log.error(text, request.op, who.pid, exc_info=error, extra=about)
            error = DaemonError(f"The daemon failed at {request.op}: a bug in arrayd; see its log.")
        self._send(request, route, error)

    def _send(self, request: Request, route: PeerConnection, answer: Answer) -> None:
        """Answer a request that the core has nothing to do with."""
        if self._meter is not None:
            self._meter.answered(request.nonce, request.id, answer)
        self._sessions.send(route, request.id, answer)

    def _caller(self, nonce: bytes) -> Peer:
        """Return who asks by a session, open or not."""
        session = self._registry.sessions.get(nonce)
        return session.peer if session else self._reception.peer(self._sessions.route(nonce))

    def _hello(
        self,
        request: Request,
        route: PeerConnection,
        now: float,
    ) -> None:
        fields = request.fields
        if fields["shm"] != proc.shared_memory():
            raise DaemonError(
                "You and the daemon see different /dev/shm (a container, PrivateIPC=): blocks "
                "cannot be shared. Mount the host's /dev/shm, or run a daemon inside."
            )
        known = self._reception.peer(route)
        self._sessions.open(request.nonce, route, fields["start"], known)
        who = dataclasses.replace(
            known,
            program=fields["program"][:80],
            version=(fields["version"] or "")[:40],
            members=bool(fields["members"]),
        )
        to = Asker(request.nonce, request.id)
        self._upkeep.busy_at = now
        holds = self._sessions.statable(request.nonce, fields["holds"])
        self._executor.take(self._registry.hello, to, who, holds, fields["latest"], now)
        failpoints.hit("daemon.welcomed")

    def _handle(self, request: Request, route: PeerConnection, now: float) -> None:
        if request.nonce in self._registry.sessions:
            self._upkeep.busy_at = now  # its goodbye as well: idle time counts from there
        if self._reception.lets_in(request, route, self._caller(request.nonce)):
            self._executor.take(HANDLERS[request.op], self._service, request, now)

    def _on_vetted(self, request: Request, route: PeerConnection) -> None:
        """Serve a request of another user, now that it is known what that user may read."""
        if self._stopping.is_set() or request.nonce not in self._registry.sessions:
            return
        with self._server.counted(route):
            try:
                self._executor.take(HANDLERS[request.op], self._service, request, time.monotonic())
            except Exception as error:
                self._fail(request, route, error)

    def _on_close(self, route: PeerConnection) -> None:
        if self._takeover is not None:
            self._takeover.forget(route)
        self._sessions.disconnected(route)

    def _on_death(self, nonce: bytes) -> None:
        log.debug("session of pid %d ended with its process", self._sessions.pid_of(nonce))
        self._upkeep.busy_at = time.monotonic()
        self._executor.take(self._sessions.end, nonce, self._upkeep.busy_at)

    # ---- life ----------------------------------------------------------------------------

    async def _take_over(self) -> None:
        """Take over what an earlier run of this scope left, then serve who waits for that."""
        parts = (self._segments, self._registry, self._executor)
        self._takeover = Takeover(*parts, lambda: self._signal == signal.SIGUSR1)
        hellos = await self._takeover.run()
        if self._stopping.is_set():
            return  # who waits goes on waiting, for the next run
        if self._segments.leases:
            self._index.publish()
        self._takeover = None
        for route, hello in hellos.items():
            self._on_request(hello, route, route.address)

    async def _end(self) -> None:
        systemd.notify(systemd.STOPPING)
        self._pool.close()
        self._readers.close()
        self._forks.close()
        failpoints.hit("daemon.ending")
        hand_over = self._signal == signal.SIGUSR1
        self._index.close(hand_over=hand_over)
        unlinks = shutdown.last_unlinks(self._registry.blocks, hand_over=hand_over)
        await self._remove(unlinks)
        if self._observation is not None:
            self._observation.close()
        self._server.close()
        self._reception.close()
        self._sessions.close()
        self._executor.close()
        self._socket_file.remove()
        logs.LIMIT.tell(0.0)
        log.info("ended", extra=events.ENDED.about())

    async def _remove(self, unlinks: Iterable[Unlink]) -> None:
        """Perform the last effects: what nobody holds may still be mapped for a moment.

        While one block is waited for, others may go by themselves: their last user has gone.
        """
        deadline, freed = time.monotonic() + PARTING, 0
        for segment, force in ((unlink.segment, unlink.force) for unlink in unlinks):
            block, _ = self._registry.block(segment)
            if block is None:
                continue
            failpoints.hit("daemon.freeing")
            outcome, fd = self._segments.unlink(segment, force=force)
            while outcome is Outcome.REFUSED and not block.holders and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
                outcome, fd = self._segments.unlink(segment, force=force)
            if fd >= 0:
                os.close(fd)
            freed += outcome is Outcome.GONE
            level = logging.DEBUG if outcome is Outcome.GONE else logging.INFO
            log.log(level, "%s: %s", block.identity, outcome.value)
        log.info("freed blocks: %d", freed)
