"""What tests of the whole need: processes on strings, a slow load, and patience.

`conftest.py` imports the fixtures `client`, `puppets` and `slow_file`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import arrayd
from arrayd.errors import ArraydError, from_wire
from arrayd.results.status import BlockStatus
from tests.support import puppet
from tests.support.daemons import PATIENCE, Daemon

PRELUDE = "import os, arrayd, numpy as np"
"""What a puppet runs first, unless the test says otherwise."""

SLOW: dict[str, Any] = {"quotechar": '"'}
"""The options with which `slow_file` is read by one worker, for a good part of a second."""

SLOW_ROWS = 500_000


class PuppetError(Exception):
    """A puppet's code raised what is no error of arrayd; the text is its traceback."""


class Puppet:
    """The test's end of a string: a real process that does as it is told.

    Parameters
    ----------
    stage
        Where its like come from.
    process
        None for one that another puppet has forked.
    """

    def __init__(self, stage: Stage, process: subprocess.Popen[bytes] | None) -> None:
        self._stage = stage
        self._process = process
        self._sock, self.pid = stage.accept()
        self._replies = self._sock.makefile("r")
        self._pidfd = os.pidfd_open(self.pid)

    def __call__(self, code: str) -> Any:
        """Run code in the process, and return the value of its last line."""
        self.send(code)
        return self.reply()

    def send(self, code: str) -> None:
        """Have code run without waiting for its end."""
        self._sock.sendall(f"{json.dumps(code)}\n".encode())

    def reply(self) -> Any:
        """Return what the code that was sent has come to, or raise what it raised."""
        answer = json.loads(self._replies.readline())
        if "error" not in answer:
            return answer["value"]
        if answer["known"]:
            raise from_wire({"code": answer["error"], "message": answer["text"]})
        if answer["error"] == "KeyboardInterrupt":
            raise KeyboardInterrupt
        raise PuppetError(answer["text"])

    def fork(self) -> Puppet:
        """Have it fork; return the child."""
        self.send("fork()")
        child = Puppet(self._stage, None)
        self._stage.cast.append(child)
        assert self.reply() == child.pid
        return child

    def reincarnate(self, prelude: str = "import os") -> None:
        """Have it exec another program: its mappings go, its process id stays."""
        self.send("reincarnate()")
        self._close()
        self._sock, pid = self._stage.accept()
        self._replies = self._sock.makefile("r")
        assert pid == self.pid
        self(prelude)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal that ends it, and wait for that."""
        signal.pidfd_send_signal(self._pidfd, number)
        self._wait()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGINT)

    def end(self) -> None:
        """Let it come to the end of its script."""
        self._close()
        self._wait()

    def discard(self) -> None:
        """End it if it has not ended yet; the test is over."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._wait()
        self._close()
        os.close(self._pidfd)

    def dismiss(self) -> None:
        """End it before its stage is closed."""
        self._stage.cast.remove(self)
        self.discard()

    def _wait(self) -> None:
        assert select.select([self._pidfd], [], [], PATIENCE)[0], f"{self.pid} does not end"
        if self._process is not None:
            self._process.wait()

    def _close(self) -> None:
        self._replies.close()
        self._sock.close()


@dataclass
class Stage:
    """Where puppets come from: ``stage(daemon)`` starts one whose daemon that is.

    Parameters
    ----------
    path
        Of the socket where they report.
    """

    path: str
    cast: list[Puppet] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.listener.settimeout(PATIENCE)

    def __call__(
        self, daemon: Daemon, prelude: str = PRELUDE, wrapper: Sequence[str] = ()
    ) -> Puppet:
        """Start a process; `wrapper` is a command that becomes it by exec."""
        return self.start({"ARRAYD_ENDPOINT": daemon.endpoint}, prelude, wrapper)

    def start(
        self, variables: Mapping[str, str], prelude: str, wrapper: Sequence[str] = ()
    ) -> Puppet:
        """Start a process with more variables in its environment."""
        process = subprocess.Popen(
            [*wrapper, sys.executable, puppet.__file__, self.path],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
        )
        self.cast.append(Puppet(self, process))
        self.cast[-1](prelude)
        return self.cast[-1]

    def accept(self) -> tuple[socket.socket, int]:
        """Return the string of the next process that reports, and its pid."""
        sock, _ = self.listener.accept()
        sock.settimeout(PATIENCE)
        pid = b""
        while not pid.endswith(b"\n"):
            pid += sock.recv(1)
        return sock, int(pid)

    def close(self) -> None:
        """End all."""
        for one in reversed(self.cast):
            one.discard()
        self.listener.close()


