"""The load of small files into one block: from its members to tasks of the workers, and back.

A task that fails, whatever the reason, is no error: all files of the block are loaded one by one
then. So a file that crashes or hangs its reader costs the others a retry, and has an error of its
own. The block is given up: where that task was to write it has no pages, and no segment may have
holes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from arrayd.errors import ArraydError
from arrayd.source import Source
from arrayd_server.core.model import BlockMember, ContentKey, LoadedMember
from arrayd_server.loading.messages import LoadedFiles, SmallFilesTask
from arrayd_server.loading.tasks import Task
from arrayd_server.loading.worker_pool import Pool

MAX_FILES = 32
"""Files of one message: two for a request, so that two workers have something to do.

Where the workers have more to do than they can, a message has twice as many.
"""

PATIENCE = 5.0
"""Seconds that a worker may take for one of several before it is given up with its message."""

MAX_BYTES = 256 << 10
"""Bytes of the largest file that is small."""

Loaded = Callable[[int, Mapping[int, LoadedMember]], None]

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


@dataclass(slots=True)
class _MembersLoad:
    """A load that is under way."""

    members: Sequence[BlockMember]
    together: int  # files of one message
    tasks_left: int
    began: float
    found: dict[int, LoadedMember] = field(default_factory=dict)
    failed: bool = False


class MemberLoads:
    """The loads of small files; `on_loaded` is told of each what was found, by position.

    `on_ended` is for those who count them.
    """

    def __init__(
        self,
        pool: Pool,
        on_loaded: Loaded,
        on_progress: Callable[[int, int], None],
        on_ended: Ended | None = None,
    ) -> None:
        self._on_ended = on_ended
        self._pool = pool
        self._on_loaded = on_loaded
        self._on_progress = on_progress
        self._loads: dict[int, _MembersLoad] = {}

    def fill(self, job: int, path: str, members: Sequence[BlockMember]) -> None:
        """Load members into the segment file at `path`."""
        together = 2 * MAX_FILES if self._pool.behind else MAX_FILES
        firsts = range(0, len(members), together)
        self._loads[job] = _MembersLoad(members, together, len(firsts), monotonic())
        for first in firsts:
            self._pool.submit(self._task(job, path, first, members[first : first + together]))

    def cancel(self, job: int) -> None:
        """Forget a load; its tasks are the pool's."""
        self._loads.pop(job, None)

    def _task(self, job: int, path: str, first: int, members: Sequence[BlockMember]) -> Task:
        files = tuple(_file(member) for member in members)
        origin, last = members[0].identity, members[-1]
        common = origin.source.to_wire()
        del common["path"]
        place = (path, members[0].offset, last.offset + last.room)
        wire = SmallFilesTask(common, *place, files, origin.confined).to_wire()
        alone = len(self._loads[job].members) == 1  # nothing else is spoilt by it
        return Task(
            job,
            str(origin) if alone else f"{origin} and other small files",
            {"op": "small", **wire},
            lambda result: self._on_result(job, first, result),
            lambda count: self._on_progress(job, count),
            user=origin.user,
            urgent=alone,
            in_place=True,
            patience=None if alone else PATIENCE,
        )

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
                self._on_ended("npy", "ok", len(load.found), nbytes, seconds)
            self._on_loaded(job, {} if load.failed else load.found)


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
