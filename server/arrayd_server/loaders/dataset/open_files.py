"""The files of a field that are open, at most so many, and how each is best read.

A file is compared with the manifest when it is opened and each time rows of it were read. It is
opened past the page cache (``O_DIRECT``) where its file system can do that: what is read at random
from a set larger than memory would push out everything else, and not be found there again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from arrayd.samples.manifest import Field, Manifest
from arrayd_server.loaders import formats
from arrayd_server.loaders.base import Addressed
from arrayd_server.loaders.dataset import file_rows
from arrayd_server.loaders.dataset.manifests import check_file, missing
from arrayd_server.loaders.recognise import recognised
from arrayd_server.loaders.validation import os_errors

MOST = 256
"""Files that are kept open."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_ALIGNMENTS = (512, 4096)


class NotAddressed(Exception):
    """Rows of a file cannot be read in place; its argument is the file's number."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open file of a field.

    Parameters
    ----------
    number
        In the manifest.
    fd
        Its descriptor.
    align
        Bytes of which addresses, offsets and lengths must be multiples; 0: it is read through
        the page cache.
    base
        Where its first row is.
    """

    number: int
    fd: int
    align: int
    base: int


class OpenFiles:
    """Opens the files of a field and keeps some of them open. Threads may share it.

    Parameters
    ----------
    manifest, one
        The dataset, and the field.
    direct
        Open them past the page cache where that can be done.
    """

    def __init__(self, manifest: Manifest, one: Field, *, direct: bool) -> None:
        self._manifest = manifest
        self._field = one
        self._files = manifest.files[one.files]
        self._direct = direct
        self._lock = threading.Lock()
        self._open: OrderedDict[int, OpenFile] = OrderedDict()
        self._users: dict[int, int] = {}
        self._bases: dict[int, int] = {}
        self._alignments: dict[int, int] = {}  # by device

    @contextmanager
    def use(self, numbers: Iterable[int]) -> Iterator[list[OpenFile]]:
        """Have these files open meanwhile; at the end they must be what they were.

        Raises
        ------
        NotAddressed
            Rows of one of them cannot be read in place.
        SourceNotFound, SourceChanged, AccessDenied, BadFile, SpecMismatch
            One is gone, has changed since it was scanned, or is not like the others.
        """
        held: list[OpenFile] = []
        try:
            held.extend(self._take(number) for number in numbers)
            yield held
            for file in held:
                self._check(file)
        finally:
            self._give_back(held)

    def close(self) -> None:
        """Close all."""
        with self._lock:
            for file in self._open.values():
                os.close(file.fd)
            self._open.clear()

    def _take(self, number: int) -> OpenFile:
        with self._lock:
            file = self._open.get(number)
            if file is None:
                file = self._open[number] = self._opened(number)
            self._open.move_to_end(number)
            self._users[number] = self._users.get(number, 0) + 1
            return file

    def _give_back(self, held: list[OpenFile]) -> None:
        with self._lock:
            for file in held:
                self._users[file.number] -= 1
                if not self._users[file.number]:
                    del self._users[file.number]
            idle = [number for number in self._open if number not in self._users]
            for number in idle[: max(0, len(self._open) - MOST)]:
                os.close(self._open.pop(number).fd)

    def _check(self, file: OpenFile) -> None:
        check_file(self._files, file.number, os.fstat(file.fd))

    def _opened(self, number: int) -> OpenFile:
        path = self._files.path(number)
        with os_errors(path):
            fd = self._descriptor(path, number)
            try:
                found = os.fstat(fd)
                check_file(self._files, number, found)
                base = self._base(number)
                align = self._alignment(fd, found.st_dev)
            except BaseException:
                os.close(fd)
                raise
        return OpenFile(number, fd, align, base)

    def _descriptor(self, path: str, number: int) -> int:
        try:
            return os.open(path, _FLAGS)
        except OSError as error:
            raise missing(self._files, number, self._field, error) from None

    def _alignment(self, fd: int, device: int) -> int:
        """Have a file read past the page cache, if that can be done; return `OpenFile.align`."""
        if not self._direct or self._alignments.get(device) == 0:
            through_cache(fd)
            return 0
        if device not in self._alignments:
            self._alignments[device] = past_cache(fd)
        else:
            _set_direct(fd)
        return self._alignments[device]

    def _base(self, number: int) -> int:
        """Return where the first row of a file is; looked up once."""
        if number not in self._bases:
            source = recognised(self._manifest.source_of(self._field, number))
            module = formats.load_format(source.resolved_format())
            if self._field.whole_files or not isinstance(module, Addressed):
                raise NotAddressed(number)
            with file_rows.ONE_AT_A_TIME:
                plan = formats.look(file_rows.with_rows(source, self._field))
                address = module.address(source, plan)
            file_rows.check_spec(source, self._field, plan)
            count = int(self._files.starts[number + 1] - self._files.starts[number])
            if plan.shape[0] != count:
                raise file_rows.other_rows(source, plan.shape[0], count)
            if address is None:
                raise NotAddressed(number)
            self._bases[number] = address
        return self._bases[number]


def past_cache(fd: int) -> int:
    """Have a file read past the page cache; return in what multiples, 0: that cannot be done."""
    with contextlib.suppress(OSError):  # EINVAL: the file system cannot do it
        _set_direct(fd)
        align = next((align for align in _ALIGNMENTS if _can_read(fd, align)), 0)
        if align:
            return align
    through_cache(fd)
    return 0


def _set_direct(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETFL, _FLAGS | os.O_DIRECT)


def through_cache(fd: int) -> None:
    """Read a file through the page cache, and no more of it than is asked for."""
    fcntl.fcntl(fd, fcntl.F_SETFL, _FLAGS)  # without O_DIRECT
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)


def _can_read(fd: int, align: int) -> bool:
    """Say whether so little can be read past the page cache, into memory aligned to it."""
    with mmap.mmap(-1, 2 * align) as memory, memoryview(memory)[align:] as view:
        try:
            os.preadv(fd, [view], 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
    return True
