"""A reload: the options are read again, and those that can change take effect at once."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable

from arrayd_server import events, logs, systemd
from arrayd_server.config import TABLE, Config
from arrayd_server.config_file import ConfigError
from arrayd_server.core.registry import Registry
from arrayd_server.loading.worker_pool import Pool
from arrayd_server.service import status_report
from arrayd_server.service.executor import EffectExecutor
from arrayd_server.service.reception import Reception
from arrayd_server.service.sessions import Sessions
from arrayd_server.streams.readers import ReaderPool

log = logging.getLogger(__name__)


class Reloading:
    """What a reload does, and to whom.

    Parameters
    ----------
    read
        Returns the options as they are written now, or raises a ConfigError.
    registry, executor, sessions, reception, pool, readers
        Who has options.
    """

    def __init__(
        self,
        read: Callable[[], Config],
        registry: Registry,
        executor: EffectExecutor,
        sessions: Sessions,
        reception: Reception,
        pool: Pool,
        readers: ReaderPool,
    ) -> None:
        self._read = read
        self._registry, self._executor, self._sessions = registry, executor, sessions
        self._reception, self._pool, self._readers = reception, pool, readers

    def reload(self, old: Config) -> Config:
        """Return the options that hold from now on. Those of before are `old`.

        The log tells what has changed, and what waits for a restart. An error in one option changes
        none.
        """
        systemd.notify(systemd.reloading())
        try:
            new = self._apply(old)
        except ConfigError as error:
            about = events.RELOAD_REFUSED.about()
            log.error("reload refused, all options stay as they were: %s", error, extra=about)
            new = old
        line = status_report.summary(self._registry)
        systemd.notify(systemd.READY, systemd.status(line))
        return new

    def _apply(self, old: Config) -> Config:
        new = self._read()
        waiting = [name for name in old.differing(new) if not TABLE[name].live]
        new = dataclasses.replace(new, **{name: getattr(old, name) for name in waiting})
        logs.configure(new)  # raises a ConfigError before anything has changed
        for name in old.differing(new):
            log.info("reloaded: %s = %s (it was %s)", name, getattr(new, name), getattr(old, name))
        if waiting:
            log.warning("needs a restart, and stays as it was: %s", ", ".join(waiting))
        self._pool.adjust(new.workers, timeout=new.load_timeout, memory=new.loader_memory)
        self._readers.adjust(timeout=new.load_timeout, memory=new.loader_memory)
        self._sessions.limit(new.max_clients)
        self._reception.adjust(new.callers, new.roots)
        if new.limits != old.limits:
            self._registry.blocks.change_quotas(new.limits)
        self._change_room(old, new)
        changed = len(old.differing(new))
        log.info("reload done: %d options have changed", changed, extra=events.RELOADED.about())
        return new

    def _change_room(self, old: Config, new: Config) -> None:
        now, take = time.monotonic(), self._executor.take
        spares, admission = self._registry.holds.spares, self._registry.admission
        spares.seconds = new.keep_pages
        take(spares.expire, now)
        if new.budget != old.budget:
            take(admission.change_budget, new.budget, new.budget.bound, now)


def has_terminal() -> bool:
    """Say whether we were started from a terminal: its hang-up is a signal, and no request."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
