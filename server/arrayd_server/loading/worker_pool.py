"""The pool of loader processes: start them, give them tasks, notice their deaths, retire them.

Theory of operation
-------------------
*Two queues.* Reading a header, or a single small file (*urgent*), takes milliseconds and is what a
caller waits for first; filling a part takes as long as the disk. There are `limit` + 2 workers, of
which at most `limit` fill and at most `limit` + 1 do what is urgent, so that neither kind of task,
if it hangs, can occupy them all and starve the other. Within a kind the first to come is first.

*Workers.* One is started when a task finds none idle, and retires when it has been idle for a
minute. A worker is *clean* until it has read a file itself. Some files must be read by a process
that has read no other (see `apart`): such a task goes to a clean worker, which forks a child for
it and stays clean. So clean workers are the last to get other tasks, and the last clean one
reads even headers in a child. Where nothing is filled, or what is filled for other users makes no
worker unclean, these may come by the hundred: another one is started for them, if there is room.

*Failures.* A worker that dies, hangs or sends what is no message fails its task, not the pool.
The error is reported once the process is dead, for only then is it sure that it writes no more
into the segment. But SIGKILL does not end a process in uninterruptible sleep (a dead NFS):
so each task has a deadline, after which it fails whether or not its worker is dead, and the loop
waits for no process. Workers that are dying are counted apart: as many again may be, while
others take their places.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from arrayd.common import failpoints
from arrayd.common.bytesize import format_bytes
from arrayd.errors import LoaderCrashed, LoadError, LoadTimeout, ProtocolMismatch
from arrayd.wire.codec import stream
from arrayd_server import events
from arrayd_server.loading import messages
from arrayd_server.loading.early_start import LOADER
from arrayd_server.loading.fork_server import ForkServer
from arrayd_server.loading.own_process import OwnProcess, cause
from arrayd_server.loading.tasks import Queue, Task

log = logging.getLogger(__name__)

PROGRAM = ("-m", LOADER)

RETIRE_AFTER = 60.0
"""Seconds after which an idle worker goes: it holds what its libraries have allocated."""

CANCEL_GRACE = 5.0
"""Seconds a worker has to notice a cancelled task before it is killed."""

EXIT_GRACE = 0.5
"""Seconds from the end of a worker's stream until it is killed: it may be writing to the log."""

CLOSE_TIMEOUT = 2.0
"""Seconds that `Pool.close` waits for killed workers."""

MAX_INBOX = 16 << 20
"""Bytes of the largest message that is taken from a worker; it may be corrupted."""

RECEIVE_BYTES = 64 << 10
"""Bytes taken from a worker's socket at a time: to be given a buffer of 1 MiB takes 13 µs."""

_EXTRA_FOR_PROBES = 2  # see the theory above

_MOST_CHILDREN = 3
"""Headers for which the last clean worker forks, 8 ms each, before another one is started."""


