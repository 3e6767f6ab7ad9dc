"""A loader process: one task at a time from the daemon, over the socket it inherits.

Started by exec, never by fork: it must not inherit a descriptor or mapping of a segment
(the lease test would not see it). It dies with the daemon. A file that crashes it costs
one load. Run as ``python -m arrayd_server.worker FD``.

Tasks: ``{id, op, …}`` with op ``probe``, ``info`` or ``fill``; ``{cancel: id}`` may come in
between. Answers: ``{id, rows}`` (progress), then ``{id, ok}`` or ``{id, err}``.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

import arrayd_server.loaders.engine as engine
from arrayd.errors import ArraydError, LoadError, SourceChanged, SourceNotFound, to_wire
from arrayd.packing import pack, stream
from arrayd.source import Source, descr, from_descr
from arrayd_server import leases, loaders
from arrayd_server.loaders import cast
from arrayd_server.loaders.base import Part, Plan

_PR_SET_PDEATHSIG = 1
_TELL_EVERY = 0.05  # seconds between two progress messages


class Task:
    """The task at hand: its answers, and whether it was cancelled."""

    def __init__(self, sock: socket.socket, inbox: msgpack.Unpacker, number: int) -> None:
        self._sock = sock
        self._inbox = inbox
        self._number = number
        self._rows = 0  # done, not yet told
        self._told = 0.0

    def answer(self, **body: Any) -> None:
        """Send an answer."""
        self._sock.sendall(pack({"id": self._number, **body}))

    def rows(self, done: int) -> None:
        """Tell of progress, but not for every chunk."""
        self._rows += done
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY:
            self._told = now
            self.tell()

    def tell(self) -> None:
        """Tell the rest of the progress."""
        if self._rows:
            self.answer(rows=self._rows)
            self._rows = 0

    def cancelled(self) -> bool:
        """Say whether the daemon has cancelled it (the only thing it sends meanwhile)."""
        if not select.select([self._sock], [], [], 0)[0]:
            return False
        data = self._sock.recv(1 << 16)
        if not data:
            raise SystemExit(0)
        self._inbox.feed(data)
        return any(message.get("cancel") == self._number for message in self._inbox)


def probe(wire: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a source holds, how its rows divide, and which file it is now."""
    source = Source.from_wire(wire["source"])
    identity = engine.identity(source.path)
    if wire["stat"] is not None:
        _same_file(source, identity, wire["stat"])
    plan = loaders.probe(source)
    target = plan.dtype if source.cast is None else source.cast
    cast.check_cast(plan.dtype, target)
    return {
        "shape": plan.shape,
        "file": descr(plan.dtype),
        "descr": descr(target),
        "itemsize": target.itemsize,
        "natural": plan.order,
        "order": source.order or plan.order,
        "rows": plan.storage_shape[0],
        "parts": [(p.start, p.stop, p.hint) for p in plan.parts],
        "detail": plan.detail,
        "member": plan.member,
        "identity": identity,
    }


def info(wire: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file holds: its members, and the array asked for if that is clear."""
    source = Source.from_wire(wire["source"])
    members = loaders.members(source)
    result: dict[str, Any] = {
        "members": [(m.name, m.shape, descr(m.dtype)) for m in members],
        "bytes": os.stat(source.path).st_size,
        "format": source.resolved_format(),
    }
    if source.member is not None or len(members) <= 1:
        plan = loaders.probe(source)
        result |= {"shape": plan.shape, "descr": descr(plan.dtype), "order": plan.order}
    return result


def fill(wire: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Load one part into the segment; return how many values the cast changed."""
    source = Source.from_wire(wire["source"])
    start, stop, hint = wire["part"]
    shape, dtype, order, detail = wire["plan"]
    plan = Plan(tuple(shape), from_descr(dtype), order, (), _tuples(detail))
    part = Part(start, stop, tuple(hint))
    path, target, wanted, nbytes = wire["target"]
    lost = engine.write_part(
        source,
        plan,
        part,
        engine.Target(path, from_descr(target), wanted, nbytes),
        on_rows=task.rows,
        cancelled=task.cancelled,
    )
    task.tell()
    if list(engine.identity(source.path)) != list(wire["identity"]):
        raise SourceChanged(f"{source.path} changed while it was read. Ask again.")
    return {"lost": lost}


def run(sock: socket.socket) -> None:
    """Do tasks until the daemon closes the socket."""
    inbox = stream()
    while data := sock.recv(1 << 20):
        inbox.feed(data)
        for wire in inbox:
            if "cancel" not in wire:  # a cancel that came after the answer
                _do(wire, Task(sock, inbox, wire["id"]))


def _do(wire: Mapping[str, Any], task: Task) -> None:
    try:
        if wire["op"] == "fill":
            task.answer(ok=fill(wire, task))
        else:
            task.answer(ok=probe(wire) if wire["op"] == "probe" else info(wire))
    except engine.Cancelled:
        task.answer(err=to_wire(LoadError("cancelled")))
    except ArraydError as error:
        task.answer(err=to_wire(error))
    except MemoryError as error:
        task.answer(err=to_wire(LoadError(f"A loader process ran out of memory: {error}")))
    except Exception as error:
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        message = f"{wire['source'].get('path')}: {what}. This is a bug in arrayd."
        task.answer(err=to_wire(LoadError(message)))


def _same_file(source: Source, identity: tuple[Any, ...], stat: list[int]) -> None:
    """Refuse a file that is not the one the client sees under this path."""
    seen = list(identity[1:])
    if seen == stat:
        return
    if seen[:2] == stat[:2]:
        raise SourceChanged(f"{source.path} changed while it was asked for. Ask again.")
    raise SourceNotFound(
        f"{source.path} is another file for the daemon (inode {seen[1]}) than for you (inode "
        f"{stat[1]}): you are in different mount namespaces (a container, PrivateTmp=), or "
        "the file was just replaced."
    )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _die_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(0)


def main() -> None:
    """Run on the descriptor and for the parent named on the command line."""
    _die_with_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the daemon's terminal is its affair
    leases.ignore_sigio()
    np.seterr(all="ignore")
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        run(sock)


if __name__ == "__main__":
    main()
