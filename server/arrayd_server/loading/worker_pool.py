"""The pool of loader processes: start, give tasks, notice deaths, retire.

The error of a worker's death is told once it is dead: then it is sure that it writes no
more. But nobody waits for it longer than for a load: a process in uninterruptible sleep (a
dead NFS) survives even SIGKILL, so every task has a deadline, the loop waits for no process,
and a worker that was to end and has not is counted apart, so that others take its place.
One that dies, hangs or talks nonsense fails its task, not the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from arrayd.common import failpoints
from arrayd.common.bytesize import format_bytes
from arrayd.errors import LoaderCrashed, LoadError, LoadTimeout, ProtocolMismatch
from arrayd.wire.codec import pack, stream
from arrayd_server.loading import messages
from arrayd_server.loading.tasks import Queue, Task

log = logging.getLogger(__name__)

PROGRAM = ("-m", "arrayd_server.loading.worker")

RETIRE_AFTER = 60.0
"""Seconds after which an idle worker goes: it holds some 40 MB."""

CANCEL_GRACE = 5.0
"""Seconds a worker has to notice a cancelled task before it is killed."""

ENDING = 0.5
"""Seconds between the end of a worker's stream and its own, for its last words to the log."""

PARTING = 2.0
"""Seconds that a stop waits for killed workers."""

MAX_INBOX = 16 << 20
"""Bytes of the largest message that a worker is believed."""

_EXTRA_FOR_PROBES = 2  # so that a header is read at once while all others are busy

