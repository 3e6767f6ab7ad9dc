"""What an HDF5 file refers to: external links, virtual datasets, external storage.

All of it is found here before libhdf5 reads a value: each file whose bytes an array is made of is
named, so that it can be part of the array's identity; it is a regular file that nobody is writing;
and it can be decoded. libhdf5 itself takes whatever it cannot open for missing (be it for want of
a descriptor, a filter or a permission), and shows the fill value in its place.

Names are looked up as libhdf5 does for a process in the folder of the file that was asked for,
without any of the ``HDF5_…_PREFIX`` variables. A name is tried, in this order, as it is (an
absolute one), then in the folder of the file that has it, in that of the file asked for, and in
the folder that a symbolic link to the file leads to. An absolute name that leads nowhere is tried
by its last part. (``H5F_prefix_open_file`` in libhdf5's ``H5Fint.c``.)
"""

from __future__ import annotations

import errno
import itertools
import os
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import h5py

from arrayd.errors import ArraydError, BadFile, LoadError, SourceNotFound
from arrayd.source import Source
from arrayd_server.loaders.hdf5.filters import need_filters
from arrayd_server.loaders.hdf5.names import decoded, encoded
from arrayd_server.loaders.hdf5.opening import Access, locked, open_file
from arrayd_server.loaders.hdf5.reading import is_decoded
from arrayd_server.loaders.validation import (
    ABSENT,
    blame_memory,
    open_regular,
    os_errors,
    reads_one,
    refers,
)

MAX_FILES = 10_000
"""Files that one array may be made of; their names are remembered with it."""

_HOPS = 16
"""Links that lead to one object, and virtual datasets in another: libhdf5's own limit of links."""

_OPEN = 32
"""Files that are kept open while they are looked at."""

Place = tuple[str, str]
"""A file by the path under which it was opened, and the name of an object in it."""


class NotThere(Exception):
    """There is no such object; `link` is the last link that was followed, in words."""

    def __init__(self, link: str | None) -> None:
        super().__init__(link)
        self.link = link


