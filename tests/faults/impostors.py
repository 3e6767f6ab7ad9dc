"""Loader processes that do everything wrong, for the tests of the pool.

Each is a program that gets the arguments of the real one: descriptor, parent, memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from arrayd.errors import ArraydError
from arrayd_server.loading import worker_pool
from arrayd_server.loading.fork_server import ForkServer
from arrayd_server.loading.tasks import Task
from arrayd_server.loading.worker_pool import Pool

_PRELUDE = """
import os, signal, socket, sys, time
from arrayd.wire.codec import pack, stream
from arrayd.wire.protocol import PACKAGE_VERSION
sock = socket.socket(fileno=int(sys.argv[1]))
inbox = stream()
def task():
    while True:
        for message in inbox:
            return message
        data = sock.recv(1 << 20)
        if not data:
            raise SystemExit(0)
        inbox.feed(data)
def good(wire, **more):
    ok = {"pid": os.getpid()}
    sock.sendall(pack({"id": wire["id"], "ok": ok, "version": PACKAGE_VERSION, **more}))
def sleep():
    while True:
        time.sleep(60)
"""

_END = "\nwhile True: good(task())"

IMPOSTORS = {
    "honest": "",
    "slow": "while True: wire = task(); time.sleep(0.2); good(wire)",
    "garbage": "task(); sock.sendall(bytes([0xC1]) * 1000); sleep()",
    "text": "task(); sock.sendall(b'Fatal error: heap corrupted'); sleep()",
    "half": "sock.sendall(pack({'id': task()['id'], 'ok': {'x': bytes(1000)}})[:500]); sleep()",
    "giant": "task(); sock.sendall(b'\\xc6\\x7f\\xff\\xff\\xff' + bytes(30 << 20)); sleep()",
    "list": "task(); sock.sendall(pack([1, 2, 3])); sleep()",
    "number": "sock.sendall(pack({'id': task()['id'], 'ok': 5})); sleep()",
    "both": "sock.sendall(pack({'id': task()['id'], 'ok': {}, 'err': {}})); sleep()",
    "rows": "sock.sendall(pack({'id': task()['id'], 'rows': 'many'})); sleep()",
    "other": "task(); sock.sendall(pack({'id': 10**9, 'ok': {}})); sleep()",
    "closes": "task(); sock.close(); sleep()",
    "shuts": "task(); sock.shutdown(socket.SHUT_WR); sleep()",
    "exits": "task(); raise SystemExit(3)",
    "silent": "task(); sleep()",
    "deaf": "sleep()",
    "stopped": "task(); os.kill(os.getpid(), signal.SIGSTOP); sleep()",
    "stubborn": "signal.signal(signal.SIGTERM, signal.SIG_IGN); task(); sock.close(); sleep()",
    "spent": "good(task(), spent=True)",
    "newer": "PACKAGE_VERSION = '99.1'",
}


@contextlib.contextmanager
def program(name: str) -> Iterator[None]:
    """Have new workers be one of `IMPOSTORS`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_pool, "PROGRAM", ("-c", f"{_PRELUDE}\n{IMPOSTORS[name]}{_END}"))
        yield


class Errand:
    """A task for a pool, whose result can be waited for."""

    def __init__(
        self,
        pool: Pool,
        job: int = 1,
        *,
        urgent: bool = False,
        size: int = 0,
        patience: float | None = None,
        user: int | None = None,
    ) -> None:
        self._result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.told = 0
        wire = {"op": "probe", "source": {"path": "/x" + size * "x"}}
        self.task = Task(job, "/x", wire, self._tell, lambda rows: None, urgent, patience=patience)
        self.task.user = user
        pool.submit(self.task)

    async def result(self) -> Any:
        """Return what the worker answered.

        Raises
        ------
        ArraydError
            It failed.
        """
        return await asyncio.wait_for(self._result, 20)

    @property
    def done(self) -> bool:
        """Say whether a result was told."""
        return self._result.done()

    def _tell(self, result: Any) -> None:
        self.told += 1
        if isinstance(result, ArraydError):
            self._result.set_exception(result)
        else:
            self._result.set_result(result)


def no_forks() -> ForkServer:
    """Return what forks nothing, for the running loop: all processes are started by exec."""
    return ForkServer(asyncio.get_running_loop(), ())


@contextlib.asynccontextmanager
async def pool(timeout: float = 20.0, limit: int = 1) -> AsyncIterator[Pool]:
    """Give a pool in the running loop."""
    one = Pool(no_forks(), limit, timeout=timeout, memory=1 << 30)
    try:
        yield one
    finally:
        one.close()


async def outcome(pool: Pool, **options: Any) -> str:
    """Return what comes of a task."""
    try:
        await Errand(pool, **options).result()
    except ArraydError as error:
        assert "/x" in str(error)
        return type(error).__name__
    return "answer"


async def longest_turn(until: Callable[[], bool]) -> float:
    """Return the longest time in which the loop did not come round."""
    longest, last = 0.0, time.monotonic()
    while not until():
        await asyncio.sleep(0.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest
