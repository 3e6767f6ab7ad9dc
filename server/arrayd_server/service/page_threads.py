"""Two threads for what takes the kernel long: giving a segment its pages, and freeing them.

Of a small segment that takes less than the way to a thread and back, so it is done on the loop.

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


SMALL = 256 << 10
"""Bytes of pages that are had, or freed, within some 50 microseconds; to a thread it is 200."""


class PageThreads:
    """Runs work in a thread, if it takes long, and what follows from it on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._threads = ThreadPoolExecutor(2, "arrayd-pages", initializer=_be_nice)
        self._closed = False

    def run(
        self, work: Callable[[], None], done: Callable[[BaseException | None], None], nbytes: int
    ) -> None:
        """Do what is to be done for so many bytes of pages; then call `done` with its error.

        Of small ones both are done when it returns.
        """
        if nbytes <= SMALL:
            done(_error_of(work))
            return

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


def _error_of(work: Callable[[], None]) -> BaseException | None:
    try:
        work()
    except Exception as error:
        return error
    return None


def _be_nice() -> None:
    """Lower the priority of this thread alone."""
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICER)
