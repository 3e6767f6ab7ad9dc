"""Copies attributes from one HDF5 file to another, in HDF5's own types.

h5py's `attrs` would change some of them: fixed-length text to its own kind, say.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Attribute = Any
"""h5py's `AttrID`: it has no types."""


def copy(attribute: Attribute, to: Any, name: bytes) -> None:
    """Copy an attribute to an object of another file, by a name.

    Parameters
    ----------
    attribute
        An `h5py.h5a.AttrID`.
    to
        The low-level object, such as `h5py.h5d.DatasetID`.

    Raises
    ------
    TypeError, ValueError, OSError, RuntimeError
        h5py cannot hold it.
    """
    import h5py  # here: importing arrayd must stay cheap

    space = attribute.get_space()
    kind = attribute.get_type().copy()  # a named one would be tied to its file
    made = h5py.h5a.create(to, name, kind, space)
    if space.get_simple_extent_type() == h5py.h5s.NULL:
        return
    dtype = attribute.dtype
    memory = h5py.h5t.py_create(dtype)
    values = np.zeros((*attribute.shape, *dtype.shape), dtype.base)
    attribute.read(values, mtype=memory)
    made.write(values, mtype=memory)
