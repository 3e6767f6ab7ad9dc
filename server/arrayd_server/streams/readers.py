"""The daemon's side of the reader processes: start them, give them windows, notice their deaths.

Each stream has one. A reader that dies, hangs or talks nonsense fails its stream. The failure is
reported once the process is dead, for only then is it sure that it writes no more into the ring;
or after `EXIT_GRACE`, for SIGKILL does not end a process in uninterruptible sleep (a dead NFS).
Nothing is ever waited for, but in `ReaderPool.close`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from arrayd.common.bytesize import format_bytes
from arrayd.errors import (
    ArraydError,
    LoaderCrashed,
    LoadError,
    LoadTimeout,
    ProtocolMismatch,
    from_wire,
)
from arrayd.wire.codec import stream
from arrayd.wire.protocol import PACKAGE_VERSION
from arrayd_server.loading.early_start import READER
from arrayd_server.loading.fork_server import ForkServer
from arrayd_server.loading.messages import other_version
from arrayd_server.loading.own_process import OwnProcess, cause
from arrayd_server.stream_identity import StreamIdentity
from arrayd_server.streams.messages import (
    ReaderTask,
    RingTask,
    WindowRead,
    WindowTask,
    checked,
)

log = logging.getLogger(__name__)

PROGRAM = ("-m", READER)

LAST_WORDS = 0.5
"""Seconds from the end of a reader's stream until it is killed: it may be writing to the log."""

EXIT_GRACE = 2.0
"""Seconds that the death of a killed reader is waited for before its failure is reported."""

CLOSE_TIMEOUT = 2.0
"""Seconds that `ReaderPool.close` waits for killed readers."""

_MAX_INBOX = 1 << 20
_STARTING = (0, -1)  # in `ReaderProcess.deadlines`: not a window, but the start


OnReady = Callable[[int], None]
"""``on_ready(stream)``: the reader has looked at the manifest, and can be given windows."""

OnRead = Callable[[int, int, int, int, Mapping[str, int]], None]
"""``on_read(stream, generation, start, stop, stats)``: see `WindowRead`."""

OnFailed = Callable[[int, ArraydError], None]
"""``on_failed(stream, error)``: nothing more comes of it."""


class ReaderProcess(OwnProcess):
    """The reader process of a stream; its other parameters are those of `OwnProcess`.

    Parameters
    ----------
    number, words
        Of the stream.
    told
        Who hears of it.
    """

    def __init__(
        self,
        forks: ForkServer,
        memory: int,
        on_readable: Callable[[ReaderProcess], None],
        on_exit: Callable[[ReaderProcess, int | OSError], None],
        *,
        number: int,
        words: str,
        told: tuple[OnReady, OnRead, OnFailed],
    ) -> None:
        super().__init__(forks, PROGRAM, memory, on_readable=on_readable, on_exit=on_exit)
        self.stream, self.words = number, words
        self.on_ready, self.on_read, self.on_failed = told
        self.inbox = stream(_MAX_INBOX)
        # Until when it is to answer: by generation and start of a window.
        self.deadlines: dict[tuple[int, int], asyncio.TimerHandle] = {}
        self.generation = 0
        self.error: ArraydError | None = None  # with which the stream fails when it is dead
        self.grace: asyncio.TimerHandle | None = None


