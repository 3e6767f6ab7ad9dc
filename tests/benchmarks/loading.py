"""Ways to get a file's array into memory: ``python -m tests.benchmarks.loading SPEC``.

arrayd, the bare ways of the machine, the plain library calls, and peers; each tells the ``seconds``
of one load. What is not the load itself (to free what was loaded, to check it) is not timed. This
module runs under the peers' Python too, so that libraries are imported where they are used.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import itertools
import mmap
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.player import Found, play

COLUMNS = [("chr", "S10"), ("pos", "<i4"), ("pct", "<f4"), ("c", "<i4"), ("t", "<i4")]
"""Of the text."""

CHUNK = 256 << 10
"""Bytes that are read and written at a time: they stay in a core's cache."""

Array = np.ndarray[Any, Any]


def seconds_of(call: Callable[[], object]) -> tuple[float, Any]:
    """Return how long a call takes, and what it returns."""
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


class OfArrayd:
    """A client that loads, and has what it loaded evicted.

    Parameters
    ----------
    spec
        ``endpoint``.
    """

    def __init__(self, spec: Found) -> None:
        import arrayd

        warnings.simplefilter("ignore", arrayd.PrecisionWarning)  # casts are what is measured
        self._client = arrayd.connect(spec["endpoint"])

    def __call__(self, task: Found) -> Found:
        """Load ``files`` with ``options``, and count the bytes.

        With ``before`` that file is loaded first and nothing is evicted by us: where the budget has
        room for one only, it has to go for the other, and leaves it its pages.
        With ``linger`` they are kept so many seconds, for somebody to look at the memory.
        """
        options = task.get("options", {})
        if options.get("dtype") == "columns":
            options = {"dtype": np.dtype(COLUMNS)}
        if "before" in task:
            self._client.get(task["before"])
            self._client._session.send_releases()
        files = task["files"]
        if len(files) == 1:
            seconds, found = seconds_of(lambda: self._client.get(files[0], **options))
            size, digest = found.nbytes, _digest(found) if task.get("check") else ""
        else:
            seconds, found = seconds_of(lambda: self._client.get_many(files, **options))
            size, digest = sum(one.nbytes for one in found), ""
        time.sleep(task.get("linger", 0))
        del found
        self._client._session.send_releases()
        if "before" not in task:
            self._free()
        return {"seconds": seconds, "bytes": size, "digest": digest}

    def _free(self) -> None:
        """Evict everything, by request: its pages are given back."""
        for block in self._client.status().blocks:
            self._client.evict(block=block.number)


class OfMachine:
    """Bare ways, and plain library calls.

    Parameters
    ----------
    spec
        ``memory``: a folder of /dev/shm.
    """

    def __init__(self, spec: Found) -> None:
        self._target = os.path.join(spec["memory"], "fill")
        self._mapped: mmap.mmap | None = None

    def __call__(self, task: Found) -> Found:
        """Load ``files`` in the way that ``what`` names."""
        way: Callable[[list[str]], Found] = getattr(self, "_" + task["what"])
        return way(task["files"])

    def _np_load(self, files: list[str]) -> Found:
        seconds, found = seconds_of(lambda: [np.load(path) for path in files])
        del found
        return {"seconds": seconds}

    def _one_by_one(self, files: list[str]) -> Found:
        """Load small files as people do: npz, HDF5 or text, by the suffix."""
        import h5py

        def of_hdf5(path: str) -> Array:
            with h5py.File(path) as file:
                values: Array = file["x"][...]
                return values

        def of_zip(path: str) -> Array:
            with np.load(path) as archive:
                values: Array = archive["x"]
                return values

        ways: dict[str, Callable[[str], Array]]
        ways = {".npz": of_zip, ".h5": of_hdf5, ".txt": np.loadtxt}
        load = ways[os.path.splitext(files[0])[1]]
        return {"seconds": seconds_of(lambda: [load(path) for path in files])[0]}

    def _fill(self, files: list[str]) -> Found:
        """Fill a fresh segment by two threads, through a buffer that stays in the cache."""
        seconds, _ = seconds_of(lambda: bounce(files[0], self._target, 2))
        os.unlink(self._target)
        return {"seconds": seconds}

    def _copyfile(self, files: list[str]) -> Found:
        seconds, _ = seconds_of(lambda: shutil.copyfile(files[0], self._target))
        os.unlink(self._target)
        return {"seconds": seconds}

    def _readinto(self, files: list[str]) -> Found:
        """Read into a segment that is mapped and has its pages."""
        size = os.stat(files[0]).st_size
        if self._mapped is None:
            with open(self._target, "wb+") as target:
                target.truncate(size)
                self._mapped = mmap.mmap(target.fileno(), size)
            os.unlink(self._target)
            self._read(files[0])
        return {"seconds": seconds_of(lambda: self._read(files[0]))[0]}

    def _read(self, path: str) -> None:
        assert self._mapped is not None
        with open(path, "rb", buffering=0) as file, memoryview(self._mapped) as view:
            done = 0
            while read := file.readinto(view[done:]):
                done += read

    def _unmap(self, _: list[str]) -> Found:
        assert self._mapped is not None
        self._mapped.close()
        self._mapped = None
        return {}

    def _h5py(self, files: list[str]) -> Found:
        """Read a dataset into an array that has its pages, by `read_direct`."""
        h5py = importlib.import_module("h5py")
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")  # more codecs, once it is imported
        with h5py.File(files[0], "r") as file:
            dataset = file["x"]
            out = np.ones(dataset.shape, dataset.dtype)
            return {"seconds": seconds_of(lambda: dataset.read_direct(out))[0]}

    def _h5py_all(self, files: list[str]) -> Found:
        """Read a dataset as it is mostly done."""
        h5py = importlib.import_module("h5py")
        with h5py.File(files[0], "r") as file:
            seconds, found = seconds_of(lambda: file["x"][...])
        del found
        return {"seconds": seconds}

    def _loadtxt(self, files: list[str]) -> Found:
        seconds, found = seconds_of(lambda: np.loadtxt(files[0], dtype=COLUMNS))
        return {"seconds": seconds, "digest": _digest(found)}


