"""Two threads for what takes the kernel long: giving a segment its pages, and freeing them.

Where all CPUs are busy the loop goes before them: they have a lower priority, which Linux keeps for
each thread (setpriority(2), sched(7)).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

NICER = 10
"""By how much the threads are nicer than the loop."""


class PageThreads:
    """Runs work in a thread, and what follows from it on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._threads = ThreadPoolExecutor(2, "arrayd-pages", initializer=_be_nice)
        self._closed = False

    def run(self, work: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """Do some work; then call `done` with its error, if there is one."""

        def tell(error: BaseException | None) -> None:
            if not self._closed:
                done(error)

        def report(future: Future[None]) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(tell, future.exception())

        self._threads.submit(work).add_done_callback(report)

    def close(self) -> None:
        """Finish what has begun, which nobody will use."""
        self._closed = True
        self._threads.shutdown(wait=True)


def _be_nice() -> None:
    """Lower the priority of this thread alone."""
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICER)
