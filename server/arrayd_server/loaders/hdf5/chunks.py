"""HDF5 chunks that are decoded here: libhdf5 says where they are, and does no more.

libhdf5 inflates with zlib, and puts bytes that were shuffled back one at a time. Where the filters
of a dataset are deflate, or shuffle and then deflate, as h5py, netCDF-4 and MATLAB write them, its
chunks are read from the file as they are, inflated by libdeflate (twice as fast as zlib) and
unshuffled by numpy: in half the time. All else is left to libhdf5: other filters, and none; values
that it converts; chunks so small that it is the faster one, and so large that a loader should not
hold three of them.

A chunk that decodes to more bytes than a chunk has, or to fewer, is an error; so no byte reaches
the reader that is not of the file, and no process apart is needed (see
`arrayd_server.loading.apart`). For a chunk that was never written there is the fill value, or zero
if there is none or it is never to be written, as h5py has it.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import math
import os
import zlib
from array import array
from contextlib import suppress
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil

from arrayd.common.bytesize import format_bytes
from arrayd.errors import BadFile, SourceChanged
from arrayd.source import Source
from arrayd_server.loaders.hdf5.reading import is_plain

_libdeflate: Any = None
with suppress(ImportError):  # where it has no wheels; see pyproject.toml
    _libdeflate = importlib.import_module("deflate")

MIN_BYTES = 16 << 10
"""Of a chunk: with smaller ones Python takes longer than libhdf5."""

MAX_BYTES = 8 << 20
"""Of a chunk: one is held as it is stored, as it is inflated, and in its place."""

MAX_CHUNKS = 1 << 19
"""Of a dataset: each is remembered, in 16 bytes."""

_DONT_FILTER_PARTIAL = 2  # H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS

_COLUMNS = 16
"""Bytes of an item that are put to their places one column after another."""

_ITEMS = 16 << 10
"""Items that are unshuffled at a time: they stay in the L2 cache."""

_ENTRY = np.dtype([("address", "u8"), ("size", "u4"), ("mask", "u4")])

Array = np.ndarray[Any, Any]


class Filters:
    """The filters of a dataset, if they are of those that are undone here.

    Parameters
    ----------
    created
        The dataset's creation property list.
    """

    def __init__(self, created: Any) -> None:
        self.codes: list[int] = []
        self.item = 1  # bytes of an item, for shuffle
        for index in range(created.get_nfilters()):
            code, _, values, _ = created.get_filter(index)
            self.codes.append(code)
            if code == h5py.h5z.FILTER_SHUFFLE:
                self.item = values[0] if values else 0

    @property
    def known(self) -> bool:
        """Whether they are."""
        shuffle, deflated = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE
        return self.codes in ([deflated], [shuffle, deflated]) and self.item > 0

    def undo(self, data: Array, mask: int, out: Array) -> None:
        """Decode a chunk.

        Parameters
        ----------
        data
            As it is stored; uint8 (n,).
        mask
            Bit *i* is set: filter *i* was left out.
        out
            Takes all of the chunk; uint8 (size,).

        Raises
        ------
        ValueError
            It does not decode to as many bytes.
        """
        applied = {code for i, code in enumerate(self.codes) if not mask >> i & 1}
        if h5py.h5z.FILTER_DEFLATE in applied:
            data = np.frombuffer(_inflated(data, out.size), np.uint8)
        if data.size != out.size:
            raise ValueError(f"it has {data.size} bytes, not {out.size}")
        if h5py.h5z.FILTER_SHUFFLE in applied:
            _unshuffle(data, self.item, out)
        else:
            out[:] = data


def _inflated(data: Array, size: int) -> bytes | bytearray:
    """Inflate a zlib stream that has at most `size` bytes.

    Raises
    ------
    ValueError
        It is damaged, cut off, or has more.
    """
    if _libdeflate is not None:
        try:
            found: bytearray = _libdeflate.zlib_decompress(data, size)
        except _libdeflate.DeflateError:
            raise ValueError(f"it is no zlib stream of {size} bytes") from None
        return found
    stream = zlib.decompressobj()
    try:
        values = stream.decompress(data.data, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not stream.eof or len(values) > size:
        raise ValueError(f"it is no zlib stream of {size} bytes")
    return values


def _unshuffle(data: Array, item: int, out: Array) -> None:
    """Put the bytes of each item together; `data` has the first of each, then the second of each.

    What is left over behind the last item is as it was.
    """
    count = data.size // item
    split = count * item
    columns, items = data[:split].reshape(item, count), out[:split].reshape(count, item)
    for start in range(0, count, _ITEMS):
        some = slice(start, start + _ITEMS)
        if item > _COLUMNS:
            items[some] = columns[:, some].T
            continue
        for i in range(item):
            items[some, i] = columns[i, some]
    out[split:] = data[split:]


def can_decode(dataset: Any) -> bool:
    """Say whether the chunks of a dataset can be decoded by `ChunkReader`, and are better so."""
    created = dataset.id.get_create_plist()
    if created.get_layout() != h5py.h5d.CHUNKED or dataset.dtype.subdtype is not None:
        return False
    size = math.prod(dataset.chunks) * dataset.dtype.itemsize
    return (
        MIN_BYTES <= size <= MAX_BYTES
        and math.prod(_grid(dataset)) <= MAX_CHUNKS
        and Filters(created).known
        and is_plain(dataset)
        and _filters_all(created)
        and _tells_addresses(dataset)
    )


def _filters_all(created: Any) -> bool:
    """Say whether the last chunks along an axis are filtered like the others; h5py does not tell.

    The symbols of libhdf5 are found through a module of h5py, which is linked with it.
    """
    options = ctypes.c_uint()
    with phil:
        failed = ctypes.CDLL(h5py.h5p.__file__).H5Pget_chunk_opts(
            ctypes.c_int64(created.id), ctypes.byref(options)
        )
    return failed >= 0 and not options.value & _DONT_FILTER_PARTIAL


def _tells_addresses(dataset: Any) -> bool:
    """Say whether this libhdf5 tells where chunks are; before 1.14.4 not behind a user block."""
    block = dataset.file.id.get_create_plist().get_userblock()
    return hasattr(dataset.id, "chunk_iter") and (
        not block or h5py.version.hdf5_version_tuple >= (1, 14, 4)
    )


def _grid(dataset: Any) -> tuple[int, ...]:
    """Return how many chunks there are along each axis."""
    return tuple(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))


class ChunkReader:
    """Reads selections of a dataset, as `DatasetReader`, into one buffer that grows to the largest.

    Parameters
    ----------
    source
        For errors.
    dataset
        One of which `can_decode` is true.

    Raises
    ------
    SourceChanged
        It is not; so it is another than was planned.
    BadFile
        Its index of chunks is damaged.
    """

    def __init__(self, source: Source, dataset: Any) -> None:
        if not can_decode(dataset):
            raise SourceChanged(f"{source} changed while it was read. Ask again.")
        self._source = source
        self._dtype = dataset.dtype
        self._chunk: tuple[int, ...] = dataset.chunks
        self._fd: int = dataset.file.id.get_vfd_handle()
        self._filters = Filters(dataset.id.get_create_plist())
        self._table = _table(source, dataset, self._fd)
        self._size = math.prod(self._chunk) * self._dtype.itemsize
        self._fill = _fill_value(dataset)
        # A filter that makes more of a chunk is left out by whoever writes it.
        self._stored = np.empty(self._size + self._size // 8 + 4096, np.uint8)
        self._decoded = np.empty(0, np.uint8)
        self._buffer = np.empty(0, np.uint8)

    def read(self, selection: tuple[slice, ...]) -> Array:
        """Return the values of a selection that keeps all axes; valid until the next call.

        Raises
        ------
        BadFile
            A chunk cannot be decoded.
        """
        counts = tuple(cut.stop - cut.start for cut in selection)
        size = math.prod(counts) * self._dtype.itemsize
        if size > self._buffer.size:
            self._buffer = np.empty(size, np.uint8)
        out = self._buffer[:size].reshape(*counts[:-1], counts[-1] * self._dtype.itemsize)
        grid = (
            range(cut.start // c, -(-cut.stop // c))
            for cut, c in zip(selection, self._chunk, strict=True)
        )
        for index in itertools.product(*grid):
            self._place(index, selection, out)
        found: Array = self._buffer[:size].view(self._dtype).reshape(counts)
        return found

    def _place(self, index: tuple[int, ...], selection: tuple[slice, ...], out: Array) -> None:
        """Put what the selection has of a chunk to its place."""
        there, inside = [], []
        for i, cut, c in zip(index, selection, self._chunk, strict=True):
            low, high = max(i * c, cut.start), min((i + 1) * c, cut.stop)
            there.append(slice(low - cut.start, high - cut.start))
            inside.append(slice(low - i * c, high - i * c))
        place = out[self._in_bytes(there)]
        entry = self._table[index].item()
        if not entry[1]:
            place[...] = np.tile(self._fill, place.shape[-1] // self._fill.size)
        elif place.size == self._size and place.flags.c_contiguous:
            self._decode(index, entry, place.reshape(-1))
        else:
            if not self._decoded.size:
                self._decoded = np.empty(self._size, np.uint8)
            self._decode(index, entry, self._decoded)
            shape = (*self._chunk[:-1], self._chunk[-1] * self._dtype.itemsize)
            place[...] = self._decoded.reshape(shape)[self._in_bytes(inside)]

    def _in_bytes(self, cuts: list[slice]) -> tuple[slice, ...]:
        """Return slices of values as those of arrays of bytes."""
        last, item = cuts[-1], self._dtype.itemsize
        return (*cuts[:-1], slice(last.start * item, last.stop * item))

    def _decode(self, index: tuple[int, ...], entry: tuple[int, int, int], out: Array) -> None:
        """Read a chunk and decode it into `out`."""
        address, size, mask = entry
        try:
            if size > self._stored.size:
                limit = format_bytes(self._stored.size)
                raise ValueError(f"it takes {format_bytes(size)}, and at most {limit} are read")
            self._pread(self._stored[:size].data, address)
            self._filters.undo(self._stored[:size], mask, out)
        except ValueError as error:
            start = index[0] * self._chunk[0]
            at = [i * c for i, c in zip(index, self._chunk, strict=True)]
            raise BadFile(
                f"{self._source} is damaged: the chunk at {at} (from row {start} on) cannot be "
                f"decoded: {error}."
            ) from None

    def _pread(self, buffer: memoryview, position: int) -> None:
        while buffer:
            got = os.preadv(self._fd, [buffer], position) if position < 1 << 63 else 0
            if not got:
                raise ValueError(f"the file ends {len(buffer)} bytes before its end")
            buffer, position = buffer[got:], position + got


def _fill_value(dataset: Any) -> Array:
    """Return the bytes of the value of what was never written; uint8 (itemsize,)."""
    created = dataset.id.get_create_plist()
    value = np.zeros(1, dataset.dtype)
    undefined = created.fill_value_defined() == h5py.h5d.FILL_VALUE_UNDEFINED
    if not undefined and created.get_fill_time() != h5py.h5d.FILL_TIME_NEVER:
        created.get_fill_value(value)
    return value.view(np.uint8)


_KEPT: dict[tuple[Any, ...], Array] = {}
"""The index of the dataset that was read last: parts of one follow each other."""


def _table(source: Source, dataset: Any, fd: int) -> Array:
    """Return where each chunk is; `_ENTRY` in the shape of the grid, a size of 0: nowhere.

    Raises
    ------
    BadFile
        A chunk is outside the dataset, or there twice.
    """
    stat = os.fstat(fd)
    state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    key = (*state, h5py.h5o.get_info(dataset.id).addr)
    if key not in _KEPT:
        table = _read_table(source, dataset)
        _KEPT.clear()
        _KEPT[key] = table
    return _KEPT[key]


def _read_table(source: Source, dataset: Any) -> Array:
    """Ask libhdf5 for it."""
    found = array("Q")

    def note(chunk: Any) -> None:
        found.extend((*chunk.chunk_offset, chunk.byte_offset, chunk.size, chunk.filter_mask))

    grid, axes = _grid(dataset), len(dataset.shape)
    table = np.zeros(grid, _ENTRY)
    if dataset.id.get_num_chunks():
        dataset.id.chunk_iter(note)
    rows = np.frombuffer(found, np.uint64).reshape(-1, axes + 3)
    scaled, rest = np.divmod(rows[:, :axes], np.array(dataset.chunks, np.uint64))
    if rest.any() or (scaled >= np.array(grid, np.uint64)).any():
        raise BadFile(f"{source} is damaged: its index has chunks outside of the dataset.")
    index = tuple(scaled.T.astype(np.int64))
    for name, column in zip(_ENTRY.names or (), rows[:, axes:].T, strict=True):
        table[name][index] = column
    if np.count_nonzero(table["size"]) != len(rows):
        raise BadFile(f"{source} is damaged: its index has a chunk twice, or one of no bytes.")
    return table
