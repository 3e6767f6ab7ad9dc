"""What the daemon and its loader processes say to each other: tasks and their answers.

A task is ``{id, op, apart, …}`` (``apart``: to be done in a child), answered by any number of
``{id, rows}`` (progress, in rows of storage) and one ``{id, ok, version}`` or
``{id, err, version}``; ``{cancel: id}`` may come in between.

=====  =======  ================================
op     task     ``ok``
=====  =======  ================================
probe  `ProbeTask`  `FoundFile`
info   `InfoTask`   what `arrayd.results.info` tells
fill   `FillTask`   `FilledPart`
sizes  `SizesTask`  `FoundSizes`
small  `SmallFilesTask`  `LoadedFiles`
=====  =======  ================================

Both ends are of one version when a daemon starts. Then ``pip install -U`` may put other files
where the next loader is started from, and two versions that fill one block by different rules
would make something that is no array of either. So each answer names the version that gives it,
and the daemon takes none of another (`result`). A loader refuses tasks that it does not
wholly understand (`arrayd.wire.records`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from arrayd.errors import ArraydError, ProtocolMismatch, from_wire
from arrayd.source import Source
from arrayd.wire.grant import Spec
from arrayd.wire.protocol import PACKAGE_VERSION
from arrayd.wire.records import Record, later
from arrayd_server.loaders.file_identity import FileIdentity, NamedIdentity

Rows = tuple[int, int, tuple[Any, ...]]
"""Start, stop and hint of a `loaders.base.Part`."""


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _found_rows(value: Any) -> tuple[tuple[Any, ...], ...]:
    """Return rows of three numbers and a key, whose types are looked at by column: that is soon."""
    rows = tuple(map(tuple, value))
    kinds = [set(map(type, column)) for column in zip(*rows, strict=True)]
    if rows and kinds != [{int}, {int}, {int}, {bytes}]:
        raise TypeError("they are no files that were found")
    return rows


@dataclass(frozen=True, slots=True)
class ProbeTask(Record):
    """Asks how big a source is, how its rows divide, and which file it is.

    `stat` is that of the file as the asker sees it; None: whichever it is. With `confined` that
    file is all that may be opened.
    """

    source: Source
    stat: tuple[int, ...] | None = None
    confined: bool = False


@dataclass(frozen=True, slots=True)
class InfoTask(Record):
    """Asks what a file holds; `stat` and `confined` as of a `ProbeTask`."""

    source: Source
    stat: tuple[int, ...] | None = None
    confined: bool = False


@dataclass(frozen=True, slots=True)
class FoundFile(Record):
    """What a probe has found.

    Parameters
    ----------
    shape, descr, itemsize, order
        Of the block: after ``rows=``, ``cast=`` and ``order=``.
    file_dtype, file_order
        Dtype and order as in the file.
    rows
        Of storage, see `loaders.base`.
    parts
        How they divide.
    detail, member
        As in `loaders.base.LoadPlan`.
    identity
        Of the file that was probed; after each part it must be the same.
    apart
        Each part is to be read by a process that has read no other file.
    format
        One of `arrayd.source.FORMATS`: as was asked for, or as the file's first bytes say.
    files
        What the file refers to, in the state that was planned for; it must stay the same, too.
    locked
        As in `loaders.base.LoadPlan`.
    """

    shape: tuple[int, ...]
    file_dtype: Any = field(metadata={"read": _tuples})
    descr: Any = field(metadata={"read": _tuples})
    itemsize: int
    file_order: str
    order: str
    rows: int
    parts: tuple[Rows, ...]
    detail: Any = field(metadata={"read": _tuples})
    member: str | None
    identity: FileIdentity
    apart: bool
    format: str
    files: tuple[NamedIdentity, ...] = later(())
    locked: bool = later(False)

    @property
    def spec(self) -> Spec:
        """Return the array that is to be in the block."""
        return Spec(self.shape, self.descr, self.order, self.itemsize)


@dataclass(frozen=True, slots=True)
class FillTask(Record):
    """Load one part of a source into the segment's file at `path`, as was found."""

    source: Source
    part: Rows
    path: str
    found: FoundFile
    confined: bool = False

    @classmethod
    def of(
        cls, source: Source, part: Rows, path: str, found: FoundFile, *, confined: bool = False
    ) -> FillTask:
        """Return the task for a part, which need not know the others."""
        return cls(source, part, path, replace(found, parts=()), confined)


