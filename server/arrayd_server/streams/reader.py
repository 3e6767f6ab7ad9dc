"""The reader process of a stream: it computes the order, and reads windows of rows into the ring.

Started as `arrayd_server.loading.own_process` says, as if by ``python -m
arrayd_server.streams.reader FD PARENT MEMORY``; the messages are those of
`arrayd_server.streams.messages`. It keeps mappings of the ring and of the resident share, and no
descriptor of theirs. Up to two windows are read at a time, so that the disk is busy while one is
copied and cast; to the daemon a window is read when all of it is in the ring. After an error
nothing more is read.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import socket
import threading
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from arrayd.common.bytesize import format_bytes
from arrayd.errors import ArraydError, LoadError, to_wire
from arrayd.wire.codec import pack, stream
from arrayd.wire.protocol import PACKAGE_VERSION
from arrayd.wire.ring import RingLayout
from arrayd_server.kernel.shared_map import map_shared
from arrayd_server.loaders.dataset.reading import ReadQueues
from arrayd_server.loaders.dataset.rows import ReadStats
from arrayd_server.loading.process_start import MAX_WORDS, connected
from arrayd_server.streams.messages import ReaderTask, RingTask, WindowRead, WindowTask
from arrayd_server.streams.share import ResidentShare
from arrayd_server.streams.sources import FieldRows, Orders, manifest_of, selection_of

WINDOWS = 2
"""Windows that are read at a time."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_LARGE = 512 << 10


class Ring:
    """A segment that is mapped for writing, and where everything in it is.

    Raises
    ------
    LoadError
        It is gone.
    """

    def __init__(self, path: str, layout: RingLayout, generation: int = 0) -> None:
        self.generation = generation
        self.slots = layout.slots
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                whole = map_shared(fd, layout.nbytes)
            finally:
                os.close(fd)
        except OSError as error:
            raise LoadError(
                f"{path}: the ring is gone ({error.strerror}). Open the stream again."
            ) from None
        self.ids, self.arrays = layout.ids(whole), layout.arrays(whole)


@dataclass(frozen=True, slots=True)
class StreamReader:
    """What fills the rings of one stream. Threads may share it.

    Parameters
    ----------
    orders, fields, share
        Which rows, how they are read, and those that stay.
    """

    orders: Orders
    fields: tuple[FieldRows, ...]
    share: ResidentShare | None

    @classmethod
    def of(cls, task: ReaderTask) -> StreamReader:
        """Return the reader that a task asks for.

        Raises
        ------
        ArraydError
            The manifest, the row ids or the fields are not what the request says.
        """
        identity = task.identity.understand()
        manifest = manifest_of(identity)
        orders = Orders(selection_of(identity, manifest), identity)
        packs = (
            None if identity.windowed else identity.scratch or os.path.dirname(identity.manifest)
        )
        queues = ReadQueues(WINDOWS)
        fields = tuple(
            FieldRows(manifest, one, identity.overflow, packs, queues) for one in identity.fields
        )
        share = None
        if task.share is not None:
            ring = Ring(task.share, identity.resident)
            share = ResidentShare(ring.ids, ring.arrays)
        return cls(orders, fields, share)

    def read(self, start: int, stop: int, ring: Ring) -> dict[str, int]:
        """Read the rows at positions [start, stop) into their slots; return ``WindowRead.stats``.

        Raises
        ------
        SourceError
            As `RowReader.read`. The slots hold anything.
        """
        began = time.perf_counter()
        epoch, ids = self.orders.window(start, stop)
        where = np.arange(start, stop) % ring.slots
        ring.ids[where] = ids
        missing, places = ids, where
        if self.share is not None:
            slots = self.share.find(ids, epoch)
            here = slots >= 0
            if here.any():
                self.share.take(slots[here], ring.arrays, where[here])
                missing, places = ids[~here], where[~here]
        stats = ReadStats()
        for one in self.fields:
            stats.add(one.read(missing, ring.arrays[one.name], places))
        if self.share is not None:
            self.share.keep(missing, ring.arrays, places)
        sizes = (a.nbytes // len(a) for a in ring.arrays.values())
        return {
            "bytes_read": stats.bytes_read,
            "bytes_used": len(ids) * sum(sizes),
            "rows_from_share": len(ids) - len(missing),
            "values_changed": stats.changed,
            "microseconds": int((time.perf_counter() - began) * 1e6),
        }


class TaskLoop:
    """Takes tasks from the daemon, and answers them."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self._failed = False
        self._windows = ThreadPoolExecutor(WINDOWS, thread_name_prefix="window")
        self._reader: StreamReader | None = None
        self._ring: Ring | None = None
        self._layout: RingLayout | None = None

    def run(self) -> None:
        """Do what the daemon says until it closes the socket."""
        inbox = stream()
        while data := self._sock.recv(1 << 16):
            inbox.feed(data)
            for wire in inbox:
                self._guarded(self._do, wire)

    def _do(self, wire: Mapping[str, Any]) -> None:
        fields = {key: value for key, value in wire.items() if key != "op"}
        match wire["op"]:
            case "start":
                self._start(ReaderTask.from_wire(fields).understand())
            case "window":
                task = WindowTask.from_wire(fields).understand()
                self._windows.submit(self._guarded, self._read, task, self._ring)
            case "ring":
                change = RingTask.from_wire(fields).understand()
                assert self._layout is not None
                self._ring = Ring(change.ring, self._layout, change.generation)

    def _start(self, task: ReaderTask) -> None:
        self._layout = task.identity.ring
        self._ring = Ring(task.ring, self._layout)
        self._reader = StreamReader.of(task)
        self._send({"ready": PACKAGE_VERSION})

    def _read(self, task: WindowTask, ring: Ring) -> None:
        assert self._reader is not None
        stats = self._reader.read(task.start, task.stop, ring)
        done = WindowRead(ring.generation, task.start, task.stop, stats)
        self._send({"read": done.to_wire()})

    def _guarded(self, work: Any, *arguments: Any) -> None:
        """Do something, and send the error that comes of it."""
        if self._failed:
            return
        try:
            work(*arguments)
        except ArraydError as error:
            self._fail(error)
        except MemoryError as error:
            self._fail(_out_of_memory(error))
        except Exception as error:
            traceback.print_exc()
            self._fail(LoadError(f"{type(error).__name__}: {error}. This is a bug in arrayd."))

    def _fail(self, error: ArraydError) -> None:
        self._failed = True
        error.message = error.message[:MAX_WORDS]
        self._send({"err": to_wire(error)})

    def _send(self, message: Mapping[str, Any]) -> None:
        with self._sending, contextlib.suppress(OSError):  # the daemon has given us up
            self._sock.sendall(pack(message))


def _out_of_memory(error: MemoryError) -> LoadError:
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return LoadError(
        f"Reading a stream takes more than the {format_bytes(limit)} of memory that a reader may "
        f"use besides its ring ({str(error) or 'out of memory'}). Start the daemon with a larger "
        "--loader-memory.",
        limit=limit,
    )


def _small_heap() -> None:
    """Keep little memory that is free: one heap for all threads, and what is large not in it."""
    with contextlib.suppress(AttributeError):  # a libc without it
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)  # else it rises with each large array that goes
        mallopt(_M_TRIM_THRESHOLD, _LARGE)


def main() -> None:
    """Run on the descriptor, for the parent and in the memory named on the command line."""
    _small_heap()
    with connected("arrayd-reader") as sock:
        TaskLoop(sock).run()
    os._exit(0)  # a thread may be reading


if __name__ == "__main__":
    main()
