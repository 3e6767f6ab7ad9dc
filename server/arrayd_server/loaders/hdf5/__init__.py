"""HDF5 files, and so NetCDF-4 and MATLAB 7.3. `loader` is the format; begin there."""

from arrayd_server.loaders.hdf5.loader import fill, header, members, probe, text_dtype

__all__ = ["fill", "header", "members", "probe", "text_dtype"]
