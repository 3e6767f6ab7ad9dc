"""HDF5 types: as what dtype the values of a dataset are shared."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from arrayd.errors import SpecMismatch
from arrayd.source import Source
from arrayd.wire.dtypes import bare
from arrayd_server.loaders.validation import check_dtype

DType = np.dtype[Any]

TEXT = np.dtype(object)
"""Values that are read as a `bytes` object each, to be cast to text of a fixed size."""

_CLASSES = {
    h5py.h5t.TIME: "times (H5T_TIME)",
    h5py.h5t.INTEGER: "integers of an odd size",
    h5py.h5t.FLOAT: "floats of an odd size",
    h5py.h5t.COMPOUND: "structures with a field of such a type, or whose name is no UTF-8",
}


def shareable(source: Source, dataset: Any) -> tuple[tuple[int, ...], DType]:
    """Return shape and dtype of a dataset's values, as h5py reads them.

    Where each value is an array (H5T_ARRAY), its axes follow those of the dataset. Text that has
    no fixed size, or has to be decoded, is `TEXT`.

    Raises
    ------
    SpecMismatch
        The values cannot be shared, or are not what is claimed.
    """
    if dataset.shape is None:
        raise SpecMismatch(f"{source} is declared empty (H5S_NULL): it has no values to load.")
    dtype = described(source, dataset)
    shape = (*dataset.shape, *dtype.shape)
    if is_text(source, dtype.base):
        return shape, TEXT
    if dtype.hasobject:
        raise SpecMismatch(f"{source}: {_why_not(dataset.dtype.base)}")
    return shape, check_dtype(source, bare(dtype.base))


def described(source: Source, dataset: Any) -> DType:
    """Return the dtype that h5py has for the values, with its notes.

    Raises
    ------
    SpecMismatch
        There is none.
    """
    try:
        dtype: DType = dataset.dtype
    except (TypeError, ValueError) as error:
        kind = _CLASSES.get(dataset.id.get_type().get_class(), "values of a type")
        raise SpecMismatch(
            f"{source} holds {kind} that neither numpy nor h5py can hold ({error}). Write it again "
            "with another type, for example with the HDF5 tools."
        ) from None
    return dtype


def is_text(source: Source, dtype: DType) -> bool:
    """Say whether it is text that has no fixed size, or UTF-8 that is asked for as characters."""
    text = h5py.check_string_dtype(dtype)
    if text is None:
        return False
    if text.length is not None:
        return text.encoding == "utf-8" and source.cast is not None and source.cast.kind == "U"
    if source.dtype is not None:
        raise SpecMismatch(
            f"{source} holds variable-length text, not {source.dtype}. Pass cast='S16' for so many "
            "bytes, cast='U16' for characters; cast='U' has the length found by a scan."
        )
    return True


def _why_not(dtype: DType, what: str = "it") -> str:
    """Return why values of no fixed size cannot be shared, and what to do."""
    if dtype.names is not None:
        field = next(name for name in dtype.names if dtype[name].hasobject)
        return _why_not(dtype[field].base, f"its field {field!r}")
    if h5py.check_string_dtype(dtype) is not None:
        return (
            f"{what} holds variable-length text, which has no fixed size. Read it with h5py, and "
            "put it with a field of fixed size, such as S16."
        )
    base = h5py.check_vlen_dtype(dtype)
    if base is not None:
        return (
            f"{what} holds variable-length sequences of {base}, which have no fixed size. Read it "
            "with h5py, and put the values one after another (np.concatenate), and their lengths."
        )
    return (
        f"{what} holds references to objects or regions of the file, which mean nothing outside "
        "it. Read it with h5py, or name the dataset that is meant."
    )
