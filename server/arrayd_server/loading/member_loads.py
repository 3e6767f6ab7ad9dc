"""The load of small files into one block: from its members to tasks of the workers, and back.

Of a ``.npy`` no more than the size of the file is needed to know that its array has room. Of other
formats the workers first say how big each array is.

A task that fails, whatever the reason, is no error: all files of the block are loaded one by one
then. So a file that crashes or hangs its reader costs the others a retry, and has an error of its
own. The block is given up: where that task was to write it has no pages, and no segment may have
holes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from arrayd.errors import ArraydError, SpecMismatch
from arrayd.source import FORMATS, Source
from arrayd_server.core.model import BlockMember, ContentKey, LoadedMember
from arrayd_server.loaders.small import MAX_BYTES
from arrayd_server.loading.messages import (
    FoundSizes,
    LoadedFiles,
    SizesTask,
    SmallFilesTask,
)
from arrayd_server.loading.tasks import Result, Task
from arrayd_server.loading.worker_pool import Pool

MAX_FILES = 32
"""Files of one message: two for a request, so that two workers have something to do.

Where the workers have more to do than they can, a message has twice as many.
"""

LEAST_FILES = 4
"""Files of one message at least, if there are as many."""

PATIENCE = 5.0
"""Seconds that a worker may take for one of several before it is given up with its message."""

Measured = Callable[[int, Sequence[BlockMember], Mapping[int, int]], None]
"""Takes a job, its members, and the bytes of some by their position; of others nothing is known."""

Loaded = Callable[[int, Sequence[BlockMember], Mapping[int, LoadedMember]], None]
"""Takes a job, its members, and what was found of them."""

Ended = Callable[[str, str, int, int, float], None]
"""Takes the format of loads that have ended, ``ok``, ``error`` or ``cancelled``, how many they are,
the bytes of their arrays, and the seconds that they took."""


def may_be_member(source: Source, size: int) -> bool:
    """Say whether a source, whose file has `size` bytes, can be loaded with others.

    What is asked of its array must leave no question but which file it is; see
    `arrayd_server.loaders.small`.
    """
    return (
        0 < size <= MAX_BYTES
        and (source.format == "npy" or (not source.format and source.path.endswith(".npy")))
        and source.rows is None
        and source.dtype is None
        and source.order is None
        and source.member is None
        and not (source.options or source.extra)
        and (source.overflow == "error" or source.cast is not None)
    )


def may_be_measured(source: Source, size: int) -> bool:
    """Say the same of a source whose array may have more bytes than its file."""
    return (
        0 < size <= MAX_BYTES
        and source.rows is None
        and source.order is None
        and not source.extra
        and not source.option.get("swmr")
        and _format(source) in FORMATS
    )


def _format(source: Source) -> str | None:
    try:
        return source.resolved_format()
    except SpecMismatch:
        return None


@dataclass(slots=True)
class _Measuring:
    """Members that are being measured."""

    members: Sequence[BlockMember]
    tasks_left: int
    found: dict[int, tuple[int, bytes]] = field(default_factory=dict)  # bytes, and what else


@dataclass(slots=True)
class _MembersLoad:
    """A load that is under way."""

    members: Sequence[BlockMember]
    together: int  # files of one message
    tasks_left: int
    began: float
    measured: Sequence[bytes]  # what was found of each member; none: they are plain
    found: dict[int, LoadedMember] = field(default_factory=dict)
    failed: bool = False


class MemberLoads:
    """The loads of small files.

    `on_measured` is told how big they are, `on_loaded` what was found of each, by position;
    `on_ended` is for those who count them.
    """

    def __init__(
        self,
        pool: Pool,
        on_measured: Measured,
        on_loaded: Loaded,
        on_progress: Callable[[int, int], None],
        on_ended: Ended | None = None,
    ) -> None:
        self._on_ended = on_ended
        self._pool = pool
        self._on_measured = on_measured
        self._on_loaded = on_loaded
        self._on_progress = on_progress
        self._measured: dict[int, _Measuring] = {}
        self._loads: dict[int, _MembersLoad] = {}

    def measure(self, job: int, members: Sequence[BlockMember]) -> None:
        """Ask how big each member is."""
        each = self._for_each_loader(len(members))
        firsts = range(0, len(members), each)
        self._measured[job] = _Measuring(members, len(firsts))
        for first in firsts:
            some = members[first : first + each]
            files = tuple((one.identity.source.path, one.identity.stat) for one in some)
            wire = SizesTask(_common(some), files).to_wire()
            on_result = partial(self._on_sizes, job, first, len(some))
            task = _task(job, some, {"op": "sizes", **wire}, on_result, _no_rows)
            task.urgent = True  # as each look at a file
            self._pool.submit(task)

    def _for_each_loader(self, count: int) -> int:
        """Return the files of one message where each may take a loader milliseconds."""
        return min(max(LEAST_FILES, -(-count // self._pool.limit)), MAX_FILES)

    def _on_sizes(
        self, job: int, first: int, count: int, result: Mapping[str, Any] | ArraydError
    ) -> None:
        now = self._measured.get(job)
        if now is None:
            return
        now.found.update(_sizes(result, first, count))
        now.tasks_left -= 1
        if not now.tasks_left:
            sizes = {at: size for at, (size, _) in now.found.items()}
            self._on_measured(job, now.members, sizes)

    def fill(self, job: int, path: str, members: Sequence[BlockMember]) -> None:
        """Load members into the segment file at `path`."""
        measured = self._measured.pop(job, _Measuring(members, 0)).found
        together = 2 * MAX_FILES if self._pool.behind else MAX_FILES
        together = self._for_each_loader(len(members)) if measured else together
        firsts = range(0, len(members), together)
        found = [packed for _, (_, packed) in sorted(measured.items())]
        self._loads[job] = _MembersLoad(members, together, len(firsts), monotonic(), found)
        for first in firsts:
            self._pool.submit(self._task(job, path, first, members[first : first + together]))

    def cancel(self, job: int) -> None:
        """Forget a load; its tasks are the pool's."""
        self._measured.pop(job, None)
        self._loads.pop(job, None)

    def _task(self, job: int, path: str, first: int, members: Sequence[BlockMember]) -> Task:
        files = tuple(_file(member) for member in members)
        origin, last = members[0].identity, members[-1]
        place = (path, members[0].offset, last.offset + last.room)
        load = self._loads[job]
        found = tuple(load.measured[first : first + len(members)])
        wire = SmallFilesTask(_common(members), *place, files, origin.confined, found).to_wire()
        task = _task(
            job,
            members,
            {"op": "small", **wire},
            lambda result: self._on_result(job, first, result),
            lambda count: self._on_progress(job, count),
        )
        if len(load.members) == 1:  # nothing else is spoilt by it
            task.label, task.urgent, task.patience = str(origin), True, None
        return task

    def _on_result(self, job: int, first: int, result: Mapping[str, Any] | ArraydError) -> None:
        load = self._loads.get(job)
        if load is None:
            return
        found = _read(result, first, load.members[first : first + load.together])
        load.failed = load.failed or found is None
        load.found.update(found or {})
        load.tasks_left -= 1
        if not load.tasks_left:
            del self._loads[job]
            if self._on_ended is not None and not load.failed:  # else they are loaded one by one
                nbytes = sum(one.spec.nbytes for one in load.found.values())
                seconds = monotonic() - load.began
                name = _format(load.members[0].identity.source) or "unknown"
                self._on_ended(name, "ok", len(load.found), nbytes, seconds)
            self._on_loaded(job, load.members, {} if load.failed else load.found)


