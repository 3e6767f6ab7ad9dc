"""The pool of loader processes: start, give tasks, notice deaths, retire.

A worker is dead before anything of its task is given to another: only then is it sure
that it no longer writes. One that dies fails its task, not the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from arrayd.errors import ArraydError, LoaderCrashed, from_wire
from arrayd.packing import pack, stream

log = logging.getLogger(__name__)

RETIRE_AFTER = 60.0
"""Seconds after which an idle worker goes: it holds some 40 MB."""

CANCEL_GRACE = 5.0
"""Seconds a worker has to notice a cancelled task before it is killed."""

_EXTRA_FOR_PROBES = 2  # so that a header is read at once while all others are busy

Result = Callable[[Mapping[str, Any] | ArraydError], None]


@dataclass(eq=False)
class Task:
    """Something for a worker to do."""

    job: int
    label: str  # for the log and the error: what is being read
    wire: dict[str, Any]
    on_result: Result
    on_rows: Callable[[int], None]
    urgent: bool = False  # a probe


@dataclass(eq=False)
class Worker:
    """A loader process and the task it has."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    inbox: msgpack.Unpacker = field(default_factory=stream)
    task: Task | None = None
    timer: asyncio.TimerHandle | None = None  # retires it, or kills it when it ignores a cancel


class Pool:
    """Up to `limit` workers (and two more for probes), started as they are needed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self.workers: list[Worker] = []
        self._loop = loop
        self._limit = limit
        self._queue: deque[Task] = deque()
        self._numbers = iter(range(1, sys.maxsize))

    def submit(self, task: Task) -> None:
        """Do a task as soon as a worker is free; probes go first."""
        task.wire["id"] = next(self._numbers)
        if task.urgent:
            self._queue.appendleft(task)
        else:
            self._queue.append(task)
        self._dispatch()

    def warm(self) -> None:
        """Start a worker ahead of the first task: whoever started us is about to ask."""
        worker = self._start()
        worker.timer = self._loop.call_later(RETIRE_AFTER, self._retire, worker)

    def cancel(self, job: int) -> None:
        """Forget the tasks of a job; a worker that has one is told, or else killed."""
        self._queue = deque(task for task in self._queue if task.job != job)
        for worker in self.workers:
            if worker.task is not None and worker.task.job == job:
                worker.task.on_result = worker.task.on_rows = _ignore
                if worker.timer is None:
                    self._send(worker, {"cancel": worker.task.wire["id"]})
                    kill = worker.process.kill
                    worker.timer = self._loop.call_later(CANCEL_GRACE, kill)

    def close(self) -> None:
        """End all workers and wait for them: SIGKILL, for nothing of theirs is worth keeping."""
        self._queue.clear()
        for worker in list(self.workers):
            worker.process.kill()
            self._remove(worker)

    def _dispatch(self) -> None:
        while self._queue:
            worker = self._free_worker(urgent=self._queue[0].urgent)
            if worker is None:
                return
            task = self._queue.popleft()
            worker.task = task
            self._send(worker, task.wire)

    def _free_worker(self, *, urgent: bool) -> Worker | None:
        for worker in self.workers:
            if worker.task is None:
                self._stop_timer(worker)
                return worker
        if len(self.workers) < self._limit + (_EXTRA_FOR_PROBES if urgent else 0):
            return self._start()
        return None

    def _start(self) -> Worker:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "arrayd_server.worker",
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        worker = Worker(process, ours)
        self.workers.append(worker)
        self._loop.add_reader(ours, self._on_readable, worker)
        return worker

    def _send(self, worker: Worker, message: Mapping[str, Any]) -> None:
        data = pack(message)
        try:
            worker.sock.setblocking(True)  # an idle worker reads: this ends
            worker.sock.settimeout(1.0)
            worker.sock.sendall(data)
        except OSError:
            worker.process.kill()  # the end of its stream reports the failed task
        finally:
            worker.sock.setblocking(False)

    def _on_readable(self, worker: Worker) -> None:
        try:
            data = worker.sock.recv(1 << 20)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._died(worker)
            return
        worker.inbox.feed(data)
        for message in worker.inbox:
            self._on_message(worker, message)

    def _on_message(self, worker: Worker, message: Mapping[str, Any]) -> None:
        task = worker.task
        if task is None or message["id"] != task.wire["id"]:
            return
        if "rows" in message:
            task.on_rows(message["rows"])
            return
        worker.task = None
        self._stop_timer(worker)
        worker.timer = self._loop.call_later(RETIRE_AFTER, self._retire, worker)
        task.on_result(message["ok"] if "ok" in message else from_wire(message["err"]))
        self._dispatch()

    def _died(self, worker: Worker) -> None:
        task = worker.task
        code = self._remove(worker)
        log.warning("loader %d ended (%s)", worker.process.pid, _cause(code))
        if task is not None:
            task.on_result(
                LoaderCrashed(
                    f"The process that read {task.label} died ({_cause(code)}). The file may be "
                    "corrupt in a way that crashes its library, or memory ran out.",
                    signal=-code if code < 0 else None,
                )
            )
        self._dispatch()

    def _remove(self, worker: Worker) -> int:
        """Take a worker out and make sure that it is dead; return how it ended."""
        self._loop.remove_reader(worker.sock)
        self._stop_timer(worker)
        worker.sock.close()
        self.workers.remove(worker)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return worker.process.wait(0.2)
        worker.process.kill()
        return worker.process.wait()

    def _retire(self, worker: Worker) -> None:
        if worker.task is None:
            self._remove(worker)

    def _stop_timer(self, worker: Worker) -> None:
        if worker.timer is not None:
            worker.timer.cancel()
            worker.timer = None


def _ignore(_: object) -> None:
    """Take no notice of what a cancelled task still says."""


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
