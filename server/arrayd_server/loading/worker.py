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
from arrayd.errors import ArraydError, LoadError, to_wire
from arrayd.source import Source
from arrayd.wire.codec import pack, stream
from arrayd.wire.dtypes import descr, from_descr
from arrayd.wire.protocol import PACKAGE_VERSION
from arrayd_server.loaders import file_identity, formats, segment_writer, validation
from arrayd_server.loaders.base import FoundMember, Part
from arrayd_server.loaders.dataset import file_rows
from arrayd_server.loading import confinement, probing, small_tasks
from arrayd_server.loading.apart import apart
from arrayd_server.loading.messages import (
    FilledPart,
    FillTask,
    InfoTask,
    LoadedFiles,
    ProbeTask,
    SizesTask,
    SmallFilesTask,
)
from arrayd_server.loading.process_start import MAX_WORDS, connected

MAX_ANSWER = 8 << 20
"""Bytes of the largest answer: the daemon packs it again, for a client."""
MAX_PROBLEM = 300
"""Characters of the error of one member of many."""

_ENVELOPE = ("id", "op", "apart")
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
        probing.plan_of(found),
        Part(*fill.part),
        segment_writer.Target(fill.path, from_descr(found.descr), found.order, found.spec.nbytes),
        on_rows=task.rows,
        cancelled=task.cancelled,
    )
    task.report()
    probing.check_unchanged(source, found)
    return FilledPart(lost)


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
    if op != "fill":
        _begin_looking()
    if op in ("fill", "small"):
        loaded: FilledPart | LoadedFiles
        if op == "fill":
            loaded = fill(FillTask.from_wire(fields).understand(), task)
        else:
            loaded = small_tasks.load(SmallFilesTask.from_wire(fields).understand(), task)
        failpoints.hit("worker.answering")
        return loaded.to_wire()
    if op == "sizes":
        return small_tasks.sizes(SizesTask.from_wire(fields).understand(), task).to_wire()
    if op == "probe":
        return probing.probe(ProbeTask.from_wire(fields).understand()).to_wire()
    return info(InfoTask.from_wire(fields).understand())


def _label(wire: Mapping[str, Any]) -> str:
    """Return which file a task is about; of one with small files the first, or where they go."""
    path = wire["source"].get("path") or wire.get("path")
    return str(path or f"{wire['files'][0][0]} and other small files")


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


def main() -> None:
    """Run on the descriptor, for the parent and in the memory named on the command line."""
    with connected("arrayd-loader") as sock:
        run(sock)


if __name__ == "__main__":
    main()
