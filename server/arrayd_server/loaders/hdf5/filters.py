"""HDF5 filters: see to it that a dataset can be decoded."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any

import h5py

from arrayd.errors import MissingDependency
from arrayd.source import Source
from arrayd_server.loaders.validation import install


def need_filters(source: Source, dataset: Any) -> None:
    """See to it that libhdf5 has what decodes a dataset.

    Raises
    ------
    MissingDependency
    """
    created = dataset.id.get_create_plist()
    for index in range(created.get_nfilters()):
        code, _, _, name = created.get_filter(index)
        if h5py.h5z.filter_avail(code):
            continue
        with suppress(ImportError):
            importlib.import_module("hdf5plugin")  # importing it registers its filters
        if not h5py.h5z.filter_avail(code):
            raise MissingDependency(
                f"{source} is compressed by HDF5 filter {code} ({name.decode() or 'unnamed'}), "
                f"which is not installed. hdf5plugin brings most. {install('hdf5plugin')}"
            )
