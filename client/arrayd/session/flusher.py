"""The thread that sends releases, and says hello to a restarted daemon.

It sleeps until a finalizer wakes it, the daemon dies, or some seconds are over. It uses the
socket through `Connection` alone. While the daemon refuses our hello it asks nothing and says
nothing: only a call of the user's tries again, and if that is welcomed the thread goes on.
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

from arrayd.errors import ArraydError, DaemonError
from arrayd.session.connection import Connection
from arrayd.system.signal_safe import OneShotEvent, open_atomically

FLUSH_AFTER = 0.03
"""Seconds to gather releases before they are sent: a re-get in that time revives the hold."""

FLUSH_EVERY = 5.0
"""Seconds after which it runs unasked: a Ctrl-C may have cut off a finalizer that would wake it."""

_RETRY = 0.2  # seconds between two attempts to reach a daemon that is away
_JOIN_TIMEOUT = 2.0  # seconds for which `close` waits for the thread


class ReleaseFlusher:
    """Runs `collect` soon after each `wake`.

    Parameters
    ----------
    connection
        To be nudged when the daemon dies.
    collect
        Sends the releases that are due. A method of the session, which is not kept alive:
        if a program dropped it unclosed, its connection is closed.
    intact
        Whether our descriptors are still ours: nothing is written to another's file.
    """

    def __init__(
        self, connection: Connection, collect: Callable[[], None], intact: Callable[[], bool]
    ) -> None:
        self._connection = connection
        self._collect = weakref.WeakMethod(collect)
        self._intact = intact
        # Closed with the last object that may still write to it: `close` may not wait long enough.
        opened: list[int] = []
        self._end = weakref.finalize(self, deque, map(os.close, opened), 0)
        self._end.atexit = False
        self._wakefd = open_atomically(opened, os.eventfd, 0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._ending = OneShotEvent()
        self._may_be_late = False
        self._refused_at = 0.0  # `unknown_since` of the connection when its hello was refused
        self._woken = False  # `collect` is still to come
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

    def wake(self) -> None:
        """Have `collect` called soon; allowed anywhere, also inside a garbage collection."""
        if self._woken:
            return
        if self._intact():
            with contextlib.suppress(OSError):  # the counter is full, so it will wake
                # No call is in between: no Ctrl-C comes there.
                self._woken = True
                os.eventfd_write(self._wakefd, 1)

    def drain_late_answers(self) -> None:
        """Read the answers to a request that was given up: a late grant has to be released."""
        self._may_be_late = True
        self.wake()

    def close(self) -> None:
        """End the thread."""
        self._closing, self._woken = True, False
        self._ending.set()
        self.wake()
        # With a timeout: in a signal handler we may hold the lock that it waits for.
        if self._running.acquire(timeout=_JOIN_TIMEOUT):
            self._running.release()

    def abandon(self) -> None:
        """Close what a forked child inherited; the thread is the parent's."""
        self._end()

    def drop_descriptors(self) -> None:
        """Forget the eventfd, neither closing it nor writing to it: its number is another file's.

        Somebody has closed all descriptors (`os.closerange`). The thread ends at its next step.
        """
        self._closing = True
        self._end.detach()

    def _run(self) -> None:
        with self._running:
            self._loop()

    def _loop(self) -> None:
        while not self._closing:
            if self._wait():
                self._ending.wait(FLUSH_AFTER)
            if self._closing or not self._intact():
                return
            self._flush()

    def _flush(self) -> None:
        self._woken = False  # what ends from now on wakes it again
        collect = self._collect()
        if collect is None:
            self._closing = True
            self._connection.close()
            return
        if self._is_refused():
            self._may_be_late = False
            return
        collect()
        self._connection.nudge()
        if self._may_be_late:
            self._drain_late_answers()

    def _is_refused(self) -> bool:
        """Say whether the daemon has refused the hello, and nobody has been welcomed since."""
        since = self._connection.unknown_since
        return since > 0.0 and since == self._refused_at

    def _drain_late_answers(self) -> None:
        """Ask something: answers come in order, so this one comes after all that may be late."""
        soon = time.monotonic() + _RETRY
        self._may_be_late = False
        try:
            if self._connection.ask("redeem", soon, segment="-", token=b"").complete:
                return
        except DaemonError:
            pass
        except ArraydError:  # our hello is refused: nothing comes to who is not welcomed
            self._refused_at = self._connection.unknown_since
            return
        self._may_be_late = True

    def _pause(self) -> float:
        """Return for how many seconds to sleep if nothing wakes it."""
        away = self._connection.unknown_since > 0.0 and not self._is_refused()
        return _RETRY if away or self._may_be_late else FLUSH_EVERY

    def _wait(self) -> bool:
        """Wait to be woken, for the daemon's death, or until the next try; say if we were woken."""
        poll = select.poll()
        poll.register(self._wakefd, select.POLLIN)
        pidfd = self._connection.pidfd
        if pidfd >= 0:
            poll.register(pidfd, select.POLLIN)
        ready = dict(poll.poll(self._pause() * 1000))
        if not self._intact():
            return False
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wakefd)
        return self._wakefd in ready
