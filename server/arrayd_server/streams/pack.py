"""A pack: rows that are costly to decode, in a scratch file from which each can be read alone.

To decode a compressed chunk of 64 rows for one of them costs as much as for all. So when a unit (a
chunk, a part of a text, a file that is one row) is decoded for the first time, all its rows are
written to the pack, cast; from then on they are read from there. Each unit is decoded once, in an
exact random order from the first epoch on.

::

    0        a header: what the pack holds
    4096     one bit per row, least significant first: it is here
    ...      the rows, from a multiple of 4096 on; where none was written there is a hole

A pack is kept between runs: its name is a digest of the header, which has that of the manifest, and
with it of all files in their state. The bits are written after the rows, which are synced before: a
reader that is killed, or a machine that stops, costs at most units that are decoded again.

Several processes may read and write a pack: two models with different seeds, training and
validation. What one has decoded the others find there. Both may decode a unit at the same moment
and write it twice: the bytes are the same. A bit is only ever set, by a reader that has the lock
(``flock``) for the moment in which it adds its own to those in the file. One that does not get the
lock at once, for the other may be stopped there, adds them the next time.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.common.bytesize import format_bytes
from arrayd.common.casts.cast import cast_chunk
from arrayd.errors import AccessDenied, BadFile, CastError, NoRoom, SourceChanged
from arrayd.samples.manifest import Field, Files, Manifest
from arrayd.samples.pack_spec import PAGE, PackSpec
from arrayd_server.loaders.dataset.decoded import DecodedRows
from arrayd_server.loaders.dataset.open_files import OpenFile, past_cache, through_cache
from arrayd_server.loaders.dataset.reading import ReadQueues
from arrayd_server.loaders.dataset.rows import Ids, Placer, ReadStats, RowReader
from arrayd_server.loaders.dataset.runs import Int64

Array = np.ndarray[Any, Any]


def _bit(ids: Ids) -> npt.NDArray[np.uint8]:
    """Return the bit of each row in its byte."""
    return np.left_shift(np.uint8(1), (ids & np.uint64(7)).astype(np.uint8))


class Pack:
    """An open pack. Threads may share it.

    Parameters
    ----------
    folder
        Where it is, or is to be.
    spec
        What it holds.

    Raises
    ------
    AccessDenied
        It cannot be made there.
    NoRoom
        There is no room for it.
    """

    def __init__(self, folder: str, spec: PackSpec) -> None:
        self.path = spec.path(folder)
        self.spec = spec
        self._lock = threading.Lock()
        self._bits = np.zeros(-(-spec.rows // 8), np.uint8)
        self._unsaved: set[int] = set()  # pages of bits that the file does not have yet
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(self.path, flags, 0o600)
            os.utime(self._fd)  # the client removes what was not used for a month
        except OSError as error:
            raise AccessDenied(
                f"{folder}: no pack can be made there to keep what is decoded "
                f"({error.strerror}). Name another folder (scratch=), or decode without one: "
                "plan='windowed'."
            ) from None
        self.ready = False
        """Whether the file is a pack: rows can be read from it and written to it."""
        try:
            self.refresh()
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Close it."""
        with suppress(NoRoom, BadFile), self._lock:  # what is not saved is decoded again
            self._save()
        os.close(self._fd)

    def refresh(self) -> None:
        """Look which rows other processes have added; make the pack if it is none yet.

        Raises
        ------
        NoRoom, BadFile
            It cannot be made.
        """
        with self._lock:
            self.ready = self.ready or self._is_sound() or self._make()
            if self.ready:
                self._bits |= self._saved(0, len(self._bits))

    def has(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Say of each row whether it is here; bool (k,)."""
        at = (ids >> np.uint64(3)).astype(np.int64)
        return (self._bits[at] & _bit(ids)).astype(bool)

    def write(self, ids: Ids, rows: Array) -> None:
        """Write rows with rising `ids`; they are not here before `commit`.

        Raises
        ------
        NoRoom
            The file system is full.
        """
        edges = (np.flatnonzero(np.diff(ids) != 1) + 1).tolist()
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        size = self.spec.row_bytes
        for start, stop in itertools.pairwise([0, *edges, len(ids)]):
            self._pwrite(data[start * size : stop * size], self.spec.begin + int(ids[start]) * size)

    def commit(self, written: Ids) -> None:
        """Let these rows be here, for later runs too, and keep none in the page cache.

        Raises
        ------
        NoRoom
            The file system is full.
        """
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._refused(error, 0) from None
        os.posix_fadvise(self._fd, self.spec.begin, 0, os.POSIX_FADV_DONTNEED)
        at = (written >> np.uint64(3)).astype(np.int64)
        with self._lock:
            np.bitwise_or.at(self._bits, at, _bit(written))
            self._unsaved.update(np.unique(at // PAGE).tolist())
            self._save()

    def _save(self) -> None:
        """Add our bits to those in the file, if no other process does so at this moment."""
        with self._locked() as mine:
            while mine and self._unsaved:
                page = next(iter(self._unsaved))
                bits = self._bits[page * PAGE : (page + 1) * PAGE]
                bits |= self._saved(page * PAGE, len(bits))
                self._pwrite(bits.data, (page + 1) * PAGE)
                self._unsaved.discard(page)

    def _saved(self, first: int, count: int) -> npt.NDArray[np.uint8]:
        """Return bytes of bits that are in the file; none, if it was truncated meanwhile."""
        found = os.pread(self._fd, count, PAGE + first)
        return np.frombuffer(found.ljust(count, b"\0"), np.uint8)

    def _make(self) -> bool:
        """Make it, unless another process is about to; say whether it is there."""
        with self._locked() as mine:
            if mine and not self._is_sound():
                try:
                    os.ftruncate(self._fd, 0)
                    os.ftruncate(self._fd, self.spec.size)
                except OSError as error:
                    raise self._refused(error, self.spec.size) from None
                self._pwrite(memoryview(self.spec.header), 0)
        return mine

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Have the lock, if it is free; yield whether we have it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _is_sound(self) -> bool:
        whole = os.fstat(self._fd).st_size == self.spec.size
        header = self.spec.header
        return whole and os.pread(self._fd, len(header), 0) == header

    def _pwrite(self, data: memoryview, offset: int) -> None:
        while data:
            try:
                done = os.pwrite(self._fd, data, offset)
            except OSError as error:
                raise self._refused(error, len(data)) from None
            data, offset = data[done:], offset + done

    def _refused(self, error: OSError, needed: int) -> Exception:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return BadFile(
                f"The pack {self.path} cannot be written: {error.strerror}. If the disk is sound "
                "(see dmesg), name another folder: scratch=."
            )
        stat, room = os.fstat(self._fd), os.fstatvfs(self._fd)
        free, has = room.f_bavail * room.f_frsize, stat.st_blocks * 512
        return NoRoom(
            f"The pack {self.path} has {format_bytes(has)} of the {format_bytes(self.spec.size)} "
            f"that it comes to, and its file system {format_bytes(free)} free "
            f"({error.strerror}). Free some, name another folder (scratch=), or decode without "
            "one: plan='windowed'.",
            needed=needed,
            free=free,
            total=self.spec.size,
        )


class _PackFile:
    """A pack as the one file of a `RowReader`; what is in it never changes."""

    def __init__(self, path: str, begin: int, *, direct: bool) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            align = past_cache(fd) if direct else 0
            if not direct:
                through_cache(fd)
        except BaseException:
            os.close(fd)
            raise
        self._file = OpenFile(0, fd, align, begin)

    @contextmanager
    def use(self, _: Iterable[int]) -> Iterator[list[OpenFile]]:
        """Have it open."""
        yield [self._file]

    def close(self) -> None:
        """Close it."""
        os.close(self._file.fd)


class PackedRows:
    """Reads rows of a field from a pack, and those that are not there by decoding them once.

    Threads may share it.

    Parameters
    ----------
    manifest, one
        The dataset, and the field.
    target, overflow
        The dtype wanted, and what happens to a value that does not fit.
    folder
        Where the pack is.
    queues
        As in `RowReader`.

    Raises
    ------
    AccessDenied, NoRoom
        No pack can be made there.
    SpecMismatch
        There is no such cast.
    """

    def __init__(
        self,
        manifest: Manifest,
        one: Field,
        target: np.dtype[Any],
        overflow: str,
        folder: str,
        queues: ReadQueues | None = None,
    ) -> None:
        placer = Placer(manifest, one, target, overflow)
        spec = PackSpec.of(manifest, one, target, overflow)
        self._decoded = DecodedRows(manifest, one, placer)
        self._target = target
        self._overflow = overflow
        self._decoding = threading.Lock()
        self.pack = Pack(folder, spec)
        packed = Field(one.name, target, one.row_shape)
        files = Files.of([self.pack.path], np.zeros((1, 5)), [manifest.rows])
        self._reader = RowReader(
            Manifest(manifest.rows, (packed,), (files,), {}),
            packed,
            opened=lambda direct: _PackFile(self.pack.path, spec.begin, direct=direct),
            queues=queues,
        )

    def read(self, ids: Ids, out: Array, where: Int64) -> ReadStats:
        """Read rows into their places, as `RowReader.read`.

        Raises
        ------
        NoRoom
            The pack cannot grow.
        BadFile
            The pack is damaged.
        SourceNotFound, SourceChanged, AccessDenied, SpecMismatch, CastError
            Of the files, as `DecodedRows.read`.
        """
        here = self.pack.has(ids)
        stats = self._take(ids[here], out, where[here])
        if here.all():
            return stats
        with self._decoding:  # what another thread has decoded meanwhile is there now
            ids, where = ids[~here], where[~here]
            self.pack.refresh()
            here = self.pack.has(ids)
            stats.add(self._decode(ids[~here], out, where[~here]))
        stats.add(self._take(ids[here], out, where[here]))
        return stats

    def _take(self, ids: Ids, out: Array, where: Int64) -> ReadStats:
        try:
            return self._reader.read(ids, out, where)
        except (SourceChanged, BadFile) as error:
            raise BadFile(
                f"The pack {self.pack.path} is damaged ({error.message}) Remove it: its rows are "
                "then decoded again."
            ) from None

    def close(self) -> None:
        """Close the pack."""
        self._reader.close()
        self._decoded.close()
        self.pack.close()

    def _decode(self, ids: Ids, out: Array, where: Int64) -> ReadStats:
        if not len(ids):
            return ReadStats()
        if not self.pack.ready:
            return self._decoded.read(ids, out, where)
        written: list[Ids] = []

        def keep(some: Ids, rows: Array) -> None:
            try:
                values, _ = cast_chunk(rows, self._target, self._overflow)
            except CastError:
                return  # if the row is wanted now, it is an error now; else in its time
            self.pack.write(some, values)
            written.append(some)

        stats = self._decoded.read(ids, out, where, keep)
        if written:
            self.pack.commit(np.concatenate(written))
        return stats
