"""Two ways to read runs of bytes at random: past the page cache, and through it.

`DirectReader` keeps the queue of the disk full from one thread, by native AIO on files opened with
``O_DIRECT``. `CachedReader` is for where that cannot be had (NFS, FUSE, a system that forbids AIO):
threads that announce their next reads (``POSIX_FADV_WILLNEED``), read, and drop what they read
from the cache, so that it costs no memory. Both read into a buffer of their own (*bounce*) and hand
over runs as they arrive; reading the next ones goes on meanwhile.

Measured on a virtual disk of 50,000 reads per second (2 cores, both busy with other work), rows of
4 KiB at random, in MB/s and seconds of a processor per GB; 12 KiB behind the stroke:

====================================================  ===============  ===============
a bare loop in C, ``pread`` in 16 threads             189, 3.1         314, 1.3
native AIO, ``O_DIRECT``, 256 in flight (taken)       219, 1.0         283, 0.5
io_uring, ``O_DIRECT``, 256 in flight                 183, 1.1         323, 0.4
``WILLNEED``, then ``preadv``, 4 threads (second)     217, 2.4         353, 1.2
``os.preadv`` in 32 threads of Python                 122, 6.0         312, 1.9
io_uring through the page cache                       133, 2.1         354, 1.0
`numpy.take` on a `numpy.memmap`, 16 threads          82, 7.3          147, 5.1
====================================================  ===============  ===============

The last also ends in SIGBUS when a file is truncated.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from arrayd_server.kernel.aio import AioQueue
from arrayd_server.loaders.dataset.runs import Int64, Runs

Bytes = npt.NDArray[np.uint8]

Deliver = Callable[[Int64, Bytes, Int64], None]
"""Takes the runs that have arrived, the buffer in which they are, and where in it each begins."""

DEPTH = 256
"""Reads in flight."""

BOUNCE_BYTES = 16 << 20
"""Bytes of the buffer, but for runs longer than a part of it."""

PAGE = 4096

_AHEAD = 64
"""Reads that a thread announces before it makes them."""

THREADS = 8


class ReadError(Exception):
    """A run could not be read: `run` is its index, `code` the errno, 0 if the file ended."""

    def __init__(self, run: int, code: int) -> None:
        super().__init__(run, code)
        self.run = run
        self.code = code


class DirectReader:
    """Reads past the page cache; for one thread at a time.

    Raises
    ------
    OSError
        The system has no native AIO for us.
    """

    def __init__(self) -> None:
        self._queue = AioQueue(DEPTH)
        self._bounce = mmap.mmap(-1, BOUNCE_BYTES)

    def read(self, fds: Int64, runs: Runs, deliver: Deliver, into: Int64 | None = None) -> None:
        """Read all runs.

        Parameters
        ----------
        fds : int64, shape (r,)
            The descriptor of each.
        deliver
            Called with each run once.
        into : int64, shape (r,), or None
            An address to which the run is read, aligned as it must be; 0: to the buffer.

        Raises
        ------
        ReadError
        """
        if not len(runs):
            return
        slot = int(-(-runs.lengths.max() // PAGE) * PAGE)
        count = max(2, min(2 * DEPTH, BOUNCE_BYTES // slot))
        if count * slot > len(self._bounce):
            self._bounce = mmap.mmap(-1, count * slot)
        buffer = np.frombuffer(self._bounce, np.uint8)
        try:
            self._all(fds, runs, deliver, into, buffer, np.arange(count) * slot)
        finally:
            while self._queue.in_flight:  # the memory must stay until then
                self._queue.reap(self._queue.in_flight)

    def close(self) -> None:
        """Give the queue back."""
        self._queue.close()

    def _all(
        self,
        fds: Int64,
        runs: Runs,
        deliver: Deliver,
        into: Int64 | None,
        buffer: Bytes,
        free: Int64,
    ) -> None:
        """Keep the queue full: what has arrived is delivered after more was asked for."""
        begins, begun, queue = np.zeros(len(runs), np.int64), 0, self._queue
        arrived = np.zeros(0, np.int64)
        while begun < len(runs) or queue.in_flight or len(arrived):
            count = min(len(free), queue.depth - queue.in_flight, len(runs) - begun)
            if count:
                some = np.arange(begun, begun + count)
                begins[some] = free[:count]
                to = begins[some] + buffer.ctypes.data
                to = to if into is None else np.where(into[some], into[some], to)
                done = queue.submit(fds[some], runs.starts[some], runs.lengths[some], to, some)
                begun, free = begun + done, free[done:]
            if len(arrived):
                deliver(arrived, buffer, begins[arrived])
                free, arrived = np.append(free, begins[arrived]), arrived[:0]
            if queue.in_flight:
                arrived, results = queue.reap(max(1, queue.in_flight // 4))
                short = results < runs.needed[arrived]
                if short.any():
                    at = int(np.argmax(short))
                    raise ReadError(int(arrived[at]), max(0, -int(results[at])))


class CachedReader:
    """Reads through the page cache, and leaves nothing there."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="read")

    def read(self, fds: Int64, runs: Runs, deliver: Deliver) -> None:
        """Read all runs, as `DirectReader.read` does.

        Raises
        ------
        ReadError
        """
        todo = [np.arange(len(runs))[at : at + _AHEAD] for at in range(0, len(runs), _AHEAD)]
        for at in range(0, len(todo), THREADS):  # so many buffers at a time
            works = [
                self._threads.submit(self._some, fds, runs, one) for one in todo[at : at + THREADS]
            ]
            for one, work in zip(todo[at : at + THREADS], works, strict=True):
                buffer, begins = work.result()
                deliver(one, buffer, begins)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _some(self, fds: Int64, runs: Runs, some: Int64) -> tuple[Bytes, Int64]:
        lengths = runs.lengths[some]
        begins = np.cumsum(lengths) - lengths
        buffer = np.empty(int(lengths.sum()), np.uint8)
        todo = [
            (int(run), int(fds[run]), int(runs.starts[run]), int(begin), int(length))
            for run, begin, length in zip(some, begins, lengths, strict=True)
        ]
        for _, fd, start, _, length in todo:
            os.posix_fadvise(fd, start, length, os.POSIX_FADV_WILLNEED)
        for run, fd, start, begin, length in todo:
            _fill(run, fd, start, buffer[begin : begin + length], int(runs.needed[run]))
            os.posix_fadvise(fd, start, length, os.POSIX_FADV_DONTNEED)
        return buffer, begins