class ReaderPool:
    """The readers of all streams.

    Parameters
    ----------
    forks
        Where they come from.
    timeout
        Seconds in which a reader must be ready, and a window be read.
    memory
        Bytes that each may use besides rings.
    """

    def __init__(self, forks: ForkServer, *, timeout: float, memory: int) -> None:
        self._forks = forks
        self._loop = forks.loop
        self._timeout = timeout
        self._memory = memory
        self._readers: dict[int, ReaderProcess] = {}
        self._ending: set[ReaderProcess] = set()

    def adjust(self, *, timeout: float, memory: int) -> None:
        """Let the parameters be others; memory, of the readers that are started from now on."""
        self._timeout, self._memory = timeout, memory

    def start(
        self,
        stream: int,
        identity: StreamIdentity,
        segment_path: str,
        share_path: str | None,
        *,
        on_ready: OnReady,
        on_read: OnRead,
        on_failed: OnFailed,
    ) -> None:
        """Start the reader of a stream: its ring is in one segment, its resident share in another.

        The callbacks are called from the loop.
        """
        words = f"the stream of {identity}"
        try:
            reader = ReaderProcess(
                self._forks,
                self._memory,
                self._on_readable,
                self._on_exit,
                number=stream,
                words=words,
                told=(on_ready, on_read, on_failed),
            )
        except OSError as error:
            self._loop.call_soon(on_failed, stream, _not_started(words, error))
            return
        self._readers[stream] = reader
        self._limit_time(reader, _STARTING)
        self._send(reader, "start", ReaderTask(identity, segment_path, share_path).to_wire())

    def read(self, stream: int, start: int, stop: int) -> None:
        """Have a window read into the present ring."""
        reader = self._readers.get(stream)
        if reader is not None and not reader.detached:
            self._limit_time(reader, (reader.generation, start))
            task = WindowTask(reader.generation, start, stop)
            self._send(reader, "window", task.to_wire())

    def change_ring(self, stream: int, segment_path: str, generation: int) -> None:
        """Have the windows that are asked for from now on read into another segment."""
        reader = self._readers.get(stream)
        if reader is not None:
            reader.generation = generation
            self._send(reader, "ring", RingTask(generation, segment_path).to_wire())

    def stop(self, stream: int) -> None:
        """End the reader of a stream; nothing is heard of it any more."""
        reader = self._readers.pop(stream, None)
        if reader is not None:
            self._end(reader)

    def close(self) -> None:
        """End all readers by SIGKILL."""
        for number in list(self._readers):
            self.stop(number)
        until = time.monotonic() + CLOSE_TIMEOUT
        for reader in self._ending:
            if not reader.reap(until):
                log.warning("reader %d survives SIGKILL: it is left alone", reader.pid)
        self._ending.clear()

    # ---- to and from a reader ------------------------------------------------------------

    def _send(self, reader: ReaderProcess, op: str, task: Mapping[str, Any]) -> None:
        """Send now, or when its socket has room: a reader that is stopped must not block us."""
        if reader.detached:  # the stream fails as soon as it is dead
            return
        reader.send({"op": op, **task})

    def _on_readable(self, reader: ReaderProcess) -> None:
        try:
            data = reader.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._detach(reader)
            reader.grace = self._loop.call_later(LAST_WORDS, self._fail, reader, None)
            return
        try:
            reader.inbox.feed(data)
            answers = [checked(message) for message in reader.inbox]
        except ProtocolMismatch as error:  # another arrayd has been installed since
            self._fail(reader, error)
            return
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            log.warning("reader %d talks nonsense: %s", reader.pid, error)
            self._fail(reader, None)
            return
        for kind, answer in answers:
            if not reader.detached:
                self._on_answer(reader, kind, answer)

    def _on_answer(self, reader: ReaderProcess, kind: str, answer: Any) -> None:
        if kind == "err":
            self._fail(reader, from_wire(answer))
        elif kind == "ready":
            self._in_time(reader, _STARTING)
            if answer == PACKAGE_VERSION:
                reader.on_ready(reader.stream)
            else:
                self._fail(reader, other_version(f"{reader.words} is not read", answer))
        else:
            assert isinstance(answer, WindowRead)
            self._in_time(reader, (answer.generation, answer.start))
            place = (answer.generation, answer.start, answer.stop)
            reader.on_read(reader.stream, *place, answer.stats)

    # ---- time, and ends ------------------------------------------------------------------

    def _limit_time(self, reader: ReaderProcess, what: tuple[int, int]) -> None:
        timer = self._loop.call_later(self._timeout, self._overdue, reader, what)
        reader.deadlines[what] = timer

    def _in_time(self, reader: ReaderProcess, what: tuple[int, int]) -> None:
        deadline = reader.deadlines.pop(what, None)
        if deadline is not None:
            deadline.cancel()

    def _overdue(self, reader: ReaderProcess, what: tuple[int, int]) -> None:
        doing = "opening its dataset" if what == _STARTING else "reading a window"
        self._fail(
            reader,
            LoadTimeout(
                f"{reader.words}: {doing} takes longer than {self._timeout:g} s (the daemon's "
                "--load-timeout). Its file system may hang; the reader is killed."
            ),
        )

    def _fail(self, reader: ReaderProcess, error: ArraydError | None) -> None:
        """Fail a stream when its reader is dead; without an error, with the cause of the death."""
        reader.error = error
        self._end(reader)
        reader.grace = self._loop.call_later(EXIT_GRACE, self._report, reader, None)

    def _end(self, reader: ReaderProcess) -> None:
        """Kill a reader, and listen to it no more."""
        self._detach(reader)
        if reader.grace is not None:
            reader.grace.cancel()
        reader.kill()

    def _detach(self, reader: ReaderProcess) -> None:
        """Listen to a reader no more; what is left is to wait for its death."""
        if not reader.detached:
            for deadline in reader.deadlines.values():
                deadline.cancel()
            self._ending.add(reader)
            reader.detach()

    def _on_exit(self, reader: ReaderProcess, how: int | OSError) -> None:
        self._ending.discard(reader)
        timers = [*reader.deadlines.values(), reader.grace]
        for timer in filter(None, timers):
            timer.cancel()
        if isinstance(how, OSError):
            reader.error = _not_started(reader.words, how)
        self._report(reader, how)

    def _report(self, reader: ReaderProcess, how: int | OSError | None) -> None:
        """Say that a stream has failed, unless it was stopped."""
        if self._readers.get(reader.stream) is not reader:
            return
        del self._readers[reader.stream]
        reader.on_failed(reader.stream, reader.error or self._crashed(reader, how))

    def _crashed(self, reader: ReaderProcess, how: int | OSError | None) -> LoaderCrashed:
        code = how if isinstance(how, int) else None
        why = "it does not end" if code is None else cause(code)
        log.warning("reader %d ended (%s)", reader.pid, why)
        return LoaderCrashed(
            f"The process that read {reader.words} died ({why}). A file may be corrupt in a way "
            "that crashes its library, or memory ran out: a reader may use "
            f"{format_bytes(reader.memory)} besides its ring (the daemon's --loader-memory). Open "
            "the stream again at the position where it stopped.",
            signal=-code if code is not None and code < 0 else None,
        )


def _not_started(words: str, error: OSError) -> LoadError:
    return LoadError(
        f"The daemon can start no process to read {words}: {error.strerror}. Processes, "
        "descriptors or memory are exhausted there; open it again when some are free."
    )