class Worker(OwnProcess):
    """A loader process, and the task it has; its parameters are those of `OwnProcess`."""

    def __init__(
        self,
        forks: ForkServer,
        memory: int,
        on_readable: Callable[[Worker], None],
        on_exit: Callable[[Worker, int | OSError], None],
    ) -> None:
        super().__init__(forks, PROGRAM, memory, on_readable=on_readable, on_exit=on_exit)
        self.inbox = stream(MAX_INBOX)
        self.task: Task | None = None
        self.clean = True  # it has read no file, or only in children
        self.children = 0  # in which it has read headers to stay clean
        self.timer: asyncio.TimerHandle | None = None  # retires it, or kills it after a cancel

    def stop_timer(self) -> None:
        """Cancel its retirement, or its death after a cancelled task."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Pool:
    """The workers and the tasks that wait for one.

    Parameters
    ----------
    forks
        Where they come from.
    limit
        Parts filled at a time; there are at most two workers more.
    timeout
        Seconds from the start of a task until it fails and its worker is killed. A task that
        waits fails after as long without an answer or progress from any worker.
    memory
        Bytes that each worker may use.
    """

    def __init__(self, forks: ForkServer, limit: int, *, timeout: float, memory: int) -> None:
        self.workers: list[Worker] = []
        self._ending: list[Worker] = []  # no longer in use, and not dead yet
        self._loop = forks.loop
        self._forks = forks
        self.limit = limit
        self._most = limit + _EXTRA_FOR_PROBES
        self._timeout = timeout
        self._memory = memory
        self._urgent = Queue()
        self._parts = Queue()
        self._numbers = iter(range(1, sys.maxsize))
        self._progress_at = -math.inf  # when any worker last answered, or reported progress

    def adjust(self, limit: int, *, timeout: float, memory: int) -> None:
        """Let the parameters be others from now on; a task that has been given keeps its own."""
        self.limit, self._most = limit, limit + _EXTRA_FOR_PROBES
        self._timeout, self._memory = timeout, memory
        for worker in [w for w in self.workers if w.task is None and w.memory != memory]:
            self._end(worker)
        self._dispatch()

    @property
    def behind(self) -> bool:
        """Whether parts wait for a worker."""
        return bool(self._parts)

    def submit(self, task: Task) -> None:
        """Do a task as soon as a worker is free; reading a header goes first."""
        task.wire["id"] = next(self._numbers)
        self._limit_time(task, self._loop.time())
        (self._urgent if task.urgent else self._parts).add(task)
        self._dispatch()

    def cancel(self, job: int) -> None:
        """Drop the tasks of a job; a worker that has one stops it in time, or is killed."""
        for worker in self.workers + self._ending:
            if worker.task is not None and worker.task.job == job:
                worker.task.forget()
                if worker.timer is None and worker in self.workers:
                    worker.send({"cancel": worker.task.wire["id"]})
                    worker.timer = self._loop.call_later(
                        CANCEL_GRACE, self._kill_and_refill, worker
                    )
        for queue in (self._urgent, self._parts):
            for task in queue.of(job):
                queue.discard(task)
                task.forget()

    def close(self) -> None:
        """End all workers by SIGKILL: a load that has not ended is worth nothing."""
        for task in self._take_all():
            task.forget()
        for worker in list(self.workers):
            self._end(worker)
        until = time.monotonic() + CLOSE_TIMEOUT
        for worker in self._ending:
            worker.stop_timer()
            worker.kill()
            if worker.task is not None:
                worker.task.forget()
        for worker in self._ending:
            if not worker.reap(until):
                log.warning("loader %d survives SIGKILL: it is left alone", worker.pid)
        self._ending.clear()

    # ---- tasks to workers ----------------------------------------------------------------

    def _dispatch(self) -> None:
        for queue in (self._urgent, self._parts):
            while queue and (task := queue.first(self._barred())) is not None:
                try:
                    worker = self._free_worker(task)
                except OSError as error:
                    self._cannot_start(error)
                    return
                if worker is None:
                    break
                queue.take(task)
                self._give(worker, task)

    def _barred(self) -> set[int | None]:
        """Return the users, other than the daemon's, for whom all but one worker are at work.

        A file may be made to be read for ever: that costs its user's share.
        """
        users = [worker.task.user for worker in self.workers if worker.task is not None]
        if users.count(None) == len(users):  # as most, and each dispatch asks
            return set()
        busy = Counter(users)
        return {user for user, n in busy.items() if user is not None and n >= self.limit - 1 > 0}

    def _free_worker(self, task: Task) -> Worker | None:
        alike = sum(w.task is not None and w.task.urgent == task.urgent for w in self.workers)
        if alike >= self.limit + task.urgent:
            return None
        idle = [worker for worker in self.workers if worker.task is None]
        # Clean ones last: reading a file itself makes a worker unfit for tasks that are apart.
        for worker in sorted(idle, key=lambda worker: worker.clean):
            if worker.clean or not task.apart:
                return self._instead_of(worker) if _many_come(task, worker) else worker
        if idle and not self._has_room() and len(self._ending) < self._most:
            self._end(idle[0])
        return self._start() if self._has_room() else None

    def _instead_of(self, worker: Worker) -> Worker:
        """Return a new worker instead of the last clean one, which would fork for each header."""
        if self._is_last_clean(worker) and self._has_room():
            with contextlib.suppress(OSError):
                return self._start()
        return worker

    def _is_last_clean(self, worker: Worker) -> bool:
        return worker.clean and sum(one.clean for one in self.workers) == 1

    def _has_room(self) -> bool:
        """Say whether one more worker may be started."""
        # As many again may be dying without having ended; more would be without bound.
        return len(self.workers) + max(0, len(self._ending) - self._most) < self._most

    def _cannot_start(self, error: OSError) -> None:
        """Leave tasks to the workers there are; without any, fail all that wait."""
        log.warning("no loader process can be started: %s", error.strerror)
        if self.workers:
            if all(worker.task is None for worker in self.workers):  # idle, but none is clean
                self._end(self.workers[0])
            return
        for task in self._take_all():
            self._loop.call_soon(task.finish, _not_started(error))

    def _start(self) -> Worker:
        worker = Worker(self._forks, self._memory, self._on_readable, self._on_exit)
        self.workers.append(worker)
        return worker

    def _give(self, worker: Worker, task: Task) -> None:
        worker.stop_timer()
        worker.task = task
        # The last clean one stays clean: it reads headers apart.
        header = task.urgent and not task.apart and not task.in_place
        stays = header and self._is_last_clean(worker)
        apart = task.apart or stays
        worker.children += stays
        worker.clean = worker.clean and apart
        self._limit_time(task, self._loop.time(), task.patience)
        failpoints.hit("daemon.part")
        worker.send({**task.wire, "apart": apart})

    def _limit_time(self, task: Task, since: float, patience: float | None = None) -> None:
        """Set the deadline of a task to `timeout` after `since`, or sooner."""
        if task.deadline is not None:
            task.deadline.cancel()
        left = min(patience or math.inf, self._timeout)
        task.deadline = self._loop.call_at(since + left, self._overdue, task)

    def _overdue(self, task: Task) -> None:
        """Fail a task whose deadline has passed, unless it waits while others get on."""
        busy = [worker for worker in self.workers if worker.task is task]
        if not busy and self._progress_at + self._timeout > self._loop.time():
            self._limit_time(task, self._progress_at)
            return
        what = "reading it takes longer than" if busy else "no loader has got on with anything for"
        task.finish(
            LoadTimeout(
                f"{task.label}: {what} {self._timeout:g} s (the daemon's --load-timeout). Its file "
                "system may hang, its file may be made to; loaders that hang are killed."
            )
        )
        for queue in (self._urgent, self._parts):
            queue.discard(task)
        for worker in busy:
            self._kill_and_refill(worker)

    def _take_all(self) -> list[Task]:
        """Take all that waits out of the queues."""
        tasks = [*self._urgent, *self._parts]
        self._urgent, self._parts = Queue(), Queue()
        return tasks

    # ---- answers of workers --------------------------------------------------------------

    def _on_readable(self, worker: Worker) -> None:
        try:
            data = worker.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:  # ECONNRESET: it ended with something of ours unread
            data = b""
        if not data:
            self._detach(worker)
            worker.timer = self._loop.call_later(EXIT_GRACE, worker.kill)
            return
        try:
            worker.inbox.feed(data)
            answers = [messages.checked(message) for message in worker.inbox]
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            user = {"uid": worker.task.user if worker.task else None}
            log.warning("loader %d talks nonsense: %s", worker.pid, error, extra=user)
            self._end(worker)
            return
        for message in answers:
            self._on_message(worker, message)

    def _on_message(self, worker: Worker, message: Mapping[str, Any]) -> None:
        task = worker.task
        if task is None or message["id"] != task.wire["id"]:
            return
        self._progress_at = self._loop.time()
        if "rows" in message:
            if not task.over:
                task.on_rows(message["rows"])
                if task.patience is not None:
                    self._limit_time(task, self._progress_at, task.patience)
            return
        worker.task = None
        worker.stop_timer()
        result = messages.result(message, task.label)
        spent = message.get("spent") or worker.memory != self._memory
        if spent or isinstance(result, ProtocolMismatch):
            self._end(worker)
        else:
            self._schedule_retire(worker)
        task.finish(result)
        self._dispatch()

    def _schedule_retire(self, worker: Worker) -> None:
        worker.timer = self._loop.call_later(RETIRE_AFTER, self._end, worker)

    # ---- ends ----------------------------------------------------------------------------

    def _kill_and_refill(self, worker: Worker) -> None:
        """Kill a worker that hangs, and give its place to another."""
        self._end(worker)
        self._dispatch()

    def _end(self, worker: Worker) -> None:
        """Kill a worker; `_on_exit` hears of its end."""
        self._detach(worker)
        worker.kill()

    def _detach(self, worker: Worker) -> None:
        """Take a worker out of use; what is left is to wait for its death."""
        worker.stop_timer()
        self.workers.remove(worker)
        self._ending.append(worker)
        worker.detach()

    def _on_exit(self, worker: Worker, how: int | OSError) -> None:
        worker.stop_timer()
        (self._ending if worker in self._ending else self.workers).remove(worker)
        if worker.task is None:
            pass
        elif isinstance(how, OSError):
            worker.task.finish(_not_started(how))
        else:
            about = events.LOADER_ENDED.about(pid=worker.pid, uid=worker.task.user)
            log.warning("loader %d ended (%s)", worker.pid, cause(how), extra=about)
            worker.task.finish(self._crashed(worker.task, how))
        self._dispatch()

    def _crashed(self, task: Task, code: int) -> LoaderCrashed:
        return LoaderCrashed(
            f"The process that read {task.label} died ({cause(code)}). The file may be corrupt in "
            "a way that crashes its library, or memory ran out: a loader may use "
            f"{format_bytes(self._memory)} (the daemon's --loader-memory).",
            signal=-code if code < 0 else None,
        )


def _many_come(task: Task, worker: Worker) -> bool:
    """Say whether a header needs no child, and many like it are to be expected."""
    many = task.user is not None or worker.children >= _MOST_CHILDREN
    return many and task.urgent and not task.apart and not task.in_place


def _not_started(error: OSError) -> LoadError:
    return LoadError(
        f"The daemon can start no loader process: {error.strerror}. Processes, descriptors "
        "or memory are exhausted there; ask again when some are free."
    )
