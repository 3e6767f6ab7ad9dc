"""Two ways to read runs of bytes at random: past the page cache, and through it.

`DirectReader` keeps the queue of the disk full from one thread, by native AIO on files opened with
``O_DIRECT``. Its buffer (*bounce*) has three parts: reads into two of them are under way while the
rows in the third, whose reads are over, are handed over and copied. So there is one system call to
begin the reads of a part, one or two to wait for them, and a fixed number of calls of NumPy. The
buffer lies in pages of 2 MiB where the system has them: what lies together in memory is one piece
of a request to the disk, else a row that does not begin on a page is two. A virtual disk has room
for so many pieces at a time, so that more requests are under way then.

`CachedReader` is for where that cannot be had (NFS, FUSE, a system that forbids AIO): threads that
announce their next reads (``POSIX_FADV_WILLNEED``), read, and drop what they read from the cache,
so that it costs no memory. They hand over runs of their own buffers.

Measured on a virtual disk, with 2 cores that were busy with other work: windows of 16 MiB, sorted,
of rows at random in 512 MiB, each behind a header of 128 bytes; medians of three, interleaved. Rows
of 4 KiB in MB/s and seconds of a processor per GB; 12 KiB behind the stroke:

====================================================  ===============  ===============
a bare loop in C, ``pread`` in 32 threads             206, 2.8         282, 1.2
the same past the page cache (``O_DIRECT``)           182, 2.0         344, 0.9
native AIO, ``O_DIRECT``, pages of 2 MiB (taken)      219, 1.2         769, 0.6
native AIO, ``O_DIRECT``, pages of 4 KiB              168, 1.2         294, 0.7
``WILLNEED``, then ``preadv``, 8 threads (second)     122, 5.2         196, 2.5
====================================================  ===============  ===============

Of the 1.2 seconds 0.8 are the kernel's (3.3 microseconds per read, nearly all in ``io_submit``) and
0.2 the copy. `numpy.take` on a `numpy.memmap` is no third way: it fills the page cache, and ends in
SIGBUS when a file is truncated.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from arrayd_server.kernel.aio import AioQueue, Reads
from arrayd_server.loaders.dataset.runs import Int64, Runs

Bytes = npt.NDArray[np.uint8]

Deliver = Callable[[int, int, Bytes, Int64], None]
"""``deliver(first, stop, buffer, begins)``: the runs [first, stop) have arrived, in this buffer,
and each begins there."""

PARTS = 3
"""Of the buffer: into all but one is read while the rows of that one are copied."""

PART_READS = 256
"""Reads of a part, at most."""

BOUNCE_BYTES = 4 << 20
"""Bytes of the buffer, but for runs longer than a part of it."""

HUGE_PAGE = 2 << 20
PAGE = 4096

_PENDING = np.iinfo(np.int64).min  # is no result of a read

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
        self._queue = AioQueue((PARTS - 1) * PART_READS)
        self._bounce = np.zeros(0, np.uint8)

    def read(self, fds: Int64, runs: Runs, deliver: Deliver, into: Int64 | None = None) -> None:
        """Read all runs.

        Parameters
        ----------
        fds : int64, shape (r,)
            The descriptor of each.
        deliver
            Called with the runs one after another, some at a time.
        into : int64, shape (r,), or None
            An address to which the run is read, aligned as it must be; 0: to the buffer.

        Raises
        ------
        ReadError
        """
        if not len(runs):
            return
        sizes = runs.lengths if into is None else np.where(into, 0, runs.lengths)
        begins, edges, room = _parts(sizes)
        if room > self._bounce.size:
            self._bounce = large_pages(room)
        to = begins + self._bounce.ctypes.data
        to = to if into is None else np.where(into, into, to)
        try:
            reads = Reads(fds, runs.starts, runs.lengths, to)
            for first, stop in self._arrived(reads, runs.needed, edges):
                deliver(first, stop, self._bounce, begins[first:stop])
        finally:
            while self._queue.in_flight:  # the memory must stay until then
                self._queue.reap(self._queue.in_flight)

    def close(self) -> None:
        """Give the queue back."""
        self._queue.close()

    def _arrived(
        self, reads: Reads, needed: Int64, edges: Sequence[int]
    ) -> Iterator[tuple[int, int]]:
        """Yield the reads of each part when they are over, and more have been begun."""
        queue, begun, over = self._queue, 0, 0
        results = np.full(len(needed), _PENDING)

        def begin(stop: int) -> None:
            nonlocal begun
            if begun < stop:
                begun += queue.submit(reads, begun, stop)

        begin(edges[min(PARTS, len(edges)) - 1])
        for number, (first, stop) in enumerate(pairwise(edges)):
            while True:
                if over < stop:
                    over += self._reap(results, stop - over)
                    begin(stop)  # if the system did not take all at once
                    continue
                short = results[first:stop] < needed[first:stop]
                if not short.any():
                    break
                at = first + int(np.argmax(short))
                if results[at] != _PENDING:
                    raise ReadError(at, max(0, -int(results[at])))
                missing = int(np.count_nonzero(results[first:stop] == _PENDING))
                over += self._reap(results, missing)  # later parts have overtaken this one
            begin(edges[min(number + PARTS, len(edges) - 1)])
            yield first, stop

    def _reap(self, results: Int64, least: int) -> int:
        """Wait until so many reads are over, and note what came of them; return how many."""
        tags, found = self._queue.reap(least)
        results[tags] = found
        return len(tags)


def _parts(sizes: Int64) -> tuple[Int64, list[int], int]:
    """Divide reads of these sizes into parts of the buffer.

    Returns
    -------
    begins : int64, shape (r,)
        Where in the buffer each begins.
    edges
        With which each part begins, and their number; part after part lies behind the other, and
        each of them where the one `PARTS` before it was.
    room
        Bytes of the buffer.
    """
    ends = np.cumsum(sizes)
    begins: Int64 = ends - sizes
    most = -(-len(sizes) // -(-len(sizes) // PART_READS))  # parts of about the same size
    room = min(BOUNCE_BYTES // PARTS, int(ends[-1]))
    room = -(-max(room, int(sizes.max())) // PAGE) * PAGE
    edges = [0]
    while (first := edges[-1]) < len(sizes):
        low = int(begins[first])
        stop = min(int(np.searchsorted(ends, low + room, "right")), first + most)
        begins[first:stop] += (len(edges) - 1) % PARTS * room - low
        edges.append(stop)
    return begins, edges, PARTS * room


def large_pages(size: int) -> Bytes:
    """Return zeros, in pages of 2 MiB where the system has them.

    What lies together for a disk is one piece of its request, and not one for each 4 KiB: on a
    virtual disk twice as many requests are then under way.
    """
    memory = mmap.mmap(-1, size + 2 * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= HUGE_PAGE:
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    begin = -whole.ctypes.data % HUGE_PAGE
    return whole[begin : begin + size]


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
                deliver(int(one[0]), int(one[-1]) + 1, buffer, begins)

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
    size = BOUNCE_BYTES
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
