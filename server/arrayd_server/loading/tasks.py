"""Tasks for workers, and the queue in which they wait."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator, Mapping
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
    urgent: bool = False  # a header is to be read, or a single small file
    apart: bool = False  # in a process that has read no other file
    user: int | None = None  # another user than the daemon's, for whom it is done
    #: seconds without progress after which a worker that has it is given up; None: see `Pool`
    patience: float | None = None
    in_place: bool = False  # not in a child, also where that would keep a worker clean
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
    """Tasks of each user in order of arrival; the users take turns.

    Those of one job are found without a search. When a client is killed, its tasks go, and a
    hundred thousand of others may be waiting.
    """

    def __init__(self) -> None:
        self._tasks: OrderedDict[int | None, OrderedDict[Task, None]] = OrderedDict()  # by user
        self._of: dict[int, dict[Task, None]] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return sum(len(tasks) for tasks in self._tasks.values())

    def __bool__(self) -> bool:
        """Say whether any waits."""
        return bool(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        """Go through them, one user's after another's."""
        return iter([task for tasks in self._tasks.values() for task in tasks])

    def add(self, task: Task) -> None:
        """Let a task wait behind all others of its user."""
        self._tasks.setdefault(task.user, OrderedDict())[task] = None
        self._of.setdefault(task.job, {})[task] = None

    def discard(self, task: Task) -> None:
        """Let a task wait no longer, if it does."""
        mine = self._tasks.get(task.user, OrderedDict())
        if task in mine:
            del mine[task]
            if not mine:
                del self._tasks[task.user]
            alike = self._of[task.job]
            del alike[task]
            if not alike:
                del self._of[task.job]

    def first(self, barred: Container[int | None] = ()) -> Task | None:
        """Return the task whose turn it is, of the users that are not barred."""
        for user, tasks in self._tasks.items():
            if user not in barred:
                return next(iter(tasks))
        return None

    def take(self, task: Task) -> None:
        """Take out a task that is to be done: the next turn is another user's."""
        self.discard(task)
        if task.user in self._tasks:
            self._tasks.move_to_end(task.user)

    def of(self, job: int) -> list[Task]:
        """Return the tasks of a job."""
        return list(self._of.get(job, ()))
