"""Writes many files into one HDF5 file; begin at `arrayd.gather.hdf5`."""
