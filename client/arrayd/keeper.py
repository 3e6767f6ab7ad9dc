"""The thread that gives holds back, and introduces us to a restarted daemon.

It sleeps until a finalizer rings or the daemon dies. It never touches the socket but
through `Connection.nudge`.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable

from arrayd.connection import Connection

FLUSH_AFTER = 0.03
"""Seconds to gather releases before they are sent: a re-get in that time revives the hold."""

_RETRY = 0.2  # seconds between two attempts to reach a daemon that is away


class Keeper:
    """Runs `collect` soon after each `ring`.

    Parameters
    ----------
    connection
        To be nudged when the daemon dies.
    collect
        Releases the holds that have ended.
    """

    def __init__(self, connection: Connection, collect: Callable[[], None]) -> None:
        self._connection = connection
        self._collect = collect
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arrayd-keeper", daemon=True)
        self._thread.start()

    def ring(self) -> None:
        """Ask for a collection; allowed anywhere, also inside a garbage collection."""
        with contextlib.suppress(OSError):  # full: it has been rung often enough
            os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self.ring()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        os.close(self._bell)

    def abandon(self) -> None:
        """Close what a forked child inherited; the thread is the parent's."""
        os.close(self._bell)

    def _run(self) -> None:
        while not self._closing.is_set():
            rung = self._wait()
            if self._closing.wait(FLUSH_AFTER if rung else 0):
                return
            self._collect()
            self._connection.nudge()

    def _wait(self) -> bool:
        """Wait for the bell, the daemon's death, or the time to try again; say if it rang."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        pidfd = self._connection.pidfd
        if pidfd >= 0:
            poll.register(pidfd, select.POLLIN)
        away = bool(self._connection.lost_at)
        ready = dict(poll.poll(_RETRY * 1000 if away else None))
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        return self._bell in ready
