"""`Gate`: finds out, in threads, whether another user may read the files of a request.

A file server that is away answers to no ``stat``, so nothing is looked at on the loop, and a user
whose files hang has `SHARE` of the threads at most: the requests of a user wait for each other, not
for those of other users. A thread that works takes time from the loop (they share Python's lock),
so after a look that took long the user has none for `REST` times as long.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from arrayd.errors import AccessDenied, ArraydError, DaemonError
from arrayd.wire.protocol import Stat
from arrayd_server.access import files
from arrayd_server.access.policy import Credentials

THREADS, SHARE = 8, 2
"""Threads in all, and how many of them one user may have."""

LONG_LOOK, REST = 0.02, 3
"""Processor seconds of a look, and after one that took more how many times as many it rests."""

MAX_WAITING = 256
"""Requests of one user that may wait for a thread."""

Verdict = Stat | ArraydError
"""The ``stat`` of a file that may be read; or why it may not."""

Done = Callable[[Sequence[Verdict]], None]
_Found = tuple[list[Verdict], float]  # and the processor seconds that it took
_Look = tuple[Credentials, Sequence[str], Done]


class Gate:
    """Looks at files for other users than the daemon's.

    Parameters
    ----------
    roots
        Directories outside which nothing is read for them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, roots: Sequence[str]) -> None:
        self.roots = roots
        self._loop = loop
        self._threads = ThreadPoolExecutor(THREADS, "arrayd-gate")
        self._running: dict[int, int] = {}
        self._waiting: dict[int, deque[_Look]] = {}
        self._closed = False

    def look(self, who: Credentials, paths: Sequence[str], done: Done) -> None:
        """Look at files for a user; call `done` with a verdict on each, on the loop.

        Raises
        ------
        DaemonError
            Too many requests of that user wait.
        """
        waiting = self._waiting.setdefault(who.uid, deque())
        if len(waiting) >= MAX_WAITING:
            raise DaemonError(
                f"{len(waiting)} requests of user {who.uid} wait until the daemon has looked at "
                "their files: ask again when some are done."
            )
        waiting.append((who, paths, done))
        self._start(who.uid)

    def close(self) -> None:
        """Begin nothing more, and pass nothing on."""
        self._closed = True
        self._waiting.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self, uid: int) -> None:
        """Give what waits of a user the threads that are left to it."""
        waiting = self._waiting.get(uid, deque())
        while waiting and self._running.get(uid, 0) < SHARE:
            who, paths, done = waiting.popleft()
            self._running[uid] = self._running.get(uid, 0) + 1
            future = self._threads.submit(_verdicts, who, paths, self.roots)
            future.add_done_callback(partial(self._report, uid, done))
        if not waiting and not self._running.get(uid):
            self._waiting.pop(uid, None)
            self._running.pop(uid, None)

    def _report(self, uid: int, done: Done, future: Future[_Found]) -> None:
        if not self._closed and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, uid, future, done)

    def _tell(self, uid: int, future: Future[_Found], done: Done) -> None:
        if self._closed:
            return
        verdicts, cost = future.result()
        if cost > LONG_LOOK:
            self._loop.call_later(REST * cost, self._go_on, uid)
        else:
            self._go_on(uid)
        done(verdicts)

    def _go_on(self, uid: int) -> None:
        """Give the thread that a user had back to that user."""
        if not self._closed:
            self._running[uid] -= 1
            self._start(uid)


def _verdicts(who: Credentials, paths: Sequence[str], roots: Sequence[str]) -> _Found:
    began = time.thread_time()
    with contextlib.closing(files.Known()) as known:
        verdicts = [_verdict(who, path, roots, known) for path in paths]
    return verdicts, time.thread_time() - began


def _verdict(who: Credentials, path: str, roots: Sequence[str], known: files.Known) -> Verdict:
    try:
        return files.look(path, who, roots, known)[1]
    except ArraydError as error:
        return error
    except Exception as error:  # in doubt: no
        return AccessDenied(f"{path}: whether you may read it cannot be told ({error!r}).")
