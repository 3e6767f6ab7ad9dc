"""HDF5 types: as what dtype the values of a dataset are shared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib import format as npformat

from arrayd.errors import SpecMismatch
from arrayd.source import Source
from arrayd_server.loaders.checks import check_dtype


def shareable_dtype(source: Source, dataset: Any) -> np.dtype[Any]:
    """Return the dtype without h5py's notes on it, which would not survive the wire."""
    if dataset.shape is None:
        raise SpecMismatch(f"{source} is declared empty (H5S_NULL): it has no values to load.")
    try:
        dtype: np.dtype[Any] = npformat.drop_metadata(dataset.dtype)
    except TypeError as error:
        raise SpecMismatch(f"{source} has a type that numpy lacks: {error}.") from None
    if dtype.subdtype is not None:
        raise SpecMismatch(
            f"{source} has an array as the type of each value ({dtype}). "
            "Write it again with the array's axes as axes of the dataset."
        )
    check_dtype(source, dtype)
    return dtype
