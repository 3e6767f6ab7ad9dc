"""Tasks for workers, and the queue in which they wait."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from arrayd.errors import ArraydError

Result = Callable[[Mapping[str, Any] | ArraydError], None]


@dataclass(eq=False)
class Task:
    """Something for a worker to do. It ends once: with a result, or dropped without one."""

    job: int
    label: str  # for the log and the error: what is being read
    wire: dict[str, Any]
    on_result: Result
    on_rows: Callable[[int], None]
    urgent: bool = False  # a header is to be read
    apart: bool = False  # in a process that has read no other file
    #: seconds without progress after which a worker that has it is given up; None: see `Pool`
    patience: float | None = None
    over: bool = False
    deadline: asyncio.TimerHandle | None = None

    def finish(self, result: Mapping[str, Any] | ArraydError) -> None:
        """Pass the result on, unless the task has ended before."""
        if not self.over:
            self.forget()
            self.on_result(result)

    def forget(self) -> None:
        """End it without a result."""
        self.over = True
        if self.deadline is not None:
            self.deadline.cancel()


class Queue:
    """Tasks in order of arrival; those of one job are found without a search.

    When a client is killed, its tasks go, and a hundred thousand of others may be waiting.
    """

    def __init__(self) -> None:
        self._tasks: OrderedDict[Task, None] = OrderedDict()
        self._of: dict[int, dict[Task, None]] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        """Go through them, the first to come first."""
        return iter(list(self._tasks))

    def add(self, task: Task) -> None:
        """Let a task wait behind all others."""
        self._tasks[task] = None
        self._of.setdefault(task.job, {})[task] = None

    def discard(self, task: Task) -> None:
        """Let a task wait no longer, if it does."""
        if task in self._tasks:
            del self._tasks[task]
            alike = self._of[task.job]
            del alike[task]
            if not alike:
                del self._of[task.job]

    def first(self) -> Task:
        """Return the task that came first."""
        return next(iter(self._tasks))

    def next(self) -> Task:
        """Take out the task that came first."""
        task = self.first()
        self.discard(task)
        return task

    def of(self, job: int) -> list[Task]:
        """Return the tasks of a job."""
        return list(self._of.get(job, ()))
