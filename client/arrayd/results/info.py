"""`Info`: what a file holds, found out without loading it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

import numpy as np

from arrayd.wire.dtypes import from_descr
from arrayd.wire.records import Record, later

_File: TypeAlias = bytes  # `Info.bytes` hides the type in its class


@dataclass(frozen=True, slots=True)
class Member:
    """One array in a file of several.

    Parameters
    ----------
    name
        Of the member, as ``dataset=`` takes it; bytes that are no UTF-8 as `os.fsdecode` has them.
    shape, dtype
        As in the file; object for a type that has no fixed size, or that numpy lacks.
    problem
        Why it cannot be loaded, as far as its header shows; None: it can.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class InfoAnswer(Record):
    """The daemon's answer: `Info` with dtypes described, and problems by the members' names."""

    format: str
    bytes: int
    members: tuple[tuple[str, tuple[int, ...], Any], ...]
    shape: tuple[int, ...] | None = None
    descr: Any = None
    order: str | None = None
    problems: dict[str, str] = field(default_factory=dict)
    files: tuple[tuple[str, int | None], ...] = ()
    header: _File | None = None
    left_out: tuple[str, ...] = ()
    unit: int | None = later(None)


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """A file that another one refers to; `bytes` is None where there is none of this name."""

    path: str
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Info:
    """What a source holds.

    Parameters
    ----------
    source
        As text.
    format
        Of the file; ``"published"`` for a block that a process wrote.
    bytes
        Size of the file (published: of the data).
    shape, dtype, order
        Of the array asked for; None where the file holds several and none was named.
    members
        The arrays of a file that can hold several.
    files
        Other files in which HDF5 looks for values of that array (external links, virtual
        datasets, external storage), whether they exist or not.
    header
        Type and attributes of the array asked for, as an HDF5 file that has them at an empty
        dataset ``x``: ``h5py.File(io.BytesIO(header))["x"].attrs``. None for other formats.
    unit
        How many rows are decoded together to have one: those of a chunk of HDF5, of a part of a
        text or compressed file (on average). 0: a row lies in the file as it is in memory. None:
        not known.
    left_out
        Attributes that are not in `header`: they refer to other objects of the file (dimension
        scales), have more than 64,000 bytes, or a type that h5py lacks.
    """

    source: str
    format: str
    bytes: int
    shape: tuple[int, ...] | None
    dtype: np.dtype[Any] | None
    order: str | None
    members: tuple[Member, ...]
    files: tuple[LinkedFile, ...] = ()
    header: _File | None = None
    left_out: tuple[str, ...] = ()
    unit: int | None = None

    @classmethod
    def of(cls, source: str, answer: InfoAnswer) -> Self:
        """Return the `Info` in the daemon's answer."""
        problem = answer.problems.get
        return cls(
            source,
            answer.format,
            answer.bytes,
            answer.shape,
            None if answer.descr is None else from_descr(answer.descr),
            answer.order,
            tuple(Member(n, s, from_descr(d), problem(n)) for n, s, d in answer.members),
            tuple(LinkedFile(path, size) for path, size in answer.files),
            answer.header,
            answer.left_out,
            answer.unit,
        )