@dataclass(frozen=True, slots=True)
class FilledPart(Record):
    """A part is in its place; `lost` values were changed by the cast."""

    lost: int = 0


@dataclass(frozen=True, slots=True)
class SizesTask(Record):
    """Asks how many bytes the arrays of small files have.

    `source` is what is asked of each, without its path; `files` are their paths, each with its
    ``stat`` as the asker saw it.
    """

    source: dict[str, Any]
    files: tuple[tuple[str, tuple[int, ...]], ...] = field(metadata={"write": tuple})


@dataclass(frozen=True, slots=True)
class FoundSizes(Record):
    """The bytes of each array, by the position of its file, and what was found of it, packed.

    A file that is left out is loaded by itself.
    """

    sizes: tuple[tuple[int, int, bytes], ...] = field(metadata={"write": tuple})


@dataclass(frozen=True, slots=True)
class SmallFilesTask(Record):
    """Load small files into the segment's file at `path`, those of them that are as expected.

    Parameters
    ----------
    source
        What is asked of each, without its path.
    start, stop
        The bytes of the segment that are written.
    files
        Of each its path, its ``stat`` as the asker saw it, where it goes, and its room in bytes.
    confined
        They are one other user's, and all that may be opened.
    found
        Of each what `FoundSizes` says was found of it; empty: they are plain ``.npy`` files.
    """

    source: dict[str, Any]
    path: str
    start: int
    stop: int
    files: tuple[tuple[str, tuple[int, ...], int, int], ...] = field(metadata={"write": tuple})
    confined: bool = False
    found: tuple[bytes, ...] = field(default=(), metadata={"write": tuple})


@dataclass(frozen=True, slots=True)
class LoadedFiles(Record):
    """What was loaded of small files; the others are to be loaded one by one.

    Parameters
    ----------
    specs
        The different arrays: there are few, as a rule.
    found
        Of each file its position, which spec it has, its lost values, and its key.
    """

    specs: tuple[Spec, ...]
    found: tuple[tuple[int, int, int, bytes], ...] = field(
        metadata={"read": _found_rows, "write": tuple}
    )


def checked(message: Any) -> Mapping[str, Any]:
    """Return a worker's message; a corrupt file may have corrupted its reader.

    Raises
    ------
    TypeError
        It is none.
    """
    kinds = {"rows": int, "ok": dict, "err": dict}
    found = [key for key in kinds if isinstance(message, dict) and key in message]
    if len(found) == 1 and isinstance(message[found[0]], kinds[found[0]]) and "id" in message:
        checked: Mapping[str, Any] = message
        return checked
    raise TypeError(f"{str(message)[:80]!r} is no message")


def result(message: Mapping[str, Any], label: str) -> Mapping[str, Any] | ArraydError:
    """Return what the last answer to a task says, unless it is another arrayd's."""
    version = message.get("version")
    if version != PACKAGE_VERSION:
        return other_version(f"{label} is not loaded", version)
    ok: Mapping[str, Any] | None = message.get("ok")
    return from_wire(message["err"]) if ok is None else ok


def other_version(what: str, version: object) -> ProtocolMismatch:
    """Return the error where a process of the daemon's is of another version of arrayd than it."""
    return ProtocolMismatch(
        f"{what}: this daemon (pid {os.getpid()}) is arrayd {PACKAGE_VERSION}, but arrayd "
        f"{str(version)[:40]} has been installed since for {sys.executable}, from which it starts "
        f"its loaders. `kill -USR1 {os.getpid()}` ends it and leaves its blocks to the next "
        "daemon; then ask again."
    )
