"""The report of a cast, for people and programs: counts, a table, a verdict; also of fields."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from arrayd.common.casts.cast import check_cast
from arrayd.datasets.cast_counts import CastCounts
from arrayd.datasets.report_text import table, verdict
from arrayd.errors import MissingDependency, SpecMismatch
from arrayd.wire import dtypes

DType = np.dtype[Any]

_SMALLER = {
    "f": ("f8", "f4", "f2", "bfloat16"),
    "i": ("i4", "i2", "i1"),
    "u": ("u4", "u2", "u1"),
    "c": ("c8",),
}


class CastReport(CastCounts):
    """What a cast of plain values does to them; it prints as a table with a verdict.

    >>> print(CastReport.of(batches, "float16"))  # doctest: +SKIP

    The parameters are those of `CastCounts`.
    """

    @classmethod
    def of(cls, arrays: Iterable[npt.ArrayLike], target: npt.DTypeLike) -> Self:
        """Return the report of arrays of one dtype, one after another.

        Raises
        ------
        SpecMismatch
            There is none, their dtypes differ, or cannot be cast.
        """
        kind = dtypes.parsed("target", target)
        report: Self | None = None
        for values in arrays:
            array = np.asarray(values)
            report = cls(array.dtype, kind) if report is None else report
            report.add(array)
        if report is None:
            raise SpecMismatch("A report is about at least one array.")
        return report

    @property
    def verdict(self) -> str:
        """What the counts mean, in a sentence or two."""
        return verdict(self)

    def __str__(self) -> str:
        return table(self)

    # ---- plain data ----------------------------------------------------------------------

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data for JSON, with what follows from the counts."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        plain["origin"], plain["target"] = dtypes.descr(self.origin), dtypes.descr(self.target)
        derived = ("bytes_before", "bytes_after", "same", "scale", "verdict")
        return plain | {name: getattr(self, name) for name in derived}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return the report that `to_plain` described."""
        values = {one.name: plain[one.name] for one in fields(cls)}
        for name in ("origin", "target"):
            values[name] = dtypes.from_descr(values[name])
        return cls(**values)


class FieldReports:
    """The reports of a cast of arrays, which may have fields: one for each field.

    Parameters
    ----------
    origin, target
        Dtypes; `fields` has the name of each plain field (``"a.b"`` of a nested one; ``""`` where
        there are none), and its report.
    """

    def __init__(self, origin: DType, target: DType) -> None:
        check_cast(origin, target)
        self.origin = origin
        self.target = target
        self._ways = list(_leaves(origin))
        self.fields = {
            ".".join(way): CastReport(_at(origin, way), _at(target, way)) for way in self._ways
        }

    def add(self, values: npt.ArrayLike) -> None:
        """Count the values of an array of `origin`."""
        array = np.asarray(values)
        if array.dtype != self.origin:
            raise SpecMismatch(f"This report is about {self.origin}, not {array.dtype}.")
        for way, report in zip(self._ways, self.fields.values(), strict=True):
            field = array
            for name in way:
                field = field[name]
            report.add(field)

    def __str__(self) -> str:
        return self.words()

    def words(self, overflow: str = "error") -> str:
        """Return the tables; of a cast that was done with `overflow`, with what that did."""
        return "\n".join(
            f"field {name}\n{table(report, overflow)}" if name else table(report, overflow)
            for name, report in self.fields.items()
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the plain data of each field's report, by its name."""
        return {name: report.to_plain() for name, report in self.fields.items()}

    def take_plain(self, plain: Mapping[str, Any]) -> None:
        """Count what `to_plain` described of the same cast."""
        for name, report in self.fields.items():
            report.merge(CastReport.from_plain(plain[name]))


def smaller(origin: DType) -> list[DType]:
    """Return types of fewer bits that values of `origin` may be cast to, the widest first.

    Raises
    ------
    SpecMismatch
        There is none to think of.
    """
    found = []
    for name in _SMALLER.get(origin.kind, ()):
        with contextlib.suppress(MissingDependency):  # ml_dtypes
            kind = dtypes.understood("cast", name)
            if kind.itemsize < origin.itemsize:
                found.append(kind)
    if not found:
        raise SpecMismatch(f"{origin} has no obvious type of fewer bits. Say which with cast=.")
    return found


def _leaves(dtype: DType) -> Iterator[tuple[str, ...]]:
    """Yield the way to each plain field."""
    if dtype.base.names is None:
        yield ()
        return
    for name in dtype.base.names:
        for way in _leaves(dtype.base[name]):
            yield (name, *way)


def _at(dtype: DType, way: Iterable[str]) -> DType:
    for name in way:
        dtype = dtype.base[name]
    return dtype.base
