"""What a client asks for: `Source`, frozen and hashable, the wire form of a request.

A source is a path, ``file.h5:/group/x``, ``file.npz:member`` or ``name:NAME``, and
every option that decides which values come out. A `Source` has its options in one
canonical form: two spellings of one request compare equal, so one load serves both.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from arrayd.common import arguments
from arrayd.common.locate import locate, places
from arrayd.common.manifest_names import label_of
from arrayd.errors import SpecMismatch
from arrayd.wire import dtypes
from arrayd.wire.codec import pack
from arrayd.wire.records import Record, is_hint

if TYPE_CHECKING:
    import numpy.typing as npt

Rows = tuple[int | None, int | None, int | None]
"""A slice along axis 0: start, stop, step, as in ``a[start:stop:step]``."""

OVERFLOWS = ("error", "clip", "inf")
"""What becomes of a value that `cast` cannot hold: an error, the nearest that it can, infinity."""

ORDERS = ("C", "F")

FORMATS = ("npy", "npz", "hdf5", "text", "raw")

BUILT_IN = (*FORMATS, "dataset")
"""With that of the manifests of `arrayd.dataset`, which nobody names."""

_SUFFIXES = {
    ".npy": "npy",
    ".npz": "npz",
    **dict.fromkeys((".h5", ".hdf5", ".hdf", ".he5", ".h5ad", ".loom", ".nc", ".nc4"), "hdf5"),
    **dict.fromkeys((".mat", ".cool", ".mcool", ".fast5", ".nwb", ".nxs", ".keras"), "hdf5"),
    **dict.fromkeys((".txt", ".csv", ".tsv", ".tab", ".dat", ".asc", ".prn"), "text"),
    **dict.fromkeys((".cov", ".bed", ".bedgraph", ".bdg", ".bg", ".wig", ".vcf"), "text"),
    **dict.fromkeys((".gff", ".gff3", ".gtf", ".sam", ".maf", ".psl", ".paf"), "text"),
    **dict.fromkeys((".narrowpeak", ".broadpeak", ".gappedpeak", ".bim", ".fam", ".map"), "text"),
    ".bin": "raw",
    ".raw": "raw",
}
"""Of lower-case suffixes. HDF5, npy and npz files are known by their bytes as well."""

_NAME_OF_FORMAT = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)

_COMPRESSED = (".gz", ".bgz", ".bz2", ".xz", ".lzma")


def _read_dtype(wire: Any) -> np.dtype[Any] | None:
    return None if wire is None else dtypes.from_descr(_tupled(wire))


def _read_options(wire: Any) -> Any:
    options = _tupled(wire)
    if not isinstance(options, tuple) or not all(
        isinstance(o, tuple) and len(o) == 2 and isinstance(o[0], str) for o in options
    ):
        raise TypeError("they are no pairs")
    return options


@dataclass(frozen=True, slots=True, eq=False)
class Source(Record):
    """One array in a file (or under a published name), and how it is to be read.

    Parameters
    ----------
    path
        Absolute path of the file; empty for a published block.
    member
        HDF5 dataset, npz member or field of a dataset; None where the file holds one array.
    name
        Name of a published block; None for a file.
    format
        One of `FORMATS`, or of a plug-in of the daemon's; None: by the suffix of `path`.
    dtype
        The type *in the file* (raw: required; text: as `numpy.loadtxt`; else a claim).
    cast
        The type wanted; None: as in the file.
    overflow
        What happens to a value that does not fit `cast`: one of `OVERFLOWS`.
    rows
        Slice along axis 0, `Rows`; None: all.
    order
        ``"C"`` or ``"F"`` for the block's memory layout; None: as in the file.
    options
        Format options (text: those of `numpy.loadtxt`; raw: ``shape``, ``offset``; hdf5:
        ``locking``, ``swmr``; dataset: ``ids``),
        sorted pairs of msgpack-able values, sequences as tuples.
    """

    path: str = ""
    member: str | None = None
    name: str | None = None
    format: str | None = None
    dtype: np.dtype[Any] | None = field(default=None, metadata={"read": _read_dtype})
    cast: np.dtype[Any] | None = field(default=None, metadata={"read": _read_dtype})
    overflow: str = "error"
    rows: Rows | None = None
    order: str | None = None
    options: tuple[tuple[str, Any], ...] = field(default=(), metadata={"read": _read_options})

    @classmethod
    def of(
        cls,
        what: str | os.PathLike[str] | Source,
        *,
        dataset: str | None = None,
        dtype: npt.DTypeLike | None = None,
        cast: npt.DTypeLike | None = None,
        overflow: str = "error",
        rows: slice | None = None,
        order: str | None = None,
        format: str | None = None,
        **options: Any,
    ) -> Source:
        """Return the canonical source for the arguments of `arrayd.get`.

        A `Source` is returned as it is. Of a string the longest part that is a file is the
        file, and what follows its ``:`` the member; see `arrayd.common.locate`.

        Raises
        ------
        SpecMismatch
            An option has a value that no source can have.
        """
        arguments.refuse_foreign(options)
        if isinstance(what, Source):
            given: dict[str, Any] = {
                "dataset": dataset,
                "dtype": dtype,
                "cast": cast,
                "overflow": overflow,
            }
            given |= {"rows": rows, "order": order, "format": format, **options}
            arguments.refuse_beside_source(given)
            return what
        path, member, name = locate(what, dataset)
        return cls(
            path=path,
            member=member,
            name=name,
            format=_format(format),
            dtype=None if dtype is None else dtypes.parsed("dtype", dtype),
            cast=None if cast is None else dtypes.parsed("cast", cast),
            overflow=arguments.one_of("overflow", overflow, OVERFLOWS),
            rows=_rows(rows),
            order=arguments.choice("order", order, ORDERS),
            options=tuple(sorted((k, _frozen(k, v)) for k, v in options.items())),
        )

    @classmethod
    def meanings(cls, what: str | os.PathLike[str] | Source, **options: Any) -> list[Source]:
        """Return the sources that a text may mean; one, unless its file is gone.

        Raises
        ------
        SpecMismatch
            As `of`.
        """
        source = cls.of(what, **options)
        if not isinstance(what, str) or source.name is not None or "dataset" in options:
            return [source]
        return [replace(source, path=path, member=member) for path, member in places(what)]

    def _key(self) -> tuple[Any, ...]:
        unknown = self._unknown() if self.extra else None
        # To numpy None means float64, and np.dtype("f8") == None: compare first which are None.
        return (
            self.dtype is None,
            self.cast is None,
            self.path,
            self.member,
            self.name,
            self.format,
            self.dtype,
            self.cast,
            self.overflow,
            self.rows,
            self.order,
            self.options,
            pack(unknown) if unknown else b"",
        )

    def _unknown(self) -> dict[Any, Any]:
        """Return the keys of a newer version, but for hints: they decide the values as well."""
        return {key: value for key, value in self.extra.items() if not is_hint(key)}

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Source) and self._key() == other._key())

    def __hash__(self) -> int:
        return hash(self._key())

    @property
    def is_bare_path(self) -> bool:
        """Whether nothing is said but which file; it is so of most, and soon seen."""
        return (
            self.member is None
            and self.name is None
            and self.format is None
            and self.dtype is None
            and self.cast is None
            and self.overflow == "error"
            and self.rows is None
            and self.order is None
            and not self.options
            and not self.extra
        )

    @property
    def slice(self) -> slice:
        """`rows` as a slice object; the whole axis where it is None."""
        return slice(*self.rows) if self.rows else slice(None)

    @property
    def option(self) -> dict[str, Any]:
        """`options` as a dict."""
        return dict(self.options)

    def resolved_format(self) -> str:
        """Return the format: as given, or by the suffix of the path.

        A loader also looks at the first bytes of the file, and trusts them more than the suffix.

        Raises
        ------
        SpecMismatch
            The suffix names no format.
        """
        if self.format:
            return self.format
        stem, suffix = os.path.splitext(self.path.lower())
        if suffix in _COMPRESSED:
            inner = os.path.splitext(stem)[1] or ".txt"
            if _SUFFIXES.get(inner, "text") != "text":
                raise SpecMismatch(
                    f"{self.path}: of compressed files only text is read ({inner} is not). "
                    "Decompress it first."
                )
            return "text"
        try:
            return _SUFFIXES[suffix]
        except KeyError:
            raise SpecMismatch(
                f"{self.path}: the suffix {suffix or '(none)'!s} names no format. "
                f"Say which it is: format= one of {', '.join(FORMATS)}."
            ) from None

    def whole(self) -> Source:
        """Return the same source without `rows`."""
        return replace(self, rows=None)

    def __str__(self) -> str:
        if self.name is not None:
            return f"name:{self.name}"
        # Nobody has asked for the file of a manifest by its path.
        path = label_of(self.path) if self.format == "dataset" else self.path
        return f"{path}:{self.member}" if self.member else path

    @property
    def words(self) -> str:
        """Say for people what of which file is meant, as what."""
        extras = [f"rows={self.slice}"] if self.rows else []
        extras += [f"cast={self.cast}"] if self.cast is not None else []
        return f"{self} ({', '.join(extras)})" if extras else str(self)

    def to_wire(self) -> dict[str, Any]:
        """Return a msgpack-able map of the fields that differ from their defaults."""
        if self.is_bare_path:
            return {"path": self.path}
        wire = {
            name: value
            for name, default in _DEFAULTS.items()
            if type(value := getattr(self, name)) is not type(default) or value != default
        }
        for name in wire.keys() & _DTYPES:
            wire[name] = dtypes.descr(wire[name])
        return wire | dict(self.extra) if self.extra else wire

    def without_hints(self) -> dict[str, Any]:
        """Return `to_wire` without hints: what decides which values come out."""
        return {key: value for key, value in self.to_wire().items() if not is_hint(key)}

    def _check(self) -> None:
        """Refuse what `Source.of` cannot make; what the file lacks, the loaders refuse."""
        _format(self.format)
        arguments.choice("overflow", self.overflow, OVERFLOWS)
        arguments.choice("order", self.order, ORDERS)
        if bool(self.path) == (self.name is not None):
            raise ValueError("a source is a path or a name")
        hash(self.options)


def _format(value: Any) -> str | None:
    """Return the name of a format; which plug-ins there are, only the daemon knows."""
    if value is None:
        return None
    if isinstance(value, str) and _NAME_OF_FORMAT.fullmatch(value):
        return str(value)
    known = ", ".join(map(repr, FORMATS))
    raise SpecMismatch(f"format={value!r}: it can be {known}, or the name of a plug-in.")


_DTYPES = {"dtype", "cast"}

_DEFAULTS = {one.name: one.default for one in fields(Source) if one.name != "extra"}


def _rows(value: slice | None) -> Rows | None:
    if value is None:
        return None
    if not isinstance(value, slice):
        raise SpecMismatch(f"rows={value!r}: it is a slice of axis 0, such as slice(0, 1000).")
    ends = (value.start, value.stop, value.step)
    parts = [None if v is None else arguments.whole("rows", v) for v in ends]
    if parts[2] == 0:
        raise SpecMismatch("rows=: the step of a slice cannot be 0.")
    start, stop, step = parts
    if (start or 0) == 0 and stop is None and (step or 1) == 1:
        return None
    return (start, stop, None if step == 1 else step)


def _frozen(key: str, value: Any) -> Any:
    """Return an option value in hashable, msgpack-able form."""
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(key, v) for v in value)
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) is int and not -(2**63) <= value < 2**64:
        raise SpecMismatch(f"{key}={value}: a number of at most 64 bits is wanted.")
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    for kind in (int, float, str):  # an IntEnum, a StrEnum
        if isinstance(value, kind):
            return _frozen(key, kind(value))
    raise SpecMismatch(
        f"{key}={value!r}: an option travels to another process, so it must be a number, "
        "a string or a sequence of these (no functions, no open files)."
    )


def _tupled(value: Any) -> Any:
    return tuple(_tupled(v) for v in value) if isinstance(value, (list, tuple)) else value
