"""The daemon: one loop that receives, decides in the core, and performs.

request → `wire` (decode) → `requests` (meaning) → `core.registry` (decision) → effects →
`perform` (segments, workers, answers). Nothing slow runs on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import time
from collections.abc import Iterable

from arrayd.common import failpoints, proc
from arrayd.errors import AccessDenied, ArraydError, DaemonError
from arrayd.wire import layout, protocol
from arrayd.wire.grant import Grant
from arrayd_server import systemd
from arrayd_server.config import Config
from arrayd_server.core import shutdown
from arrayd_server.core.effects import Answer, Reply, ReportProgress, Unlink
from arrayd_server.core.model import Asker, Peer
from arrayd_server.core.registry import Registry
from arrayd_server.kernel import leases
from arrayd_server.loading.worker_pool import Pool
from arrayd_server.segments import adoption, block_metadata
from arrayd_server.segments.scope import Scope
from arrayd_server.segments.store import Outcome, Segments
from arrayd_server.service import status_report
from arrayd_server.service.executor import Performer
from arrayd_server.service.handlers import HANDLERS, WITHOUT_ANSWER, WITHOUT_SESSION
from arrayd_server.service.sessions import message
from arrayd_server.transport import peers
from arrayd_server.transport.server import PeerConnection, Server

log = logging.getLogger(__name__)

HOUSEKEEPING = 1.0
"""Seconds between looks at what nobody reports: our socket's path, idleness, strays."""

MISSED = 60.0
"""Seconds without a connection after which a session whose process we cannot see has ended."""

PARTING = 1.0
"""Seconds that a stop waits for processes without a session to unmap what they had."""


