"""What a source holds, and which file it is: found before it is read, and looked at again after."""

from __future__ import annotations

from arrayd.errors import SourceChanged, SourceNotFound
from arrayd.source import Source
from arrayd.wire.dtypes import descr, from_descr
from arrayd_server.loaders import file_identity, formats, validation
from arrayd_server.loaders.base import LoadPlan
from arrayd_server.loaders.file_identity import FileIdentity, NamedIdentity
from arrayd_server.loading import confinement
from arrayd_server.loading.messages import FoundFile, ProbeTask

_ATTEMPTS = 5  # until what a file refers to is twice the same


def probe(task: ProbeTask) -> FoundFile:
    """Return what a source holds, how its rows divide, and which file it is now."""
    source = task.source.understand()
    confinement.for_look(task)
    now = file_identity.settled_identity(source.path)
    if task.stat is not None:
        _same_file(source, now, task.stat)
    source = confinement.recognised(task, source)
    plan, files = _planned(source)
    confinement.refuse_others(task, plan.files)
    target = plan.target or plan.dtype
    return FoundFile(
        shape=plan.shape,
        file_dtype=descr(plan.dtype),
        descr=descr(target),
        itemsize=target.itemsize,
        file_order=plan.order,
        order=source.order or plan.order,
        rows=plan.storage_shape[0],
        parts=tuple((p.start, p.stop, p.hint) for p in plan.parts),
        detail=plan.detail,
        member=plan.member,
        identity=now,
        apart=plan.apart,
        format=source.resolved_format(),
        files=tuple(files),
        locked=plan.locked,
    )


def _planned(source: Source) -> tuple[LoadPlan, list[NamedIdentity]]:
    """Return the plan, and what its file refers to in the state that is planned for.

    Raises
    ------
    SourceChanged
        It changes all the time.
    """
    plan = formats.probe(source)
    for _ in range(_ATTEMPTS):
        files = file_identity.settled_identities(plan.files)
        # What it refers to was found before it was known which state it is in.
        again = formats.probe(source) if files else plan
        if again == plan:
            return plan, files
        plan = again
    raise SourceChanged(f"{source}: the files that it refers to change all the time. Ask again.")


def _same_file(source: Source, now: FileIdentity, stat: tuple[int, ...]) -> None:
    """Refuse a file that is not the one the client sees under this path."""
    seen = now[1:]
    if file_identity.unchanged((now[0], *stat), now, growing=_grows(source)):
        return
    if seen[:2] == stat[:2] or validation.reads_one():
        raise validation.moved(source.path)
    raise SourceNotFound(
        f"{source.path} is another file for the daemon (inode {seen[1]}) than for you (inode "
        f"{stat[1]}): you are in different mount namespaces (a container, PrivateTmp=), or "
        "the file was just replaced."
    )


def plan_of(found: FoundFile) -> LoadPlan:
    """Return the plan by which a file is read that was found so; its parts are told with it."""
    return LoadPlan(found.shape, from_descr(found.file_dtype), found.file_order, (), found.detail)


def check_unchanged(source: Source, found: FoundFile) -> None:
    """Refuse what was read while a file changed, be it one that the source's refers to."""
    now = file_identity.identities(path for path, _ in found.files)
    states: list[tuple[str, FileIdentity | None, FileIdentity | None]] = [
        (source.path, found.identity, file_identity.identity(source.path)),
        *((path, then, one) for (path, then), (_, one) in zip(found.files, now, strict=True)),
    ]
    for path, then, one in states:
        if not file_identity.unchanged(then, one, growing=_grows(source)):
            error = SourceChanged(f"{path} changed while {source} was read. Ask again.")
            raise validation.moved(path) if validation.reads_one() else error


def _grows(source: Source) -> bool:
    """Say whether a writer may add to the file while it is read."""
    return bool(source.option.get("swmr"))