class ReadQueues:
    """The readers of a process, for all its fields: as many as read at a time.

    Parameters
    ----------
    count
        How many read past the page cache at a time.
    """

    def __init__(self, count: int) -> None:
        self.cached = CachedReader()
        self._direct: SimpleQueue[DirectReader] = SimpleQueue()
        with contextlib.suppress(OSError):  # forbidden, or all queues of the system are in use
            for _ in range(count):
                self._direct.put(DirectReader())
        self.has_direct = not self._direct.empty()
        """Whether the page cache can be left out."""

    @contextmanager
    def direct(self) -> Iterator[DirectReader]:
        """Have a reader past the page cache for this thread alone, as soon as one is free."""
        reader = self._direct.get()
        try:
            yield reader
        finally:
            self._direct.put(reader)

    def close(self) -> None:
        """End them; none is in use."""
        while not self._direct.empty():
            self._direct.get().close()
        self.cached.close()


def _fill(run: int, fd: int, start: int, out: Bytes, needed: int) -> None:
    done = 0
    while done < needed:
        try:
            got = os.preadv(fd, [out[done:].data], start + done)
        except OSError as error:
            raise ReadError(run, error.errno or errno.EIO) from None
        if not got:
            raise ReadError(run, 0)
        done += got


def read_large(fd: int, start: int, out: Bytes) -> None:
    """Read one long row into its place, and leave nothing of it in the page cache.

    Raises
    ------
    ReadError
        With run 0.
    """
    size = BOUNCE_BYTES // 4
    buffer = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    done = 0
    while done < out.size:
        low = (start + done) // PAGE * PAGE
        skip = start + done - low
        some = min(size - skip, out.size - done)
        length = -(-(skip + some) // PAGE) * PAGE
        _fill(0, fd, low, buffer[:length], skip + some)
        os.posix_fadvise(fd, low, length, os.POSIX_FADV_DONTNEED)
        out[done : done + some] = buffer[skip : skip + some]
        done += some
