"""A loader process: one task at a time from the daemon, over the socket it inherits.

Started as `own_process` says, as if by ``python -m arrayd_server.loading.worker FD PARENT MEMORY``.
A file that crashes it costs one load; one that asks for more memory than a loader may have, gets
none.

Tasks and answers are those of `arrayd_server.loading.messages`. The last answer says ``spent``
if the process has so much memory that it should be the last. A task with ``apart`` is done in
a child: the process itself reads nothing then.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np

from arrayd.common import failpoints
from arrayd.common.bytesize import format_bytes
from arrayd.errors import ArraydError, LoadError, SourceChanged, SourceNotFound, to_wire
from arrayd.source import Source
from arrayd.wire.codec import pack, stream
from arrayd.wire.dtypes import descr, from_descr
from arrayd.wire.grant import Spec
from arrayd.wire.protocol import PACKAGE_VERSION
from arrayd_server import identity
from arrayd_server.loaders import file_identity, formats, segment_writer, small, validation
from arrayd_server.loaders.base import FoundMember, LoadPlan, Part
from arrayd_server.loaders.dataset import file_rows
from arrayd_server.loaders.file_identity import FileIdentity, NamedIdentity
from arrayd_server.loading import confinement
from arrayd_server.loading.apart import apart
from arrayd_server.loading.messages import (
    FilledPart,
    FillTask,
    FoundFile,
    InfoTask,
    LoadedFiles,
    ProbeTask,
    SmallFilesTask,
)
from arrayd_server.loading.process_start import MAX_WORDS, connected

MAX_ANSWER = 8 << 20
"""Bytes of the largest answer: the daemon packs it again, for a client."""
MAX_PROBLEM = 300
"""Characters of the error of one member of many."""

_ENVELOPE = ("id", "op", "apart")
_PROBE_ATTEMPTS = 5  # until what a file refers to is twice the same
_PROGRESS_INTERVAL = 0.05  # seconds between two progress messages


class RunningTask:
    """The task being done: its answers to the daemon, and whether it was cancelled."""

    def __init__(
        self, sock: socket.socket, inbox: msgpack.Unpacker, number: int, *, apart: bool = False
    ) -> None:
        self.apart = apart  # in a child
        self._sock = sock
        self._inbox = inbox
        self._number = number
        self._rows = self._reported = 0  # done, and those of them that the daemon knows of
        self._reported_at = 0.0

    def answer(self, **body: Any) -> None:
        """Send an answer.

        Raises
        ------
        LoadError
            It is larger than any honest one.
        """
        data = pack({"id": self._number, **body})
        if len(data) > MAX_ANSWER:
            raise LoadError(
                f"The description alone has {format_bytes(len(data))}: too many or too long names."
            )
        try:
            self._sock.sendall(data)
        except ConnectionError:  # the daemon has given us up
            raise SystemExit(0) from None

    def fail(self, error: ArraydError) -> None:
        """Send an error."""
        error.message = error.message[:MAX_WORDS]
        self.end(err=to_wire(error))

    def end(self, **body: Any) -> None:
        """Send the last answer."""
        self.answer(**body, version=PACKAGE_VERSION, spent=self.should_retire())

    def should_retire(self) -> bool:
        """Say whether this process should do no further task: it has too little memory left.

        libhdf5 leaks where it meets corrupt data, and a heap that has grown need not shrink.
        """
        if self.apart:
            return False
        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        with open("/proc/self/statm", encoding="ascii") as statm:
            data = int(statm.read().split()[5]) * resource.getpagesize()  # with the stack, proc(5)
        return data > limit // 2

    def rows(self, done: int) -> None:
        """Note how many rows are done so far; report them now and then, not for every chunk."""
        self._rows = done
        now = time.monotonic()
        if now - self._reported_at >= _PROGRESS_INTERVAL:
            self._reported_at = now
            self.report()

    def report(self) -> None:
        """Report the rows that were not reported yet."""
        if self._rows > self._reported:
            more, self._reported = self._rows - self._reported, self._rows
            self.answer(rows=more)

    def cancelled(self) -> bool:
        """Say whether the daemon has cancelled it; nothing else is sent while a task is done."""
        if not select.select([self._sock], [], [], 0)[0]:
            return False
        data = self._sock.recv(1 << 16)
        if not data:
            raise SystemExit(0)
        self._inbox.feed(data)
        return any(message.get("cancel") == self._number for message in self._inbox)


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
    for _ in range(_PROBE_ATTEMPTS):
        files = file_identity.settled_identities(plan.files)
        # What it refers to was found before it was known which state it is in.
        again = formats.probe(source) if files else plan
        if again == plan:
            return plan, files
        plan = again
    raise SourceChanged(f"{source}: the files that it refers to change all the time. Ask again.")


def info(task: InfoTask) -> dict[str, Any]:
    """Return what a file holds: its members, and the array asked for if that is clear."""
    confinement.for_look(task)
    source = confinement.recognised(task, task.source.understand())
    members = formats.members(source)
    result: dict[str, Any] = {
        "members": [(m.name, m.shape, descr(_plain(m.dtype))) for m in members or ()],
        "problems": {m.name: m.problem[:MAX_PROBLEM] for m in members or () if m.problem},
        "bytes": os.stat(source.path).st_size,
        "format": source.resolved_format(),
    }
    if source.member is not None or members is None or _is_loadable(source, members):
        plan = formats.look(source)
        result |= {"shape": plan.shape, "descr": descr(plan.dtype), "order": plan.order}
        confinement.refuse_others(task, plan.files)
        files = file_identity.identities(plan.files)
        result["files"] = [(path, None if one is None else one[3]) for path, one in files]
        if (header := formats.header(source, plan)) is not None:
            result["header"], result["left_out"] = header
        if plan.shape and source.rows is None:
            with contextlib.suppress(ArraydError):  # it is said when it is loaded
                result["unit"] = file_rows.unit_rows(source, plan)
    return result


def _is_loadable(source: Source, members: list[FoundMember]) -> bool:
    """Say whether a request that names no member has an answer, or an error of its own."""
    asked = source.whole() != Source(path=source.path, format=source.format)
    return len(members) == 1 and (asked or members[0].problem is None)


def fill(fill: FillTask, task: RunningTask) -> FilledPart:
    """Load one part into the segment; return how many values the cast changed."""
    found = fill.found.understand()
    confinement.for_fill(fill)
    source = replace(fill.source.understand(), format=found.format)
    lost = segment_writer.write_part(
        source,
        LoadPlan(found.shape, from_descr(found.file_dtype), found.file_order, (), found.detail),
        Part(*fill.part),
        segment_writer.Target(fill.path, from_descr(found.descr), found.order, found.spec.nbytes),
        on_rows=task.rows,
        cancelled=task.cancelled,
    )
    task.report()
    _check_unchanged(source, found)
    return FilledPart(lost)


def _check_unchanged(source: Source, found: FoundFile) -> None:
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


def small_files(task: SmallFilesTask, running: RunningTask) -> LoadedFiles:
    """Load small files into a segment by one write."""
    _begin_looking()
    confinement.for_small_files(task)
    buffer = _scratch(task.stop - task.start)
    source = Source.from_wire({**task.source, "path": "/"})  # each file has a path of its own
    specs: dict[int, tuple[int, Spec]] = {}  # those of equal files are one object, as a rule
    found: list[tuple[int, int, int, bytes]] = []
    for position, (path, stat, offset, room) in enumerate(task.files):
        if running.cancelled():
            raise segment_writer.Cancelled
        out = buffer[offset - task.start : offset - task.start + room]
        one = small.read(path, source, stat, out)
        if one is None:
            out[:] = bytes(room)
            continue
        number, _ = specs.setdefault(id(one.spec), (len(specs), one.spec))
        key = identity.of_small(source, one.identity, one.spec, one.file_dtype)
        found.append((position, number, one.lost, key))
        running.rows(len(found))
    segment_writer.write_bytes(task.path, task.start, buffer)
    return LoadedFiles(tuple(spec for _, spec in specs.values()), tuple(found))


_kept = bytearray()


def _scratch(size: int) -> memoryview:
    """Return memory for a moment, with whatever a task before has left in it.

    Kept from task to task: to be given new pages takes as long as to read as many bytes.
    """
    global _kept  # noqa: PLW0603 - of this process, which does one task at a time
    if len(_kept) < size:
        _kept = bytearray(size)
    return memoryview(_kept)[:size]


def run(sock: socket.socket) -> None:
    """Do tasks until the daemon closes the socket."""
    inbox = stream()
    while data := sock.recv(1 << 20):
        inbox.feed(data)
        for wire in inbox:
            if "cancel" not in wire:  # a cancel that came after the answer
                _do(wire, RunningTask(sock, inbox, wire["id"], apart=wire.get("apart", False)))


def _do(wire: Mapping[str, Any], task: RunningTask) -> None:
    if not task.apart:
        _answer(wire, task)
        return
    with contextlib.suppress(ArraydError):  # the child says it
        formats.load_format(Source.from_wire(wire["source"]).resolved_format())
    try:
        apart(lambda: _answer(wire, task))
    except OSError as error:
        task.fail(LoadError(f"{_label(wire)}: no process to read it: {error.strerror}."))


def _answer(wire: Mapping[str, Any], task: RunningTask) -> None:
    try:
        where = confinement.around(confined=wire.get("confined", False), child=task.apart)
        task.end(ok=where(lambda: _done(wire, task)))
        if wire["op"] == "fill":
            failpoints.hit("worker.answered")
    except segment_writer.Cancelled:  # nobody reads the answer, unless the segment was not there
        task.fail(LoadError(f"{_label(wire)}: somebody removed its file in /dev/shm. Ask again."))
    except ArraydError as error:
        task.fail(error)
    except MemoryError as error:
        task.fail(_out_of_memory(wire, error))
    except Exception as error:
        if not wire.get("confined"):  # nobody else is to fill the log
            traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__, limit=-1)[0]
        what = f"{type(error).__name__}: {error} ({last.name}, line {last.lineno})"
        task.fail(LoadError(f"{_label(wire)}: {what}. This is a bug in arrayd."))


def _done(wire: Mapping[str, Any], task: RunningTask) -> dict[str, Any]:
    """Do what a message asks for; return the result."""
    op, fields = wire["op"], {key: value for key, value in wire.items() if key not in _ENVELOPE}
    if op in ("fill", "small"):
        loaded: FilledPart | LoadedFiles
        if op == "fill":
            loaded = fill(FillTask.from_wire(fields).understand(), task)
        else:
            loaded = small_files(SmallFilesTask.from_wire(fields).understand(), task)
        failpoints.hit("worker.answering")
        return loaded.to_wire()
    _begin_looking()
    if op == "probe":
        return probe(ProbeTask.from_wire(fields).understand()).to_wire()
    return info(InfoTask.from_wire(fields).understand())


def _label(wire: Mapping[str, Any]) -> str:
    """Return which file a task is about, or where the small ones of one go."""
    return str(wire["source"].get("path") or wire.get("path"))


def _begin_looking() -> None:
    """Pass the point before a file is looked at."""
    failpoints.hit("worker.probing")


def _out_of_memory(wire: Mapping[str, Any], error: MemoryError) -> LoadError:
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return LoadError(
        f"{_label(wire)}: reading it takes more than the {format_bytes(limit)} of "
        f"memory that a loader may use ({str(error) or 'out of memory'}). If the file is sound, "
        "start the daemon with a larger --loader-memory; it is as likely corrupt, or made so.",
        limit=limit,
    )


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a member's dtype; for one that no request for it would get, object."""
    return dtype if validation.travels(dtype) else np.dtype(object)


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


def main() -> None:
    """Run on the descriptor, for the parent and in the memory named on the command line."""
    with connected("arrayd-loader") as sock:
        run(sock)


if __name__ == "__main__":
    main()
