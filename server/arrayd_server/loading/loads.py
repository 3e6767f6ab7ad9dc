"""From a job of the core to tasks of the workers and back: probe, divide, fill."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from arrayd.errors import ArraydError, LoaderCrashed
from arrayd.wire.grant import Spec
from arrayd_server import events, identity
from arrayd_server.core.model import BlockMember
from arrayd_server.identity import BlockIdentity
from arrayd_server.loading import confinement
from arrayd_server.loading.member_loads import Ended, Loaded, Measured, MemberLoads
from arrayd_server.loading.messages import (
    FilledPart,
    FillTask,
    FoundFile,
    InfoTask,
    ProbeTask,
    Rows,
)
from arrayd_server.loading.tasks import Task
from arrayd_server.loading.worker_pool import Pool

log = logging.getLogger(__name__)

_WORDS = 300
"""Characters of an error in one line of the log."""

PARTS_WAITING = 32
"""Parts of a load that the pool knows of: to tell it of all at once takes the loop milliseconds."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What a probe found, as the core wants it."""

    identity: BlockIdentity
    key: bytes
    spec: Spec
    rows: int
    linked: bool  # it is made of more files than the one whose ``stat`` the client knows


@dataclass(slots=True)
class Load:
    """A load between its probe and its end."""

    origin: BlockIdentity
    found: FoundFile
    unsent: Iterator[Rows]  # the parts that the pool does not know of yet
    began: float = 0.0  # when it got its block
    parts_left: int = 0
    task: Mapping[str, Any] = field(default_factory=dict)  # of every part, but for which it is
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Where results go; each takes the job's number first."""

    probed: Callable[[int, Probed], None]
    described: Callable[[int, Mapping[str, Any]], None]
    progress: Callable[[int, int], None]
    filled: Callable[[int, int], None]
    failed: Callable[[int, ArraydError], None]
    measured: Measured
    loaded: Loaded