class Links:
    """The HDF5 files that one request leads to.

    Parameters
    ----------
    source
        What is asked for; its file is `main`.
    loading
        Values are to be read: their files stay open until `close`, and locks are not looked at,
        for a file that is written meanwhile fails the comparison of its identity afterwards.
    """

    def __init__(self, source: Source, *, loading: bool) -> None:
        self.further: dict[str, None] = {}  # other files that were looked for, in order
        self.locked = False  # a writer holds the lock of one of them
        self.decoded = False  # libhdf5 decodes some of the values
        self._source = source
        self._access = Access.of(source)
        self._loading = loading
        self._open: OrderedDict[str, Any] = OrderedDict()  # least recently used first
        self._pinned: list[Any] = []
        self._seen: set[tuple[str, int]] = set()
        self.main = self._opened(source.path)
        self._pinned.append(self._open.pop(source.path))

    def close(self) -> None:
        """Close all files, and so invalidate all that was found in them."""
        for file in (*self._pinned, *self._open.values()):
            file.close()
        self._pinned.clear()
        self._open.clear()

    # ---- objects -------------------------------------------------------------------------

    def find(self, name: str, path: str | None = None) -> tuple[str, Any]:
        """Return an object, and the path of the file it is in, through all links.

        Parameters
        ----------
        name
            Of the object.
        path
            Of the file in which to begin; None: of the one that was asked for.

        Raises
        ------
        NotThere
            A part of the name, or of what a link says, is not there.
        """
        path = path or self._source.path
        here: Any = self._file(path)["/"]
        steps, hops, last = deque(_steps(name)), 0, None
        while steps:
            step = encoded(steps.popleft())
            kind = _kind(here, step)
            if kind is None:
                raise NotThere(last)
            if kind == h5py.h5l.TYPE_HARD:
                here = here[step]
                continue
            hops += 1
            if hops > _HOPS:
                raise BadFile(f"{self._source}: more than {_HOPS} links one after another.")
            value = here.id.links.get_val(step)
            *file, target = map(decoded, value if isinstance(value, tuple) else (value,))
            steps.extendleft(reversed(_steps(target)))
            last = f"{(file or [path])[0]}:{target}"
            if file:
                path = self._linked(path, file[0], last)
            if file or target.startswith("/"):
                here = self._file(path)["/"]
        return path, here

    def pin(self, path: str) -> None:
        """Keep a file open till `close`."""
        if path in self._open:
            self._pinned.append(self._open.pop(path))

    # ---- bytes ---------------------------------------------------------------------------

    def trace(self, path: str, dataset: Any, rows: range | None = None) -> None:
        """Find all that the values of a dataset are made of; see that it can be read.

        Parameters
        ----------
        rows
            Of the dataset, that are wanted; None: all.

        Raises
        ------
        MissingDependency
            A filter is not installed.
        SourceNotFound, AccessDenied, BadFile, SourceBusy, LoadError
            A file cannot be read.
        """
        self._trace(path, dataset, rows, ())

    def _trace(
        self, path: str, dataset: Any, rows: range | None, above: tuple[tuple[str, int], ...]
    ) -> None:
        mark = (os.path.realpath(path), h5py.h5o.get_info(dataset.id).addr)
        if mark in above or len(above) > _HOPS:
            raise BadFile(
                f"{self._source}: a virtual dataset that is made of itself, or of more than "
                f"{_HOPS} others one inside the other."
            )
        if mark in self._seen:
            return
        self._seen.add(mark)
        need_filters(self._source, dataset)
        self.decoded |= is_decoded(dataset)
        created = dataset.id.get_create_plist()
        if created.get_layout() != h5py.h5d.VIRTUAL:
            self._trace_storage(created)
            return
        for name, inner in _sources(created, rows):
            self._trace_source(path, name, inner, (*above, mark))

    def _trace_storage(self, created: Any) -> None:
        """Find the files of bytes in which a dataset lies."""
        for index in range(created.get_external_count()):
            name = os.fsdecode(created.get_external(index)[0])
            path = os.path.join(os.path.dirname(self._source.path), name)
            self._note(path)
            with os_errors(path):
                open_regular(path).close()

    def _trace_source(
        self, path: str, name: str, inner: str, above: tuple[tuple[str, int], ...]
    ) -> None:
        """Find what one mapping of a virtual dataset refers to, be it many numbered files."""
        numbered = "%b" in (name + inner).replace("%%", "")
        for number in itertools.count() if numbered else (0,):
            file, dataset = _numbered(name, number), _numbered(inner, number)
            try:
                start = path if file == "." else self._linked(path, file, f"{file}:{dataset}")
                found, thing = self.find(dataset, start)
            except NotThere:
                return  # its values are the fill value; what is numbered ends here
            if isinstance(thing, h5py.Dataset):
                self._trace(found, thing, None, above)
            if numbered and number >= MAX_FILES:
                raise self._too_many()

    # ---- files ---------------------------------------------------------------------------

    def _linked(self, path: str, name: str, link: str) -> str:
        """Return where the file is that another one names.

        Raises
        ------
        NotThere
            Nowhere.
        """
        failure: tuple[str, OSError] | None = None
        for place in self._places(path, name):
            self._note(place)
            try:
                self._file(place)
            except SourceNotFound:  # no file can have this name
                continue
            except ArraydError:
                raise
            except OSError as error:
                self._go_on(error)
                if error.errno not in ABSENT:
                    failure = failure or (place, error)
                continue
            return place
        if failure is not None:
            with os_errors(f"{failure[0]}, which {self._source} refers to,"):
                raise failure[1]
        raise NotThere(link)

    def _go_on(self, error: OSError) -> None:
        """Raise what is no reason to look elsewhere, as libhdf5 would, for a file of that name."""
        blame_memory(error)
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise LoadError(
                f"{self._source} is made of more files than a loader may have open: load fewer "
                "rows at a time, or start the daemon with a higher limit (ulimit -n)."
            ) from None
        if error.errno not in (None, *ABSENT, errno.EACCES, errno.EPERM, errno.EISDIR):
            raise error

    def _places(self, path: str, name: str) -> Iterator[str]:
        absolute = os.path.isabs(name)
        if absolute:
            yield name
        tail = os.path.basename(name) if absolute else name
        main = self._source.path
        folders = [os.path.dirname(one) for one in (path, main, os.path.realpath(path))]
        yield from (os.path.join(folder, tail) for folder in dict.fromkeys(folders))

    def _note(self, path: str) -> None:
        """Remember a file before it is looked for; raise AccessDenied if it may not be."""
        if reads_one() and path != self._source.path:
            raise refers(self._source)
        self.further[path] = None
        if len(self.further) > MAX_FILES:
            raise self._too_many()

    def _too_many(self) -> LoadError:
        return LoadError(
            f"{self._source} is made of more than {MAX_FILES} files: load parts of it."
        )

    def _file(self, path: str) -> Any:
        if path == self._source.path:
            return self.main
        if path not in self._open:
            self._opened(path)
            while len(self._open) > _OPEN and not self._loading:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]

    def _opened(self, path: str) -> Any:
        """Open a file that nobody is writing; errors of the system pass as they are."""
        if not self._loading:
            self.locked |= locked(path, self._access)
        file = self._open[path] = open_file(path, self._access)
        return file


def _kind(group: Any, name: bytes) -> int | None:
    """Return of what kind a link in a group is; None: there is none."""
    if not isinstance(group, h5py.Group) or not group.id.links.exists(name):
        return None
    kind: int = group.id.links.get_info(name).type
    return kind


def _steps(name: str) -> list[str]:
    return [step for step in name.split("/") if step not in ("", ".")]


def _sources(created: Any, rows: range | None) -> Iterator[tuple[str, str]]:
    """Yield file and dataset of each mapping of a virtual dataset that has to do with `rows`."""
    low, high = (min(rows), max(rows)) if rows else (0, -1)
    for index in range(created.get_virtual_count()):
        if rows is not None and rows.step:
            first, last = _bounds(created.get_virtual_vspace(index))
            if first > high or last < low:
                continue
        yield created.get_virtual_filename(index), created.get_virtual_dsetname(index)


def _bounds(space: Any) -> tuple[int, int]:
    """Return the first and the last row that a mapping covers; any, where it has no end."""
    try:
        first, last = space.get_select_bounds()
        return int(first[0]), int(last[0])
    except (RuntimeError, ValueError, IndexError):
        return 0, 1 << 62


def _numbered(name: str, number: int) -> str:
    """Return a name of a mapping with its number; ``%%`` stands for ``%``."""
    return "%".join(part.replace("%b", str(number)) for part in name.split("%%"))
