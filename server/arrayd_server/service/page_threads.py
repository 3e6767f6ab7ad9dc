"""Two threads for what takes the kernel long: giving a segment its pages, and freeing them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class PageThreads:
    """Runs work in a thread, and what follows from it on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="arrayd-pages")
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
