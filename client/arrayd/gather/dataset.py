"""Writes an array as a dataset of an HDF5 file, from which h5py reads an equal array."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from arrayd.common import hdf5_attributes
from arrayd.errors import SpecMismatch
from arrayd.source import Source
from arrayd.wire.dtypes import bare, descr
from arrayd.wire.protocol import PACKAGE_VERSION, Stat

if TYPE_CHECKING:
    import h5py  # in the functions: importing arrayd must stay cheap

DType = np.dtype[Any]

OWN_ATTRIBUTES = ("source", "bytes", "mtime", "dtype", "arrayd_version")
"""The attributes that `collect` gives each dataset."""

_WRITE_BYTES = 32 << 20  # in one call: bounds h5py's copies, and how long a Ctrl-C waits


@dataclass(frozen=True, slots=True)
class Input:
    """A file to store: what it holds, and its ``stat`` when that was found out.

    Parameters
    ----------
    name
        Of the dataset that it becomes.
    stored
        `dtype` with h5py's metadata; see `stored_type`.
    header, left_out
        As `arrayd.results.info.Info` has them.
    """

    source: Source
    name: str
    shape: tuple[int, ...]
    dtype: DType
    stored: DType
    stat: Stat
    header: bytes | None = None
    left_out: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


# ---- types -------------------------------------------------------------------------------


def stored_type(source: Source, dtype: DType, header: bytes | None = None) -> DType:
    """Return `dtype` with the metadata that makes h5py write what it will read as `dtype`.

    HDF5 has no type for numpy's times: h5py stores them as opaque, tagged bytes.

    Raises
    ------
    SpecMismatch
        h5py cannot write this type, or would read another.
    """
    import h5py

    noted = _noted(dtype) if header is None else _as_there(dtype, header)
    try:
        found = bare(h5py.h5t.py_create(noted, logical=True).dtype)
    except (TypeError, ValueError) as error:
        raise _refused(source, dtype, f"HDF5 has no type for {dtype} ({error})") from None
    if found != dtype:
        raise _refused(source, dtype, f"HDF5 has no type for {dtype}: {found} would be read back")
    return noted


def _as_there(dtype: DType, header: bytes) -> DType:
    """Return `dtype` with the metadata that it has in its file: enumerations, and UTF-8."""
    import h5py

    with h5py.File(io.BytesIO(header)) as file:
        there = file["x"].dtype.base
    text = h5py.check_string_dtype(there)
    if text is not None and dtype.kind == "S":
        noted: DType = h5py.string_dtype(text.encoding, dtype.itemsize)
        return noted
    return there if bare(there) == dtype else _noted(dtype)


def _noted(dtype: DType) -> DType:
    import h5py

    if dtype.kind in "mM":
        noted: DType = h5py.opaque_dtype(dtype)
        return noted
    if dtype.subdtype is not None:
        return np.dtype((_noted(dtype.base), dtype.shape))
    if dtype.names is None:
        return dtype
    fields = [(name, *dtype.fields[name]) for name in dtype.names] if dtype.fields else []
    form: Any = {
        "names": [field[0] for field in fields],
        "formats": [_noted(field[1]) for field in fields],
        "offsets": [field[2] for field in fields],
        "titles": [field[3] if len(field) > 3 else None for field in fields],
        "itemsize": dtype.itemsize,
    }
    result: DType = np.dtype(form)
    return result


def _refused(source: Source, dtype: DType, why: str) -> SpecMismatch:
    return SpecMismatch(f"{source}: {why}. {_remedy(dtype)}")


def _remedy(dtype: DType) -> str:
    leaves = list(_leaves(dtype))
    if any(leaf.kind == "U" for leaf in leaves):
        what = "cast='S'" if dtype.names is None else "cast= with S for U"
        return (
            f"For text that is ASCII pass {what}; other text h5py writes itself, with "
            "h5py.string_dtype()."
        )
    if any(leaf.num >= 256 for leaf in leaves):  # of the package ml_dtypes
        return "Pass cast='f4' (integers: cast='i1'), which holds all its values."
    return "Pass cast= with plain fields, one behind the other and without titles."


def _leaves(dtype: DType) -> list[DType]:
    if dtype.names is None:
        return [dtype.base]
    return [leaf for name in dtype.names for leaf in _leaves(dtype[name].base)]


# ---- values ------------------------------------------------------------------------------


def store(
    file: h5py.File,
    one: Input,
    start: int,
    array: np.ndarray[Any, Any],
    compression: str | None,
    count: Callable[[int], None],
) -> None:
    """Write rows from `start` on, in blocks; the first ones make the dataset."""
    name = os.fsencode(one.name)  # as the file system has it, be it UTF-8 or not
    dataset = file[name] if start else _dataset(file, name, one, compression)
    noted = array.view(np.ndarray)
    if one.stored.metadata or one.stored.names:
        noted = noted.view(one.stored)
    if not one.shape:
        dataset[()] = noted
        count(noted.nbytes)
        return
    row = max(1, one.nbytes // max(1, one.shape[0]))
    step = max(1, _WRITE_BYTES // row)
    if dataset.chunks:  # whole chunks, for each one is compressed as often as it is touched
        step = -(-step // dataset.chunks[0]) * dataset.chunks[0]
    for first in range(0, len(noted) if noted.size else 0, step):
        block = noted[first : first + step]
        dataset[start + first : start + first + len(block)] = block
        count(block.nbytes)


def _dataset(file: h5py.File, name: bytes, one: Input, compression: str | None) -> h5py.Dataset:
    # HDF5 has filters for chunked data only, and chunks only where there are elements.
    filters = {"compression": compression, "shuffle": True} if compression and one.nbytes else {}
    dataset = file.create_dataset(name, one.shape, one.stored, **(filters if one.shape else {}))
    if one.header is not None:
        _copy_attributes(one.header, dataset)
    _describe(dataset, one)
    return dataset


def _copy_attributes(header: bytes, dataset: h5py.Dataset) -> None:
    import h5py

    with h5py.File(io.BytesIO(header)) as file:
        there = file["x"].id
        for index in range(h5py.h5a.get_num_attrs(there)):
            attribute = h5py.h5a.open(there, index=index)
            clashes = attribute.name.decode("utf-8", "surrogateescape") in OWN_ATTRIBUTES
            name = b"original_" * clashes + attribute.name
            hdf5_attributes.copy(attribute, dataset.id, name)


def _describe(dataset: h5py.Dataset, one: Input) -> None:
    import h5py

    text = h5py.string_dtype()
    dataset.attrs.create("source", os.fsencode(str(one.source)), dtype=text)
    _, _, size, mtime_ns, _ = one.stat
    dataset.attrs["bytes"] = size
    # To the nanosecond: a float of seconds would be rounded, a microsecond up or down.
    dataset.attrs["mtime"] = f"{np.datetime64(mtime_ns, 'ns')}+00:00"
    dataset.attrs["dtype"] = str(descr(one.dtype))
    dataset.attrs["arrayd_version"] = PACKAGE_VERSION
