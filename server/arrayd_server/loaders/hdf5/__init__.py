"""HDF5 files, and so NetCDF-4 and MATLAB 7.3. `loader` is the format; begin there."""

from arrayd_server.loaders.hdf5.loader import (
    address,
    fill,
    fill_parts,
    header,
    members,
    probe,
    text_dtype,
    unit,
)

__all__ = ["address", "fill", "fill_parts", "header", "members", "probe", "text_dtype", "unit"]
