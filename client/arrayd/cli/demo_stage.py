"""What ``arrayd demo`` needs: a daemon of its own, sample files, processes that read them.

Daemon and processes are context managers that leave nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np

from arrayd.errors import ArraydError, NoDaemon, from_wire
from arrayd.system import daemon_probe
from arrayd.wire.dtypes import descr

SAMPLE_DTYPE = np.dtype([("chr", "S10"), ("pos", "i4"), ("pct", "f4"), ("c", "i4"), ("t", "i4")])
"""Of the sample files: chromosome, position, percentage methylated, counts of both kinds."""

_SAMPLE_ROWS = 200_000
_TIMEOUT = 10.0  # seconds in which a process starts, answers or ends

# Not in the terminal's group: a Ctrl-C goes to the demo alone, which ends them in order.
_OWN_GROUP: dict[str, Any] = {"process_group": 0}


@contextlib.contextmanager
def directory() -> Iterator[str]:
    """Give a directory whose path is short enough for a socket in it."""
    place = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(
        prefix="arrayd-demo-", dir=place if len(place) <= 60 else "/tmp"
    ) as name:
        yield name


def write_samples(folder: str, count: int) -> list[str]:
    """Write text files like those of a methylation caller; return their paths."""
    paths = [os.path.join(folder, f"sample{n}.cov.txt") for n in range(1, count + 1)]
    for seed, path in enumerate(paths):
        random = np.random.default_rng(seed)
        position = 9_000_000 + np.cumsum(random.integers(1, 200, _SAMPLE_ROWS))
        met, unmet = random.poisson(9, _SAMPLE_ROWS), 1 + random.poisson(4, _SAMPLE_ROWS)
        columns = (position, 100 * met / (met + unmet), met, unmet)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        with open(path, "w") as file:
            file.writelines(map("chr21\t%d\t%.2f\t%d\t%d\n".__mod__, rows))
    return paths


class DemoDaemon:
    """A daemon on a socket in `folder`, a child of this process.

    Its flags set every option that the environment could set otherwise.
    """

    def __init__(self, folder: str) -> None:
        self.endpoint = f"ipc://{folder}/sock"
        self._log = os.path.join(folder, "log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and wait until it listens.

        Raises
        ------
        NoDaemon
            It does not; the text has the end of its log.
        """
        # Should the demo be killed, it ends by itself: when idle, or without its directory.
        flags = ["--private", "--idle-exit", "60", "--config", "-", "--log-file", "-"]
        environment = {k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"}
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "arrayd_server", "--endpoint", self.endpoint, *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                **_OWN_GROUP,
            )
        try:
            ended = self._process.poll
            wait_until(lambda: daemon_probe.alive(self.endpoint) or ended() is not None)
            if not daemon_probe.alive(self.endpoint):
                raise NoDaemon(f"The demo's daemon does not start: {self._end_of_log()}")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop it as ``arrayd stop`` does: blocks that nobody maps are unlinked."""
        process, self._process = self._process, None
        if process is not None:
            end(process, process.terminate)

    def _end_of_log(self) -> str:
        with open(self._log, errors="replace") as log:
            return " ".join(log.read().split())[-500:] or "it said nothing."


class DemoReader:
    """A process that gets the files and holds them; see `arrayd.cli.demo_reader`."""

    def __init__(self, endpoint: str, files: Sequence[str], dtype: np.dtype[Any] | None) -> None:
        words = "" if dtype is None else str(descr(dtype))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "arrayd.cli.demo_reader", endpoint, words, *files],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **_OWN_GROUP,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def send(self, word: str) -> None:
        """Send it a command; see `arrayd.cli.demo_reader`."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Return its answer.

        Raises
        ------
        ArraydError
            Its answer is this error, or it died.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ArraydError(f"The demo's reader {self.process.pid} died.")
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise from_wire(said["error"])
        return said

    def kill(self) -> None:
        """End it with SIGKILL, if it has not ended."""
        self.process.kill()
        self.process.wait()

    def finish(self) -> None:
        """Close its input, at which it ends as a script does."""
        assert self.process.stdin is not None
        end(self.process, self.process.stdin.close)


def run_arrayd(*words: str) -> str:
    """Run an ``arrayd`` command to its end; return what it prints.

    Raises
    ------
    ArraydError
        It failed; the text has its error.
    """
    program = "import sys; from arrayd.cli import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **_OWN_GROUP,
    ) as process:
        try:
            printed, complaint = map(str, process.communicate())
        except BaseException:
            end(process, process.terminate)
            raise
    if process.returncode != 0:
        raise ArraydError(f"arrayd {words[0]} failed: {complaint.strip()}")
    return printed


def end(process: subprocess.Popen[Any], ask: Callable[[], None]) -> None:
    """Ask a process to end, and end it by force if it does not."""
    ask()
    try:
        process.wait(_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(true: Callable[[], bool]) -> float:
    """Wait until `true` returns True, 10 s at most; return the seconds that took."""
    begin = time.monotonic()
    while not true() and time.monotonic() < begin + _TIMEOUT:
        time.sleep(0.001)
    return time.monotonic() - begin