class OfTables:
    """Text to the same structured array by pyarrow or polars."""

    def __init__(self, _: Found) -> None:
        pass

    def __call__(self, task: Found) -> Found:
        """Read ``files`` by the library that ``what`` names."""
        ways: dict[str, Callable[[str], Array]] = {"pyarrow": by_pyarrow, "polars": by_polars}
        seconds, found = seconds_of(lambda: ways[task["what"]](task["files"][0]))
        return {"seconds": seconds, "digest": _digest(found)}


class OfPlasma:
    """A store whose pages are there already: create, read into it, seal.

    Parameters
    ----------
    spec
        ``socket`` of the store.
    """

    def __init__(self, spec: Found) -> None:
        warnings.simplefilter("ignore", DeprecationWarning)  # each of its names says it is old
        self._plasma = importlib.import_module("pyarrow.plasma")
        self._client = self._plasma.connect(spec["socket"])

    def __call__(self, task: Found) -> Found:
        """Load ``files``."""
        name = self._plasma.ObjectID.from_random()
        seconds, _ = seconds_of(lambda: self._load(name, task["files"][0]))
        self._client.delete([name])
        return {"seconds": seconds}

    def _load(self, name: Any, path: str) -> None:
        view = memoryview(self._client.create(name, os.stat(path).st_size)).cast("B")
        with open(path, "rb", buffering=0) as file:
            done = 0
            while read := file.readinto(view[done:]):
                done += read
        del view
        self._client.seal(name)


def bounce(source: str, target: str, threads: int) -> None:
    """Copy a file into a fresh one by ``pread`` and ``pwrite``, each thread a part of it."""
    size = os.stat(source).st_size
    read, write = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR | os.O_CREAT, 0o600)

    def copy(at: int, end: int) -> None:
        with memoryview(bytearray(CHUNK)) as buffer:
            while at < end:
                got = os.preadv(read, [buffer[: min(CHUNK, end - at)]], at)
                at += os.pwrite(write, buffer[:got], at)

    bounds = [size * number // threads // CHUNK * CHUNK for number in range(threads)] + [size]
    pool = [threading.Thread(target=copy, args=pair) for pair in itertools.pairwise(bounds)]
    try:
        for one in pool:
            one.start()
        for one in pool:
            one.join()
    finally:
        os.close(read)
        os.close(write)


def by_pyarrow(path: str) -> Array:
    """Read the text by pyarrow; names as dictionaries, which is its fastest way to bytes."""
    arrow, csv = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.csv")
    kinds = [arrow.dictionary(arrow.int32(), arrow.string()), arrow.int32(), arrow.float32()]
    kinds += [arrow.int32(), arrow.int32()]
    names = [name for name, _ in COLUMNS]
    table = csv.read_csv(
        path,
        read_options=csv.ReadOptions(column_names=names),
        parse_options=csv.ParseOptions(delimiter="\t"),
        convert_options=csv.ConvertOptions(column_types=dict(zip(names, kinds, strict=True))),
    )
    out = np.empty(len(table), COLUMNS)
    for name in names[1:]:
        out[name] = table[name].to_numpy()
    at = 0
    for part in table["chr"].chunks:
        words = np.array(part.dictionary.to_pylist(), "S10")
        out["chr"][at : at + len(part)] = words[part.indices.to_numpy()]
        at += len(part)
    return out


def by_polars(path: str) -> Array:
    """Read the text by polars; names as an enumeration, which is its fastest way to bytes."""
    polars = importlib.import_module("polars")
    kinds = [polars.String, polars.Int32, polars.Float32, polars.Int32, polars.Int32]
    names = [name for name, _ in COLUMNS]
    table = polars.read_csv(
        path, has_header=False, separator="\t", new_columns=names, schema_overrides=kinds
    )
    out = np.empty(len(table), COLUMNS)
    for name in names[1:]:
        out[name] = table[name].to_numpy()
    words = table["chr"].unique()
    codes = table["chr"].cast(polars.Enum(words)).to_physical().to_numpy()
    out["chr"] = np.array(words.to_list(), "S10")[codes]
    return out


def _digest(array: Array) -> str:
    return hashlib.blake2b(array.tobytes()).hexdigest()


if __name__ == "__main__":
    play({"arrayd": OfArrayd, "machine": OfMachine, "tables": OfTables, "plasma": OfPlasma})
