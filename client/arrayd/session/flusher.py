"""The thread that gives holds back, and introduces us to a restarted daemon.

It sleeps until a finalizer rings or the daemon dies, or for some seconds. It touches the
socket through `Connection` alone.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

from arrayd.errors import DaemonError
from arrayd.session.connection import Connection
from arrayd.system.signal_safe import Wakeup, open_into

FLUSH_AFTER = 0.03
"""Seconds to gather releases before they are sent: a re-get in that time revives the hold."""

LOOK_EVERY = 5.0
"""Seconds after which it collects without a ring: a Ctrl-C may have cut one off in a finalizer."""

_RETRY = 0.2  # seconds between two attempts to reach a daemon that is away
_PARTING = 2.0  # seconds that the thread has to end


class Keeper:
    """Runs `collect` soon after each `ring`.

    Parameters
    ----------
    connection
        To be nudged when the daemon dies.
    collect
        Releases the holds that have ended. A method of the session, which is not kept alive:
        when a program has dropped it unclosed, its connection is closed.
    intact
        Says whether our descriptors are still ours: nothing is written to another's file.
    """

    def __init__(
        self, connection: Connection, collect: Callable[[], None], intact: Callable[[], bool]
    ) -> None:
        self._connection = connection
        self._collect = weakref.WeakMethod(collect)
        self._intact = intact
        # Closed with the last that may still ring it, for `close` may not have time to wait.
        opened: list[int] = []
        self._end = weakref.finalize(self, deque, map(os.close, opened), 0)
        self._end.atexit = False
        self._bell = open_into(opened, os.eventfd, 0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._hurry = Wakeup()
        self._behind = False
        self._running = threading.RLock()  # held by the thread, which may close us itself

    def start(self) -> None:
        """Start the thread.

        Raises
        ------
        RuntimeError
            This process can have no more.
        """
        # One step, where `threading.Thread` waits for an Event, which no Ctrl-C may cut off.
        _thread.start_new_thread(self._run, ())

    def ring(self) -> None:
        """Ask for a collection; allowed anywhere, also inside a garbage collection."""
        if self._intact():
            with contextlib.suppress(OSError):  # full: it has been rung often enough
                os.eventfd_write(self._bell, 1)

    def catch_up(self) -> None:
        """Take note of a request that was given up: it may be granted late, unread by anybody."""
        self._behind = True
        self.ring()

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        self._hurry.set()
        self.ring()
        # Not for ever: in a signal handler we may have what it waits for.
        if self._running.acquire(timeout=_PARTING):
            self._running.release()

    def abandon(self) -> None:
        """Close what a forked child inherited; the thread is the parent's."""
        self._end()

    def desert(self) -> None:
        """Leave the bell to whose file its number is now; the thread ends when it next looks."""
        self._closing = True
        self._end.detach()

    def _run(self) -> None:
        with self._running:
            self._keep()

    def _keep(self) -> None:
        while not self._closing:
            if self._wait():
                self._hurry.wait(FLUSH_AFTER)
            if self._closing or not self._intact():
                return
            self._go_round()

    def _go_round(self) -> None:
        collect = self._collect()
        if collect is None:
            self._closing = True
            self._connection.close()
            return
        collect()
        self._connection.nudge()
        if self._behind:
            self._catch_up()

    def _catch_up(self) -> None:
        """Ask for an answer that comes after all that may be late, and so read those."""
        with contextlib.suppress(DaemonError):
            soon = time.monotonic() + _RETRY
            self._behind = False
            if self._connection.ask("redeem", soon, segment="-", token=b""):
                return
        self._behind = True

    def _wait(self) -> bool:
        """Wait for the bell, the daemon's death, or the time to try again; say if it rang."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        pidfd = self._connection.pidfd
        if pidfd >= 0:
            poll.register(pidfd, select.POLLIN)
        away = bool(self._connection.lost_at) or self._behind
        ready = dict(poll.poll((_RETRY if away else LOOK_EVERY) * 1000))
        if not self._intact():
            return False
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        return self._bell in ready