class Daemon:
    """Everything that lives as long as the daemon does; `run` is its life.

    Parameters
    ----------
    config
        The options.
    scope
        Entered: its lock is ours.
    """

    def __init__(self, config: Config, scope: Scope) -> None:
        self.config = config
        self.scope = scope
        self.started = time.monotonic()
        self.segments = Segments(scope)
        self.registry = Registry(scope.prefix, config.budget, config.budget.bound)
        self.performer: Performer
        self.wire: Server
        self._peers: peers.Peers
        self._pool: Pool
        self._routes: dict[bytes, PeerConnection] = {}  # session -> the latest way to it
        self._busy_at = self.started
        self._stopping = asyncio.Event()
        self._signal = 0
        self._socket_path = config.endpoint.removeprefix("ipc://")
        self._socket_stat: os.stat_result

    async def run(self) -> None:
        """Serve until a signal, `stop`, or (private) until nobody needs us."""
        loop = asyncio.get_running_loop()
        leases.ignore_sigio()
        _raise_descriptor_limit()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            loop.add_signal_handler(number, self.stop, number)
        self._pool = Pool(
            loop,
            self.config.workers,
            timeout=self.config.load_timeout,
            memory=self.config.loader_memory,
        )
        self._peers = peers.Peers(loop, self.config.max_clients, self._on_death)
        self.performer = Performer(
            loop, self.registry, self.segments, self._pool, self._answer, check=self.config.check
        )
        self._adopt()
        self.wire = Server(loop, self.config.endpoint, self._on_request, self._on_gone)
        self._socket_stat = os.stat(self._socket_path)
        if self.config.private:
            self._pool.warm()
        failpoints.hit("daemon.bound")
        log.info("arrayd %s serves %s", protocol.PACKAGE_VERSION, self.config.endpoint)
        systemd.notify(systemd.READY, systemd.status(status_report.summary(self)))
        keeper = loop.create_task(self._keep_house())
        try:
            await self._stopping.wait()
        finally:
            keeper.cancel()
            await self._end()

    def stop(self, number: int) -> None:
        """Stop: SIGUSR1 hands over to the next run, anything else frees what it can."""
        self._signal = number
        self._stopping.set()

    def pid_of(self, nonce: bytes) -> int:
        """Return the process of a session; 0 for an unknown one."""
        session = self.registry.sessions.get(nonce)
        return session.peer.pid if session else 0

    def forget(self, nonce: bytes) -> None:
        """Forget the way to a session that ends."""
        self._routes.pop(nonce, None)
        self._peers.forget(nonce, self.pid_of(nonce))

    # ---- requests ------------------------------------------------------------------------

    def _on_request(
        self, request: protocol.Request, route: PeerConnection, peer: peers.Address
    ) -> None:
        if self._stopping.is_set():
            return  # the client sees us die, and asks the next daemon
        now = time.monotonic()
        try:
            failpoints.hit("daemon.request")
            self._check_user(peer)
            refused = self.registry.admit(request.nonce, peer.pid)
            if isinstance(refused, ArraydError):
                raise refused
            if request.op == "hello":
                self._hello(request, route, peer, now)
            elif refused is None or request.op in WITHOUT_SESSION:
                self._routes[request.nonce] = route
                self._handle(request, now)
            elif request.op not in WITHOUT_ANSWER:
                self._send(route, request.id, 0, refused)
        except ArraydError as error:
            self._send(route, request.id, 0, error)
        except Exception:
            log.exception("request %s from pid %d: a bug in arrayd", request.op, peer.pid)
            bug = DaemonError(f"The daemon failed at {request.op}: a bug in arrayd; see its log.")
            self._send(route, request.id, 0, bug)
        if request.nonce not in self.registry.sessions:
            self._routes.pop(request.nonce, None)

    def _check_user(self, peer: peers.Address) -> None:
        """Refuse other users."""
        if peer.uid != os.geteuid():
            raise AccessDenied(
                f"This daemon serves user {os.geteuid()} only, and you are user {peer.uid}. "
                "Start one of your own: unset ARRAYD_ENDPOINT, or ARRAYD_ENDPOINT=private."
            )

    def _hello(
        self,
        request: protocol.Request,
        route: PeerConnection,
        peer: peers.Address,
        now: float,
    ) -> None:
        fields = request.fields
        if fields["shm"] != proc.shared_memory():
            raise DaemonError(
                "You and the daemon see different /dev/shm (a container, PrivateIPC=): blocks "
                "cannot be shared. Mount the host's /dev/shm, or run a daemon inside."
            )
        self._peers.watch(request.nonce, peer.pid, fields["start"], route.sock)
        self._routes[request.nonce] = route
        group, version = peers.group_of(peer.pid), (fields["version"] or "")[:40]
        who = Peer(peer.uid, peer.pid, fields["program"][:80], group, version)
        to = Asker(request.nonce, request.id)
        self._busy_at = now
        self.performer.take(self.registry.hello, to, who, fields["holds"], fields["latest"], now)
        failpoints.hit("daemon.welcomed")

    def _handle(self, request: protocol.Request, now: float) -> None:
        if request.nonce in self.registry.sessions:
            self._busy_at = now  # its goodbye as well: idle time counts from there
        self.performer.take(HANDLERS[request.op], self, request, now)

    def _answer(self, to: Asker, effect: Reply | ReportProgress) -> None:
        route = self._routes.get(to.nonce)
        if route is None:
            return
        if isinstance(effect, ReportProgress):
            self.wire.send(route, to.request, to.index, progress=[effect.done, effect.total])
            return
        granted = isinstance(effect.body, Grant)
        if granted:
            failpoints.hit("daemon.granting")
        self._send(route, to.request, to.index, effect.body)
        if granted:
            failpoints.hit("daemon.granted")

    def _send(self, route: PeerConnection, number: int, index: int, answer: Answer) -> None:
        self.wire.send(route, number, index, **message(answer, self._about_us()))

    def _about_us(self) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "version": protocol.PACKAGE_VERSION,
            "run": self.scope.run,
            "leases": self.segments.leases,
        }

    def _on_death(self, nonce: bytes) -> None:
        log.debug("session of pid %d ended with its process", self.pid_of(nonce))
        self._routes.pop(nonce, None)
        self._busy_at = time.monotonic()
        self.performer.take(self.registry.ended, nonce, self._busy_at)

    def _on_gone(self, route: PeerConnection) -> None:
        """Wait for the clients of a connection that broke; a pidfd knows better, if there is one.

        There is none for a process of a PID namespace that is none of ours.
        """
        if route.address.pid == 0 and not self._stopping.is_set():
            asyncio.get_running_loop().call_later(MISSED, self._miss, route)

    def _miss(self, route: PeerConnection) -> None:
        for nonce in [nonce for nonce, other in self._routes.items() if other is route]:
            self._peers.forget(nonce, 0)
            self._on_death(nonce)

    # ---- life ----------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Take over what an earlier run of this scope left."""
        now = time.monotonic()
        for found in adoption.scan(self.segments):
            try:
                block = block_metadata.adopted(found, self.registry.blocks.new_number(), now)
            except layout.NewerSegment as error:
                log.warning("%s is left alone: %s", found.name, error)
                self.segments.disown(found.name)
                continue
            except ValueError as error:
                log.warning("%s is not usable (%s): removed", found.name, error)
                self.segments.discard(found.name)
                continue
            log.info("adopted %s: %s", found.name, block.identity)
            self.performer.act(self.registry.adopt(block, now))
            failpoints.hit("daemon.adopting")

    async def _keep_house(self) -> None:
        shown = ""
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            if not self._has_scope():
                self.stop(signal.SIGUSR1)
                return
            self.performer.recheck()
            line = status_report.summary(self)
            if line != shown:
                shown = line
                systemd.notify(systemd.status(line))
            if self._useless():
                self.stop(signal.SIGTERM)

    def _has_scope(self) -> bool:
        """Say whether our scope is ours still: somebody may have removed its lock."""
        with contextlib.suppress(ArraydError):  # it cannot be made anew: who needs it is told
            if not self.scope.regain():
                log.warning("another daemon has taken over this endpoint: stopping")
                return False
        return True

    def _useless(self) -> bool:
        """Say whether nobody can reach us, or nobody has needed us for `idle_exit` seconds."""
        if not self._socket_is_ours():
            log.warning("the socket %s is gone: stopping", self._socket_path)
            return True
        now = time.monotonic()
        blocks = self.registry.blocks
        if self.registry.sessions or len(blocks.idle) < len(blocks.table):
            self._busy_at = now
        idle = now - self._busy_at
        if 0 < self.config.idle_exit <= idle:
            log.info("nobody has needed this daemon for %.0f s: stopping", idle)
            return True
        return False

    async def _end(self) -> None:
        systemd.notify(systemd.STOPPING)
        self._pool.close()
        failpoints.hit("daemon.ending")
        hand_over = self._signal == signal.SIGUSR1
        unlinks = shutdown.last_unlinks(self.registry.blocks, hand_over=hand_over)
        await self._remove(unlinks)
        self.wire.close()
        self._peers.close()
        self.performer.close()
        if self._socket_is_ours():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._socket_path)
        log.info("ended")

    def _socket_is_ours(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._socket_path), self._socket_stat)
        except FileNotFoundError:
            return False

    async def _remove(self, unlinks: Iterable[Unlink]) -> None:
        """Perform the last effects: what nobody holds may still be mapped for a moment."""
        deadline = time.monotonic() + PARTING
        for segment, force in ((unlink.segment, unlink.force) for unlink in unlinks):
            block, _ = self.registry.block(segment)
            assert block is not None
            failpoints.hit("daemon.freeing")
            outcome, fd = self.segments.unlink(segment, force=force)
            while outcome is Outcome.REFUSED and not block.holders and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
                outcome, fd = self.segments.unlink(segment, force=force)
            if fd >= 0:
                os.close(fd)
            log.info("%s: %s", block.identity, outcome.value)


def _raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard one: libzmq aborts when descriptors run out."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