@pytest.fixture
def puppets(start_daemon: Callable[..., Daemon], short_directory: Path) -> Iterator[Stage]:
    """Give ``puppets(daemon)``: real client processes, which end before their daemon does."""
    stage = Stage(f"{short_directory}/stage")
    yield stage
    stage.close()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[arrayd.Client]:
    """Give a session with `daemon` in the process of the test."""
    with arrayd.connect(daemon.endpoint) as session:
        yield session
        gc.collect()  # an exception that a test looked at keeps its frames, and their arrays


@pytest.fixture(scope="session")
def slow_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a text file of `SLOW_ROWS` rows that takes its time when read with `SLOW`."""
    path = tmp_path_factory.mktemp("slow") / "slow.txt"
    path.write_text("1 2 3\n" * SLOW_ROWS)
    return path


def save(path: Path, array: npt.ArrayLike) -> npt.NDArray[Any]:
    """Write an array as ``.npy``, whatever the name of the file; return what it holds."""
    values = np.asarray(array)
    with path.open("wb") as file:
        np.save(file, values)
    return values


def block_of(array: arrayd.SharedArray) -> arrayd.Block:
    """Return the block an array lies in; it lies in one."""
    assert array.block is not None
    return array.block


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Wait until `holds` returns something true; fail when it does not in time."""
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            pytest.fail(f"not in {PATIENCE:.0f} s: {what}")
        time.sleep(0.002)


def only_block(client: arrayd.Client) -> BlockStatus:
    """Return the status of the one block there is."""
    (block,) = client.status().blocks
    return block


def pids(block: BlockStatus) -> list[int]:
    """Return the processes that hold a block."""
    return sorted(holder.pid for holder in block.holders)


def is_empty(client: arrayd.Client) -> bool:
    """Say whether the daemon has no block and nothing to do."""
    status = client.status()
    return not status.blocks and not status.jobs


def leaves_nothing_behind(client: arrayd.Client) -> None:
    """Wait until no block, no job and no segment is left."""
    wait_until(lambda: is_empty(client), "no block and no job is left")
    family = f"arrayd-{client.status().scope}"
    # The pages of a block that goes may be kept for some seconds, for the next of its size.
    wait_until(
        lambda: not any(name.startswith(family) for name in os.listdir("/dev/shm")),
        "no segment is left",
    )


def workers(daemon: Daemon) -> list[int]:
    """Return the daemon's loader and reader processes; its fork server is none."""
    return children_named(daemon, "arrayd-loader") + children_named(daemon, "arrayd-reader")


def children_named(daemon: Daemon, name: str) -> list[int]:
    """Return the children of the daemon with this name in ``ps``."""
    named = []
    for pid in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has been reaped
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                named.append(int(pid))
    return named


@contextlib.contextmanager
def frozen(daemon: Daemon) -> Iterator[list[int]]:
    """Stop the loader processes for a while, and what would start others; give their pids."""
    stopped = workers(daemon)
    all_of_them = [*stopped, *children_named(daemon, "arrayd-forks")]
    for pid in all_of_them:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield stopped
    finally:
        for pid in all_of_them:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def frozen_load(daemon: Daemon, client: arrayd.Client) -> Iterator[list[int]]:
    """Wait for the one load to be in the middle of its rows, and stop it there."""

    def under_way() -> bool:
        return any(b.state == "loading" and b.done for b in client.status().blocks)

    wait_until(under_way, "the load is under way")
    with frozen(daemon) as stopped:
        assert under_way(), "the load was over before it could be stopped"
        yield stopped


def raised(call: Callable[[], object]) -> tuple[ArraydError, float]:
    """Return the error that a call raises, and the seconds it took to say so."""
    began = time.monotonic()
    with pytest.raises(ArraydError) as caught:
        call()
    return caught.value, time.monotonic() - began
