"""An HDF5 dataset without its values: its type and its attributes, as a small HDF5 file.

Who writes the values elsewhere (`arrayd collect`) can so give them the same type, with HDF5's own
enumerations and text encodings, and the same attributes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import h5py

from arrayd.common import hdf5_attributes
from arrayd.source import Source
from arrayd_server.loaders.hdf5.file import find_dataset, opened
from arrayd_server.loaders.hdf5.names import FAILURES, decoded

MAX_ATTRIBUTE = 64_000
"""Bytes of an attribute; files of HDF5's oldest layout, which is the default, hold no more."""

MAX_HEADER = 8 << 20
"""Bytes of all of them; of more, none is given."""

_MOST = 10_000  # attributes of a dataset
_OF_OTHERS = {
    *(b"DIMENSION_LIST", b"REFERENCE_LIST", b"DIMENSION_LABELS"),
    *(b"_Netcdf4Dimid", b"_Netcdf4Coordinates"),
}
"""Attributes that say how a dataset goes with others of its file: HDF5's dimension scales."""


def header(source: Source, name: str) -> tuple[bytes, list[str]]:
    """Return the file, in which the dataset is ``x``, and the names of attributes left out.

    Left out are those that refer to other objects of the source's file, that neither numpy nor
    h5py can hold, and that are too large.
    """
    with opened(source) as file:
        dataset = find_dataset(source, file, name).id
        count = min(h5py.h5a.get_num_attrs(dataset), _MOST)
        names = [h5py.h5a.open(dataset, index=i).name for i in range(count)]
        data, left = _file(dataset, names)
        if len(data) > MAX_HEADER:
            data, left = _file(dataset, ())[0], names
    return data, [decoded(one) for one in left]


def _file(dataset: Any, names: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        kind, empty = dataset.get_type(), h5py.h5s.create(h5py.h5s.NULL)
        # A copy, for a named type is tied to its file.
        stored = kind.copy() if _means_the_same(kind) else h5py.h5t.NATIVE_UINT8
        copy = h5py.h5d.create(file.id, b"x", stored, empty)
        left = [name for name in names if not _copied(dataset, copy, name)]
    return buffer.getvalue(), left


def _copied(dataset: Any, copy: Any, name: bytes) -> bool:
    """Copy an attribute; False: it is left out."""
    if name in _OF_OTHERS or (name in (b"CLASS", b"NAME") and h5py.h5ds.is_scale(dataset)):
        return False
    try:
        attribute = h5py.h5a.open(dataset, name)
        kind = attribute.get_type()
        size = attribute.get_space().get_simple_extent_npoints() * kind.get_size()
        if size > MAX_ATTRIBUTE or not _means_the_same(kind):
            return False
        hdf5_attributes.copy(attribute, copy, name)
    except (TypeError, *FAILURES):
        return False
    return True


def _means_the_same(kind: Any) -> bool:
    """Say whether values of a type mean the same in another file: there is no reference in it."""
    found = kind.get_class()
    if found == h5py.h5t.COMPOUND:
        return all(_means_the_same(kind.get_member_type(i)) for i in range(kind.get_nmembers()))
    if found in (h5py.h5t.ARRAY, h5py.h5t.VLEN):
        return _means_the_same(kind.get_super())
    return bool(found != h5py.h5t.REFERENCE)