class Loads:
    """The loads in flight; `on_ended` is for those who count them."""

    def __init__(self, pool: Pool, callbacks: Callbacks, on_ended: Ended | None = None) -> None:
        self._pool = pool
        self._on = callbacks
        self._on_ended = on_ended
        self._loads: dict[int, Load] = {}
        on = (callbacks.measured, callbacks.loaded, callbacks.progress)
        self._members = MemberLoads(pool, *on, on_ended)

    def describe(self, job: int, origin: BlockIdentity) -> None:
        """Ask what a file holds."""
        self._pool.submit(
            _task(job, "info", InfoTask, origin, lambda result: self._on_described(job, result))
        )

    def probe(self, job: int, origin: BlockIdentity) -> None:
        """Ask how big a source is."""
        self._pool.submit(
            _task(
                job, "probe", ProbeTask, origin, lambda result: self._on_probed(job, origin, result)
            )
        )

    def measure(self, job: int, members: Sequence[BlockMember]) -> None:
        """Ask how big each of a job's members is."""
        self._members.measure(job, members)

    def fill(self, job: int, path: str, members: Sequence[BlockMember]) -> None:
        """Load a probed source, or members, into the segment file at `path`."""
        if members:
            self._members.fill(job, path, members)
            return
        load = self._loads[job]
        load.began = monotonic()
        source = load.origin.source
        assert source is not None
        load.parts_left = len(load.found.parts)
        confined = load.origin.confined
        load.task = FillTask.of(source, (0, 0, ()), path, load.found, confined=confined).to_wire()
        if load.parts_left:
            self._submit(job, load, PARTS_WAITING)
        else:
            self._finish(job)

    def _submit(self, job: int, load: Load, count: int) -> None:
        """Hand the next parts to the pool."""
        for part in itertools.islice(load.unsent, count):
            self._pool.submit(self._part(job, load, part))

    def cancel(self, job: int) -> None:
        """Stop a load, or forget what is known of one that is over."""
        load = self._loads.pop(job, None)
        if load is not None:
            self._count(load, "cancelled")
        self._members.cancel(job)
        self._pool.cancel(job)

    def _part(self, job: int, load: Load, part: Rows) -> Task:
        return Task(
            job,
            str(load.origin),
            {"op": "fill", **load.task, "part": part},
            lambda result: self._on_part(job, load.origin, result),
            lambda rows: self._on.progress(job, rows),
            apart=load.found.apart or _needs_child(load.origin),
            user=load.origin.user,
        )

    def _on_described(self, job: int, result: Mapping[str, Any] | ArraydError) -> None:
        if isinstance(result, ArraydError):
            self._on.failed(job, result)
        else:
            self._on.described(job, result)

    def _on_probed(
        self, job: int, origin: BlockIdentity, result: Mapping[str, Any] | ArraydError
    ) -> None:
        if isinstance(result, ArraydError):
            self._failed(job, origin, result)
            return
        assert origin.source is not None
        try:
            found = FoundFile.from_wire(result)
            if origin.confined and tuple(found.identity[1:]) != origin.stat:
                raise ValueError("it was another file")  # what its reader says is not trusted
            key = identity.key(origin.source, found)
            probed = Probed(origin, key, found.spec, found.rows, bool(found.files))
        except (TypeError, ValueError) as error:
            self._failed(job, origin, _nonsense(origin, error))
            return
        self._loads[job] = Load(origin, found, iter(found.parts))
        self._on.probed(job, probed)

    def _on_part(
        self, job: int, origin: BlockIdentity, result: Mapping[str, Any] | ArraydError
    ) -> None:
        load = self._loads.get(job)
        if load is None:
            return
        try:
            filled = result if isinstance(result, ArraydError) else FilledPart.from_wire(result)
        except (TypeError, ValueError) as error:
            filled = _nonsense(origin, error)
        if isinstance(filled, ArraydError):
            del self._loads[job]
            self.cancel(job)
            self._failed(job, origin, filled, load.found.format)
            return
        load.parts_left -= 1
        load.lost += filled.lost
        self._submit(job, load, 1)
        if load.parts_left == 0:
            self._finish(job)

    def _failed(
        self, job: int, origin: BlockIdentity, error: ArraydError, name: str = "unknown"
    ) -> None:
        if self._on_ended is not None:
            self._on_ended(name, "error", 1, 0, 0.0)
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:_WORDS]}"
        about = events.LOAD_FAILED.about(source=origin, uid=origin.user)
        log.info("load of %s failed: %s", origin, words, extra=about)
        self._on.failed(job, error)

    def _finish(self, job: int) -> None:
        load = self._loads.pop(job)
        self._count(load, "ok")
        self._on.filled(job, load.lost)

    def _count(self, load: Load, outcome: str) -> None:
        if self._on_ended is not None:
            found, seconds = load.found, monotonic() - load.began
            self._on_ended(found.format, outcome, 1, found.spec.nbytes, seconds)


def _task(
    job: int,
    op: str,
    kind: type[ProbeTask | InfoTask],
    origin: BlockIdentity,
    on_result: Callable[[Mapping[str, Any] | ArraydError], None],
) -> Task:
    assert origin.source is not None
    wire = {"op": op, **kind(origin.source, origin.stat, origin.confined).to_wire()}
    apart = _needs_child(origin)
    task = Task(job, str(origin), wire, on_result, _no_rows, urgent=True, apart=apart)
    task.user = origin.user
    return task


def _needs_child(origin: BlockIdentity) -> bool:
    """Say whether a file is read in a child because it is another user's."""
    return origin.confined and (origin.source is None or confinement.needs_child(origin.source))


def _nonsense(origin: BlockIdentity, error: Exception) -> LoaderCrashed:
    return LoaderCrashed(
        f"The process that read {origin} says what makes no sense ({error!r}): the file may be "
        "corrupt in a way that corrupts its reader."
    )


def _no_rows(_: int) -> None:
    """Probes make no rows."""
