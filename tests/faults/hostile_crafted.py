"""The worst that the formats allow, made by hand: lies about size, cycles, bombs.

Each maker writes one file and returns the options with which it is asked for, and what may
come of it. A bomb is a few megabytes of compressed zeros: a stream of the same block, repeated.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.lib import format as npformat

Maker = Callable[[Path], dict[str, Any] | None]

GIB = 1 << 30


@dataclass(frozen=True)
class Crafted:
    """A file, and what may come of it: names of errors, or ``right array``."""

    name: str
    make: Maker
    outcomes: tuple[str, ...]


CRAFTED: list[Crafted] = []


def crafted(name: str, *outcomes: str) -> Callable[[Maker], Maker]:
    """Register a maker of the file `name`."""

    def register(make: Maker) -> Maker:
        CRAFTED.append(Crafted(name, make, outcomes))
        return make

    return register


# ---- .npy ----------------------------------------------------------------------------------


def npy(shape: str, descr: str = "'<f8'", order: bool = False, size: int = 64) -> bytes:
    """Return a .npy with any words in its header."""
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    return npformat.magic(2, 0) + struct.pack("<I", len(text)) + text + bytes(size)


_HEADERS = {
    "huge": ("(10**12,)", "'<f8'", "BadFile"),
    "huge-digits": ("(1000000000000,)", "'<f8'", "BadFile"),
    "overflow": ("(4294967296, 4294967296)", "'<f8'", "BadFile"),
    "beyond-int64": ("(99999999999999999999,)", "'<f8'", "BadFile"),
    "negative": ("(-8,)", "'<f8'", "BadFile"),
    "negative-pair": ("(-2, -4)", "'<f8'", "BadFile"),
    "float": ("(8.0,)", "'<f8'", "BadFile"),
    "no-tuple": ("8", "'<f8'", "BadFile"),
    "zero-times-huge": ("(0, 9223372036854775807)", "'<f8'", "BadFile"),
    "many-axes": ("(" + "1, " * 200 + ")", "'<f8'", "BadFile"),
    "objects": ("(2,)", "'|O'", "SpecMismatch"),
    "subarray": ("(2,)", "('<f8', (2,))", "BadFile"),
    "wide": ("(1,)", "'<U536870911'", "BadFile"),
    "no-bytes": ("(1000000000000000000,)", "'|V0'", "right array", "BadFile", "SpecMismatch"),
    "surrogate": ("(1,)", r"[('\ud800', '<f8')]", "SpecMismatch", "BadFile"),
    "nested": ("(1,)", "[('a'," * 60 + "'<f8'" + ")]" * 60, "SpecMismatch"),
    "too-nested": ("(1,)", "[" * 4000 + "]" * 4000, "BadFile"),
    "code": ("(__import__('os').abort(),)", "'<f8'", "BadFile"),
    "empty-record": ("(3,)", "[]", "SpecMismatch", "BadFile"),
}


def _with(shape: str, descr: str) -> Maker:
    def make(path: Path) -> None:
        path.write_bytes(npy(shape, descr))

    return make


for _name, (_shape, _descr, *_outcomes) in _HEADERS.items():
    crafted(f"{_name}.npy", *_outcomes)(_with(_shape, _descr))


@crafted("sparse.npy", "NoRoom")
def sparse(path: Path) -> None:
    """Write an array of 1 TB that takes no disk."""
    data = npy("(137438953472,)")
    path.write_bytes(data)
    os.truncate(path, len(data) + (1 << 40))


@crafted("one-value.npy", "LoadError", "NoRoom")
def one_value(path: Path) -> None:
    """Write an array of one value of 1 GiB."""
    data = npy("(1,)", f"'|V{GIB}'", size=0)
    path.write_bytes(data)
    os.truncate(path, len(data) + GIB)


@crafted("long-header.npy", "BadFile")
def long_header(path: Path) -> None:
    """Write a header of 4 GiB, as it says."""
    path.write_bytes(npformat.magic(2, 0) + struct.pack("<I", 2**32 - 1) + bytes(100))


# ---- .npz ----------------------------------------------------------------------------------


def deflated(total: int, prefix: bytes = b"", wbits: int = -15) -> bytes:
    """Return a deflate stream of `prefix` and `total` zeros, without compressing them all."""
    packer = zlib.compressobj(6, zlib.DEFLATED, wbits)
    head = packer.compress(prefix) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * (total >> 20) + packer.flush()


def archive(path: Path, packed: bytes, size: int, method: int = zipfile.ZIP_DEFLATED) -> None:
    """Write an archive of one member ``a.npy``, whose bytes and size are as given."""
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, method, 0, 0, 0, len(packed), size, 5, 0)
    entry = struct.pack(
        *("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, method, 0, 0, 0, len(packed), size, 5, 0, 0, 0, 0),
        *(0, 0),
    )
    data = local + b"a.npy" + packed
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry) + 5, len(data), 0)
    path.write_bytes(data + entry + b"a.npy" + end)


@crafted("bomb.npz", "NoRoom")
def bomb(path: Path) -> None:
    """Write a megabyte that inflates to a gigabyte, as its header says."""
    head = npy("(134217728,)", size=0)
    archive(path, deflated(GIB, head), len(head) + GIB)


@crafted("tail.npz", "right array", "array (refused by the oracle)")
def tail(path: Path) -> None:
    """Write an array of 64 bytes with a gigabyte behind it, to check a sum over."""
    head = npy("(8,)")
    archive(path, deflated(GIB, head), len(head) + GIB)


@crafted("short.npz", "BadFile")
def short(path: Path) -> None:
    """Write a member that says it has 8 MB, and inflates to 64 bytes."""
    head = npy("(1000000,)")
    archive(path, deflated(0, head), 8_000_000 + len(head))


@crafted("lzma.npz", "LoadError", "BadFile")
def lzma_dictionary(path: Path) -> None:
    """Write a member whose decompressor is to allocate 4 GiB."""
    properties = struct.pack("<BBHBI", 9, 4, 5, 93, 2**32 - 1)
    archive(path, properties + bytes(5000), 8000, zipfile.ZIP_LZMA)


@crafted("twice.npz", "right array")
def twice(path: Path) -> dict[str, Any]:
    """Write two members of one name."""
    with zipfile.ZipFile(path, "w") as file:
        for shape in ("(1,)", "(8,)"):
            info = zipfile.ZipInfo("a.npy")
            file.NameToInfo.clear()  # else it warns
            file.writestr(info, npy(shape))
    return {"dataset": "a"}


@crafted("secret.npz", "BadFile")
def secret(path: Path) -> None:
    """Write a member that is encrypted, so it says."""
    archive(path, npy("(8,)"), len(npy("(8,)")), zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)


@crafted("far.npz", "BadFile")
def far(path: Path) -> None:
    """Write a member that lies at 4 GiB."""
    archive(path, npy("(8,)"), len(npy("(8,)")), zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2") + 42
    data[at : at + 4] = b"\xfe\xff\xff\xff"
    path.write_bytes(data)


def directory(path: Path, names: list[bytes]) -> None:
    """Write an archive all whose names mean the same bytes."""
    one, first = npy("(8,)"), names[0]
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, len(first), 0)
    data = local + first + one
    crc, entries = zlib.crc32(one), io.BytesIO()
    for name in names:
        fields = (20, 20, 0, 0, 0, 0, crc, len(one), len(one), len(name), 0, 0, 0, 0, 0, 0)
        entries.write(struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields) + name)
    size = len(entries.getvalue())
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(names), len(names), size, len(data), 0)
    path.write_bytes(data + entries.getvalue() + end)


@crafted("overlap.npz", "right array")
def overlap(path: Path) -> dict[str, Any]:
    """Write 20,000 names for the same bytes."""
    directory(path, [b"%05d.npy" % i for i in range(20_000)])
    return {"dataset": "00000"}


@crafted("names.npz", "BadFile")
def long_names(path: Path) -> None:
    """Write names of 60 kB: an error, or a description, that repeats them is as long as a file."""
    directory(path, [b"%05d" % i + 60_000 * b"x" + b".npy" for i in range(200)])


# ---- text ----------------------------------------------------------------------------------


@crafted("endless.txt", "BadFile")
def endless(path: Path) -> None:
    """Write a line of 100 MB."""
    path.write_bytes(b"1 " * (50 << 20))


@crafted("nul.txt", "BadFile")
def nuls(path: Path) -> None:
    """Write nothing but NULs."""
    path.write_bytes(bytes(1 << 20))


@crafted("zeros.txt.gz", "BadFile")
def zeros(path: Path) -> None:
    """Write 2 GiB of NULs in 2 MB."""
    path.write_bytes(gzip.compress(bytes(1 << 20)) * 2048)


@crafted("quoted.txt.gz", "BadFile")
def quoted_zeros(path: Path) -> dict[str, Any]:
    """Write the same for the reader of quotes."""
    zeros(path)
    return {"quotechar": '"'}


@crafted("rows.txt.gz", "NoRoom")
def rows(path: Path) -> dict[str, Any]:
    """Write ten million rows in 20 kB."""
    path.write_bytes(gzip.compress(b"0\n" * (1 << 19)) * 20)
    return {"dtype": "f8"}


@crafted("zeros.csv", "BadFile")
def xz(path: Path) -> None:
    """Write compressed bytes under a name that says text."""
    path.write_bytes(lzma.compress(bytes(1 << 20)))


@crafted("columns.txt", "right array")
def columns(path: Path) -> None:
    """Write two rows of a million columns."""
    path.write_text(("1 " * 1_000_000 + "\n") * 2)


@crafted("open.csv", "BadFile")
def unclosed(path: Path) -> dict[str, Any]:
    """Write a quote that never closes, before 50 MB of good rows."""
    path.write_bytes(b"1,2\n" * 1000 + b'"3,4\n' + b"1,2345678901234\n" * (3 << 20))
    return {"delimiter": ",", "quotechar": '"'}


@crafted("long.csv", "BadFile")
def long_number(path: Path) -> None:
    """Write one number of 20 MB that is none."""
    path.write_bytes(b"x" * (20 << 20) + b"\n")


# ---- HDF5 ----------------------------------------------------------------------------------


@crafted("chunk-bomb.h5", "LoadError")
def chunk_bomb(path: Path) -> None:
    """Write ten values in a chunk of 2 GiB that is a megabyte of deflate."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", (10,), "f8", chunks=(GIB // 4,), maxshape=(None,), **_GZIP)
        data.id.write_direct_chunk((0,), deflated(2 * GIB, wbits=15))


@crafted("small-chunk-bomb.h5", "LoadError", "BadFile")
def small_chunk_bomb(path: Path) -> None:
    """Write a chunk of 64 KiB that inflates to 4 GiB."""
    # HDF5 1.14 has no room for the 4 MB that this takes if the chunk is said to be smaller.
    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", (8192,), "f8", chunks=(8192,), **_GZIP)
        data.id.write_direct_chunk((0,), deflated(4 * GIB, wbits=15))


_GZIP = {"compression": "gzip"}


def datasets(shape: tuple[int, ...], **options: Any) -> Maker:
    """Return the maker of a file of one dataset without values."""

    def make(path: Path) -> None:
        with h5py.File(path, "w", libver="latest") as file:
            file.create_dataset("x", shape, "f8", **options)

    return make


crafted("space.h5", "NoRoom")(datasets((2**40,), chunks=(1024,)))
crafted("tiny-chunks.h5", "NoRoom")(datasets((2**58,), chunks=(1,)))
crafted("overflow.h5", "BadFile")(datasets((2**40, 2**40), chunks=(1, 1024)))
crafted("empty-overflow.h5", "BadFile")(
    datasets((2**62, 0, 2**62), chunks=(1, 1, 1), maxshape=(None, None, None))
)
crafted("tall.h5", "right array")(datasets((1000, 1000), chunks=(1000, 10), maxshape=(None, None)))


def links(make: Callable[[Any, str], None], dataset: str = "x") -> Maker:
    """Return the maker of a file with links, or what else takes a `h5py.File` and its name."""

    def maker(path: Path) -> dict[str, Any]:
        with h5py.File(path, "w", libver="latest") as file:
            file["good"] = np.arange(8.0)
            make(file, path.name)
        return {"dataset": dataset}

    return maker


def _soft(file: Any, name: str) -> None:
    file["x"], file["y"] = h5py.SoftLink("/y"), h5py.SoftLink("/x")


def _external(file: Any, name: str) -> None:
    file["x"] = h5py.ExternalLink(name, "/x")


def _hard(file: Any, name: str) -> None:
    group = file.create_group("a")
    group["a"], group["b"] = group, file


def _deep(file: Any, name: str) -> None:
    group = file
    for _ in range(300):
        group = group.create_group("g")
    group["d"] = 1


def _virtual(file: Any, source: str, dataset: str, shape: tuple[int, ...] = (8,)) -> None:
    layout = h5py.VirtualLayout(shape, "f8")
    layout[...] = h5py.VirtualSource(source, dataset, shape)
    file.create_virtual_dataset(dataset.replace("to-", ""), layout)


def _ring(file: Any, name: str) -> None:
    for one, other in (("x", "y"), ("y", "x")):
        layout = h5py.VirtualLayout((8,), "f8")
        layout[...] = h5py.VirtualSource(".", other, (8,))
        file.create_virtual_dataset(one, layout)


def _stored(file: Any, where: str) -> None:
    file.create_dataset("x", (8,), "f8", external=[(where, 0, h5py.h5f.UNLIMITED)])


_AWAY = ("SourceNotFound", "BadFile", "SpecMismatch")
crafted("soft.h5", *_AWAY)(links(_soft))
crafted("external.h5", *_AWAY)(links(_external))
crafted("hard.h5", "right array")(links(_hard, "a/a/b/a/b/good"))
crafted("hard-search.h5", *_AWAY)(links(_hard, "nothing"))
crafted("deep.h5", *_AWAY, "LoaderCrashed")(links(_deep, "nothing"))
crafted("self.h5", "BadFile", "LoaderCrashed")(links(lambda f, n: _virtual(f, ".", "x")))
crafted("ring.h5", "BadFile", "LoaderCrashed")(links(_ring))
crafted("virtual.h5", "right array")(links(lambda f, n: _virtual(f, "/gone.h5", "x")))
crafted("device.h5", "right array", "BadFile")(links(lambda f, n: _virtual(f, "/dev/zero", "x")))
crafted("stored-zero.h5", "BadFile")(links(lambda f, n: _stored(f, "/dev/zero")))
crafted("stored-gone.h5", *_AWAY)(links(lambda f, n: _stored(f, "/gone")))
crafted("stored-folder.h5", *_AWAY)(links(lambda f, n: _stored(f, "/tmp")))


@crafted("out-of-order.h5", "right array")
def out_of_order(path: Path) -> None:
    """Write a compound type whose fields are out of order."""
    kind = h5py.h5t.create(h5py.h5t.COMPOUND, 16)
    kind.insert(b"a", 8, h5py.h5t.NATIVE_DOUBLE)
    kind.insert(b"b", 0, h5py.h5t.NATIVE_DOUBLE)
    with h5py.File(path, "w") as file:
        h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((4,)))
