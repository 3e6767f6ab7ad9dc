"""What the daemon looks after by itself, every few seconds: what comes as no event.

That its lock, its socket and its index are still there; that foreign mappings have gone; that
memory is short; that systemd shows what is held; that the log says what was left out of it; and
that nobody has needed it for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable

from arrayd.errors import ArraydError
from arrayd_server import events, logs, systemd
from arrayd_server.core.registry import Registry
from arrayd_server.segments.scope import Scope
from arrayd_server.service import status_report
from arrayd_server.service.executor import EffectExecutor
from arrayd_server.service.published_index import PublishedIndex
from arrayd_server.service.relief import Relief
from arrayd_server.transport.socket_file import SocketFile

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds between two looks."""


class Upkeep:
    """Looks at all of that; `run` does it for as long as the daemon lives.

    Parameters
    ----------
    scope, registry, executor, index
        What is looked after.
    idle_exit
        Returns the seconds after which a daemon that nobody needs ends; 0: never.
    stop
        Ends the daemon, as if by that signal.
    """

    def __init__(
        self,
        scope: Scope,
        registry: Registry,
        executor: EffectExecutor,
        index: PublishedIndex,
        idle_exit: Callable[[], float],
        stop: Callable[[int], None],
    ) -> None:
        self._scope, self._registry = scope, registry
        self._executor, self._index = executor, index
        self._relief = Relief(registry, executor.act)
        self._idle_exit, self._stop = idle_exit, stop
        self._shown = ""
        self.busy_at = time.monotonic()
        """When somebody last needed the daemon."""

    async def run(self, socket_file: SocketFile) -> None:
        """Look every few seconds, until the daemon has a reason to end or this is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            if not self._has_scope():
                self._stop(signal.SIGUSR1)
                return
            self._index.ensure()
            self._executor.recheck()
            self._relief.look()
            self._tell_systemd()
            logs.LIMIT.tell()
            if self._is_useless(socket_file):
                self._stop(signal.SIGTERM)

    def _tell_systemd(self) -> None:
        line = status_report.summary(self._registry)
        if line != self._shown:
            self._shown = line
            systemd.notify(systemd.status(line))

    def _has_scope(self) -> bool:
        """Say whether our scope is ours still: somebody may have removed its lock."""
        with contextlib.suppress(ArraydError):  # requests that need it get the error
            if not self._scope.regain():
                log.warning(
                    "another daemon has taken over this endpoint: stopping",
                    extra=events.REPLACED.about(),
                )
                return False
        return True

    def _is_useless(self, socket_file: SocketFile) -> bool:
        """Say whether nobody can reach us, or nobody has needed us for long."""
        if not socket_file.is_ours():
            about = events.SOCKET_GONE.about()
            log.warning("the socket %s is gone: stopping", socket_file.path, extra=about)
            return True
        now = time.monotonic()
        blocks = self._registry.blocks
        if self._registry.sessions or len(blocks.idle) < len(blocks.table):
            self.busy_at = now
        idle = now - self.busy_at
        if 0 < self._idle_exit() <= idle:
            about = events.UNNEEDED.about()
            log.info("nobody has needed this daemon for %.0f s: stopping", idle, extra=about)
            return True
        return False
