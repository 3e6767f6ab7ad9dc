"""The threads for slow work on pages."""

from __future__ import annotations

import asyncio
import os
import threading

from arrayd_server.service.page_threads import NICER, SMALL, PageThreads


def test_they_are_nicer_than_the_loop_and_the_loop_is_not() -> None:
    """Work is done with a lower priority than before; this thread's stays what it was."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    found: list[int] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        threads, ended = PageThreads(loop), loop.create_future()

        def work() -> None:
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

        threads.run(work, ended.set_result, SMALL + 1)
        assert await ended is None
        threads.close()

    asyncio.run(run())
    assert found == [min(before + NICER, 19)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_what_is_small_is_done_at_once() -> None:
    """On the loop, by the time that `run` returns; an error of it goes the same way."""
    done: list[BaseException | None] = []
    where: list[int] = []

    async def run() -> None:
        threads = PageThreads(asyncio.get_running_loop())
        threads.run(lambda: where.append(threading.get_native_id()), done.append, SMALL)
        threads.run(lambda: os.close(-1), done.append, 1)
        threads.close()

    asyncio.run(run())
    assert where == [threading.get_native_id()]
    assert done[0] is None
    assert isinstance(done[1], OSError)
