"""The queue of tasks that wait for a loader process."""

from __future__ import annotations

import asyncio
import time

import pytest

from arrayd.errors import ArraydError, LoadTimeout, ProtocolMismatch
from arrayd_server.loading.tasks import Queue, Task
from tests.faults.impostors import Errand, pool, program


def task(job: int) -> Task:
    """Return something to do for a job."""
    return Task(job, "x", {}, lambda result: None, lambda rows: None)


def queue_of(*tasks: Task) -> Queue:
    """Return a queue in which these wait."""
    queue = Queue()
    for one in tasks:
        queue.add(one)
    return queue


def taken(queue: Queue) -> Task:
    """Take out the task whose turn it is."""
    task = queue.first()
    assert task is not None
    queue.take(task)
    return task


def test_users_take_turns() -> None:
    """However many tasks one has; who is barred has none; each user's come in their order."""
    tasks = [task(number) for number in range(6)]
    for one, user in zip(tasks, (None, 7, 7, 7, None, 8), strict=True):
        one.user = user
    queue = queue_of(*tasks)
    assert len(queue) == 6
    assert queue.first({None, 7}) is tasks[5]
    assert queue.first({None, 7, 8}) is None
    assert [tasks.index(taken(queue)) for _ in range(6)] == [0, 1, 5, 4, 2, 3]
    assert not queue


def test_first_come_first_served() -> None:
    """The order is that of arrival, whoever leaves from the middle."""
    one, two, three, four = map(task, (7, 8, 7, 9))
    queue = queue_of(one, two, three, four)
    assert list(queue) == [one, two, three, four]
    queue.discard(three)
    queue.discard(three)  # it has left already
    assert [taken(queue) for _ in range(3)] == [one, two, four]
    assert not queue
    assert queue.of(7) == queue.of(9) == []


def test_the_tasks_of_a_job() -> None:
    """They are found in their order, less those that have been taken."""
    one, two, three = map(task, (7, 8, 7))
    queue = queue_of(one, two, three)
    assert queue.of(7) == [one, three]
    assert taken(queue) is one
    assert queue.of(7) == [three]
    assert len(queue) == 2


def test_a_task_ends_once() -> None:
    """What comes after the result, or after nobody wants it, is told to nobody."""
    told: list[object] = []
    one = Task(1, "x", {}, told.append, lambda rows: None)
    one.finish({"lost": 0})
    one.finish(ArraydError("late"))
    assert told == [{"lost": 0}]


def test_a_long_queue_is_not_a_hang() -> None:
    """While workers get on, what waits its turn does so for longer than the limit of one task."""

    async def run() -> None:
        async with pool() as one:
            with program("slow"):
                await Errand(one).result()
            one._timeout = 3.0
            began = time.monotonic()
            errands = [Errand(one) for _ in range(20)]
            for errand in errands:
                assert "pid" in await errand.result()
            assert time.monotonic() - began > one._timeout

    asyncio.run(run())


def test_a_loader_of_another_version() -> None:
    """Its work is not taken, for the files have been replaced; the error says how to go on."""

    async def run() -> None:
        async with pool() as one:
            with pytest.raises(ProtocolMismatch, match=r"arrayd 99\.1 .*kill -USR1 \d+"):
                await Errand(one).result()

    with program("newer"):
        asyncio.run(run())


def test_a_small_file_that_hangs() -> None:
    """A worker that gets nowhere with small files is given up long before the limit of a task."""

    async def run() -> None:
        async with pool(timeout=3600) as one:
            with program("silent"), pytest.raises(LoadTimeout):
                await Errand(one, patience=0.3).result()

    asyncio.run(run())