def _task(
    job: int,
    members: Sequence[BlockMember],
    wire: dict[str, Any],
    on_result: Result,
    on_rows: Callable[[int], None],
) -> Task:
    origin = members[0].identity
    task = Task(job, f"{origin} and other small files", wire, on_result, on_rows, in_place=True)
    task.user, task.patience = origin.user, PATIENCE
    return task


def _common(members: Sequence[BlockMember]) -> dict[str, Any]:
    """Return what is asked of each file, without its path."""
    common: dict[str, Any] = members[0].identity.source.to_wire()
    del common["path"]
    return common


def _no_rows(_: int) -> None:
    """Count no rows: what is measured makes none."""


def _sizes(
    result: Mapping[str, Any] | ArraydError, first: int, count: int
) -> dict[int, tuple[int, bytes]]:
    """Return what a worker has found of files, by position; none: it failed, or makes no sense."""
    try:
        if isinstance(result, ArraydError):
            return {}
        sizes = FoundSizes.from_wire(result).sizes
    except (TypeError, ValueError):
        return {}
    sound = all(0 <= at < count and 0 < size <= MAX_BYTES for at, size, _ in sizes)
    return {first + at: (size, found) for at, size, found in sizes} if sound else {}


def _file(member: BlockMember) -> tuple[str, tuple[int, ...], int, int]:
    origin = member.identity
    return origin.source.path, origin.stat, member.offset, member.room


def _read(
    result: Mapping[str, Any] | ArraydError, first: int, members: Sequence[BlockMember]
) -> dict[int, LoadedMember] | None:
    """Return what a worker says it has loaded; None: it failed, or what it says makes no sense."""
    try:
        if isinstance(result, ArraydError):
            return None
        return dict(_loaded(LoadedFiles.from_wire(result), first, members))
    except (TypeError, ValueError, IndexError):
        return None


def _loaded(
    found: LoadedFiles, first: int, members: Sequence[BlockMember]
) -> Iterator[tuple[int, LoadedMember]]:
    specs = [(spec, spec.nbytes) for spec in found.specs]
    for position, number, lost, key in found.found:
        spec, nbytes = specs[number]
        if position < 0 or number < 0 or nbytes > members[position].room:
            raise ValueError(f"file {position} is not where it should be")
        yield first + position, LoadedMember(ContentKey(key), spec, lost)
