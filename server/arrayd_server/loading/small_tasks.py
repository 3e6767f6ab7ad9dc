"""What a loader does with the small files of one block: measure them, and load them by one write.

Plain ``.npy`` files have a short way of their own (`loaders.small`). Those of other formats are
read as any file is, one after another, but into memory. A file that is not as expected, in whatever
way, is left out: it is loaded alone then, which also says what is wrong with it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from arrayd.source import Source
from arrayd.wire.codec import pack, unpack
from arrayd.wire.dtypes import from_descr
from arrayd.wire.grant import Spec
from arrayd_server import identity
from arrayd_server.loaders import segment_writer, small
from arrayd_server.loaders.base import Part
from arrayd_server.loading import confinement, probing
from arrayd_server.loading.messages import (
    FoundFile,
    FoundSizes,
    LoadedFiles,
    ProbeTask,
    SizesTask,
    SmallFilesTask,
)

Loaded = tuple[Spec, int, bytes]
"""What lies in memory now, how many values its cast has changed, and its key."""


class Running(Protocol):
    """The task being done."""

    def rows(self, done: int) -> None:
        """Note how many files are done."""

    def cancelled(self) -> bool:
        """Say whether nobody waits for it any more."""


def sizes(task: SizesTask, running: Running) -> FoundSizes:
    """Return the bytes of the arrays in small files, of those that can be loaded together."""
    found = []
    for position, (path, stat) in enumerate(task.files):
        if running.cancelled():
            raise segment_writer.Cancelled
        one = _probed(Source.from_wire({**task.source, "path": path}), stat)
        if one is not None:
            found.append((position, one.spec.nbytes, pack(one.to_wire())))
        running.rows(position + 1)
    return FoundSizes(tuple(found))


def load(task: SmallFilesTask, running: Running) -> LoadedFiles:
    """Load small files into a segment by one write."""
    confinement.for_small_files(task)
    buffer = _scratch(task.stop - task.start)
    common = Source.from_wire({**task.source, "path": "/"})  # each file has a path of its own
    specs: dict[int, tuple[int, Spec]] = {}  # those of equal files are one object, as a rule
    found: list[tuple[int, int, int, bytes]] = []
    for position, (path, stat, offset, room) in enumerate(task.files):
        if running.cancelled():
            raise segment_writer.Cancelled
        out = buffer[offset - task.start : offset - task.start + room]
        if task.found:
            one = _any(replace(common, path=path), task.found[position], out)
        else:
            one = _npy(common, path, stat, out)
        if one is None:
            out[:] = bytes(room)
            continue
        spec, lost, key = one
        number, _ = specs.setdefault(id(spec), (len(specs), spec))
        found.append((position, number, lost, key))
        running.rows(len(found))
    segment_writer.write_bytes(task.path, task.start, buffer)
    return LoadedFiles(tuple(spec for _, spec in specs.values()), tuple(found))


def _npy(common: Source, path: str, stat: tuple[int, ...], out: memoryview) -> Loaded | None:
    one = small.read(path, common, stat, out)
    if one is None:
        return None
    return one.spec, one.lost, identity.of_small(common, one.identity, one.spec, one.file_dtype)


def _any(source: Source, packed: bytes, out: memoryview) -> Loaded | None:
    """Read a file of any format, of which this was found, into the beginning of `out`."""
    found = FoundFile.from_wire(unpack(packed))
    parts = [Part(*part) for part in found.parts]
    named = replace(source, format=found.format)
    try:
        lost = segment_writer.read_into(
            out, named, probing.plan_of(found), parts, from_descr(found.descr)
        )
        probing.check_unchanged(named, found)
    except MemoryError:
        raise
    except Exception:  # a library meets a stranger's bytes: the long way says what is wrong
        return None
    out[found.spec.nbytes :] = bytes(len(out) - found.spec.nbytes)
    return _shared(found.spec), lost, identity.key(source, found)


def _probed(source: Source, stat: tuple[int, ...]) -> FoundFile | None:
    """Return what a file holds, if it can be loaded with others: it is made of itself alone."""
    try:
        found = probing.probe(ProbeTask(source, stat))
    except MemoryError:
        raise
    except Exception:  # as above
        return None
    by_itself = found.apart or found.files or found.locked
    fits = 0 < found.spec.nbytes <= small.MAX_BYTES and len(pack(found.descr)) <= small.MAX_DESCR
    return found if fits and not by_itself else None


_specs: dict[bytes, Spec] = {}

_MOST_SPECS = 256


def _shared(spec: Spec) -> Spec:
    """Return one object for equal specs."""
    if len(_specs) >= _MOST_SPECS:
        _specs.clear()
    return _specs.setdefault(pack(spec.to_wire()), spec)


_kept = bytearray()


def _scratch(size: int) -> memoryview:
    """Return memory for a moment, with whatever a task before has left in it.

    Kept from task to task: to be given new pages takes as long as to read as many bytes.
    """
    global _kept  # noqa: PLW0603 - of this process, which does one task at a time
    if len(_kept) < size:
        _kept = bytearray(size)
    return memoryview(_kept)[:size]