_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""A worker multiplies no matrices; OpenBLAS would reserve 40 MB for each CPU there is."""


@dataclass(eq=False)
class Worker:
    """A loader process, and the task it has."""

    process: subprocess.Popen[bytes]
    pidfd: int
    sock: socket.socket
    inbox: msgpack.Unpacker = field(default_factory=lambda: stream(MAX_INBOX))
    outbox: bytearray = field(default_factory=bytearray)
    task: Task | None = None
    clean: bool = True  # it has read no file, or only in children
    timer: asyncio.TimerHandle | None = None  # retires it, or kills it when it ignores a cancel

    @classmethod
    def start(cls, memory: int) -> Worker:
        """Start a process that may use `memory` bytes.

        Raises
        ------
        OSError
            The system has no process or descriptor for it.
        """
        with contextlib.ExitStack() as stack:
            failpoints.hit("daemon.spawning")
            ours, theirs = map(stack.enter_context, socket.socketpair())
            ours.setblocking(False)
            numbers = (theirs.fileno(), os.getpid(), memory)
            process = subprocess.Popen(
                [sys.executable, *PROGRAM, *map(str, numbers)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD},
            )
            stack.callback(process.kill)
            pidfd = os.pidfd_open(process.pid)
            stack.pop_all()
            theirs.close()
        return cls(process, pidfd, ours)

    def stop_timer(self) -> None:
        """Neither retire nor kill it."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Pool:
    """Up to `limit` workers that fill, and some for headers, started as they are needed.

    What is to be done apart is given to a worker that has read no file itself, which does it in a
    child (`apart.py`); an idle one that has read files makes room for it.

    Parameters
    ----------
    limit
        Parts filled at a time. All but one of the workers may be at headers, and all but two
        at parts: neither kind of task, if it hangs, keeps the other waiting.
    timeout, memory
        Seconds after which a task that a worker has fails and the worker is killed, and one that
        waits fails if no worker has got on with anything; bytes that each may use.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limit: int, *, timeout: float, memory: int
    ) -> None:
        self.workers: list[Worker] = []
        self._ending: list[Worker] = []  # no longer in use, and not dead yet
        self._loop = loop
        self._limit = limit
        self._most = limit + _EXTRA_FOR_PROBES
        self._timeout = timeout
        self._memory = memory
        self._urgent = Queue()
        self._parts = Queue()
        self._numbers = iter(range(1, sys.maxsize))
        self._moved = -math.inf  # when a worker last got on with something

    def submit(self, task: Task) -> None:
        """Do a task as soon as a worker is free; reading a header goes first."""
        task.wire["id"] = next(self._numbers)
        self._limit_time(task, self._loop.time())
        (self._urgent if task.urgent else self._parts).add(task)
        self._dispatch()

    def warm(self) -> None:
        """Start a worker ahead of the first task: whoever started us is about to ask."""
        with contextlib.suppress(OSError):  # the first task will say so
            self._schedule_retire(self._start())

    def cancel(self, job: int) -> None:
        """Forget the tasks of a job; a worker that has one is told, or else killed."""
        for worker in self.workers + self._ending:
            if worker.task is not None and worker.task.job == job:
                worker.task.forget()
                if worker.timer is None and worker in self.workers:
                    self._send(worker, {"cancel": worker.task.wire["id"]})
                    worker.timer = self._loop.call_later(
                        CANCEL_GRACE, self._kill_and_refill, worker
                    )
        for queue in (self._urgent, self._parts):
            for task in queue.of(job):
                queue.discard(task)
                task.forget()

    def close(self) -> None:
        """End all workers: SIGKILL, for nothing of theirs is worth keeping."""
        for task in self._take_all():
            task.forget()
        for worker in list(self.workers):
            self._end(worker)
        until = time.monotonic() + PARTING
        for worker in self._ending:
            worker.stop_timer()
            worker.process.kill()
            if worker.task is not None:
                worker.task.forget()
        for worker in self._ending:
            self._loop.remove_reader(worker.pidfd)
            os.close(worker.pidfd)
            try:
                worker.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("loader %d survives SIGKILL: it is left alone", worker.process.pid)
        self._ending.clear()

    # ---- tasks to workers ----------------------------------------------------------------

    def _dispatch(self) -> None:
        for queue in (self._urgent, self._parts):
            while queue:
                try:
                    worker = self._free_worker(queue.first())
                except OSError as error:
                    self._cannot_start(error)
                    return
                if worker is None:
                    break
                self._give(worker, queue.next())

    def _free_worker(self, task: Task) -> Worker | None:
        alike = sum(w.task is not None and w.task.urgent == task.urgent for w in self.workers)
        if alike >= self._limit + task.urgent:
            return None
        idle = [worker for worker in self.workers if worker.task is None]
        # Clean ones are the last to be given what makes them unfit for what is to be done apart.
        for worker in sorted(idle, key=lambda worker: worker.clean):
            if worker.clean or not task.apart:
                return worker
        if idle and not self._has_room() and len(self._ending) < self._most:
            self._end(idle[0])
        return self._start() if self._has_room() else None

    def _has_room(self) -> bool:
        """Say whether one more worker may be started."""
        # As many again may be dying; beyond that there is no end to it.
        return len(self.workers) + max(0, len(self._ending) - self._most) < self._most

    def _cannot_start(self, error: OSError) -> None:
        """Wait for the workers there are; without any, fail what waits."""
        log.warning("no loader process can be started: %s", error.strerror)
        if self.workers:
            if all(worker.task is None for worker in self.workers):  # unfit, and in the way
                self._end(self.workers[0])
            return
        told = LoadError(
            f"The daemon can start no loader process: {error.strerror}. Processes, descriptors "
            "or memory are exhausted there; ask again when some are free."
        )
        for task in self._take_all():
            self._loop.call_soon(task.finish, told)

    def _start(self) -> Worker:
        worker = Worker.start(self._memory)
        self.workers.append(worker)
        self._loop.add_reader(worker.sock, self._on_readable, worker)
        return worker

    def _give(self, worker: Worker, task: Task) -> None:
        worker.stop_timer()
        worker.task = task
        # The last clean one stays clean: it reads headers apart.
        last = all(other is worker for other in self.workers if other.clean)
        apart = task.apart or (task.urgent and worker.clean and last)
        worker.clean = worker.clean and apart
        self._limit_time(task, self._loop.time())
        failpoints.hit("daemon.part")
        self._send(worker, {**task.wire, "apart": apart})

    def _send(self, worker: Worker, message: Mapping[str, Any]) -> None:
        """Send now, or as soon as it reads: the loop must not wait for one that is stopped."""
        worker.outbox += pack(message)
        self._flush(worker)

    def _flush(self, worker: Worker) -> None:
        try:
            del worker.outbox[: worker.sock.send(worker.outbox)]
        except BlockingIOError:
            pass
        except OSError:  # it reads no more; the end of its own stream will report it
            worker.outbox.clear()
            worker.process.kill()
        if worker.outbox:
            self._loop.add_writer(worker.sock, self._flush, worker)
        else:
            self._loop.remove_writer(worker.sock)

    def _limit_time(self, task: Task, since: float) -> None:
        """Let a task fail if it takes longer than `timeout` from then on."""
        if task.deadline is not None:
            task.deadline.cancel()
        task.deadline = self._loop.call_at(since + self._timeout, self._overdue, task)

    def _overdue(self, task: Task) -> None:
        """Fail a task that takes too long, or that waits while none of the workers gets on."""
        busy = [worker for worker in self.workers if worker.task is task]
        if not busy and self._moved + self._timeout > self._loop.time():
            self._limit_time(task, self._moved)
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
            data = worker.sock.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:  # ECONNRESET: it ended with something of ours unread
            data = b""
        if not data:
            self._detach(worker)
            worker.timer = self._loop.call_later(ENDING, worker.process.kill)
            return
        try:
            worker.inbox.feed(data)
            told = [messages.checked(message) for message in worker.inbox]
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            log.warning("loader %d talks nonsense: %s", worker.process.pid, error)
            self._end(worker)
            return
        for message in told:
            self._on_message(worker, message)

    def _on_message(self, worker: Worker, message: Mapping[str, Any]) -> None:
        task = worker.task
        if task is None or message["id"] != task.wire["id"]:
            return
        self._moved = self._loop.time()
        if "rows" in message:
            if not task.over:
                task.on_rows(message["rows"])
            return
        worker.task = None
        worker.stop_timer()
        result = messages.result(message, task.label)
        if message.get("spent") or isinstance(result, ProtocolMismatch):
            self._end(worker)
        else:
            self._schedule_retire(worker)
        task.finish(result)
        self._dispatch()

    def _schedule_retire(self, worker: Worker) -> None:
        worker.timer = self._loop.call_later(RETIRE_AFTER, self._end, worker)

    # ---- ends ----------------------------------------------------------------------------

    def _kill_and_refill(self, worker: Worker) -> None:
        """Kill a worker that hangs; another may take its place before it is dead."""
        self._end(worker)
        self._dispatch()

    def _end(self, worker: Worker) -> None:
        """Kill a worker, and wait for its death elsewhere."""
        self._detach(worker)
        worker.process.kill()

    def _detach(self, worker: Worker) -> None:
        """Have no more to do with a worker but to wait for its death."""
        worker.stop_timer()
        self._loop.remove_reader(worker.sock)
        self._loop.remove_writer(worker.sock)
        worker.sock.close()
        self.workers.remove(worker)
        self._ending.append(worker)
        self._loop.add_reader(worker.pidfd, self._on_death, worker)

    def _on_death(self, worker: Worker) -> None:
        worker.stop_timer()
        self._ending.remove(worker)
        self._loop.remove_reader(worker.pidfd)
        os.close(worker.pidfd)
        code = worker.process.wait()  # a pidfd is readable when this returns at once
        if worker.task is not None:
            log.warning("loader %d ended (%s)", worker.process.pid, _cause(code))
            worker.task.finish(self._crashed(worker.task, code))
        self._dispatch()

    def _crashed(self, task: Task, code: int) -> LoaderCrashed:
        return LoaderCrashed(
            f"The process that read {task.label} died ({_cause(code)}). The file may be corrupt in "
            "a way that crashes its library, or memory ran out: a loader may use "
            f"{format_bytes(self._memory)} (the daemon's --loader-memory).",
            signal=-code if code < 0 else None,
        )


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
