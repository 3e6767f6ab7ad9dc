"""What a file is, by its first bytes; and for those that arrayd does not read, the way to go.

HDF5, npy and npz files are known whatever their names are. A file that is something else than its
suffix says is named for what it is. The marks are those of `file(1)` and of the formats' own
specifications.
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from typing import IO

_HEAD = 4096
_HDF5 = b"\x89HDF\r\n\x1a\n"
_MOST_USERBLOCK = 1 << 30  # the signature may stand at 0, 512, 1024, 2048 …
_PUT = "read it with {} and share the array with arrayd.put"
_IMAGE = "pass format='image', for which the daemon needs Pillow (arrayd[images])"
_NCCOPY = f"convert it with nccopy -k nc4 IN OUT, or {_PUT.format('scipy.io.netcdf_file')}"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file.

    Parameters
    ----------
    name
        With its article, for people.
    advice
        What to do with one; a sentence without its end, empty where arrayd reads it.
    format
        arrayd's name for it, one of `arrayd.source.FORMATS`; None: it does not read it.
    """

    name: str
    advice: str = ""
    format: str | None = None


HDF5 = Kind("an HDF5 file", format="hdf5")
NPY = Kind("an npy file", format="npy")
NPZ = Kind("an npz file", format="npz")
ZARR = Kind("a Zarr store", _PUT.format("zarr"))
GZIP = Kind("compressed by gzip", "name it .gz, or decompress it (gunzip)")

_MARKS: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"\x93NUMPY", NPY),
    (0, b"CDF\x01", Kind("a NetCDF-3 file", _NCCOPY)),
    (0, b"CDF\x02", Kind("a NetCDF-3 file", _NCCOPY)),
    (0, b"CDF\x05", Kind("a NetCDF-3 file", _NCCOPY)),
    (
        0,
        b"MATLAB 5.0 MAT-file",
        Kind(
            "a MATLAB 5 file",
            "save it with save(…, '-v7.3'), which writes HDF5, or read it with scipy.io.loadmat "
            "and share the array with arrayd.put",
        ),
    ),
    (0, b"\x0e\x03\x13\x01", Kind("an HDF4 file", "convert it with h4toh5 IN OUT")),
    (0, b"\x6c\x1b\x01", Kind("a PLINK .bed file (binary genotypes)", _PUT.format("bed_reader"))),
    (0, b"PAR1", Kind("a Parquet file", _PUT.format("pandas.read_parquet or pyarrow"))),
    (0, b"ARROW1", Kind("an Arrow (Feather) file", _PUT.format("pyarrow.feather"))),
    (0, b"FEA1", Kind("a Feather file", _PUT.format("pyarrow.feather"))),
    (0, b"SIMPLE  =", Kind("a FITS file", _PUT.format("astropy.io.fits"))),
    (0, b"BAM\x01", Kind("a BAM file", _PUT.format("pysam"))),
    (0, b"CRAM", Kind("a CRAM file", _PUT.format("pysam"))),
    (0, b"BCF\x02", Kind("a BCF file", "make text of it with bcftools view IN")),
    (0, b"\x5c\x01\0\0", Kind("a NIfTI-1 file", _PUT.format("nibabel"))),
    (0, b"\0\0\x01\x5c", Kind("a NIfTI-1 file", _PUT.format("nibabel"))),
    (344, b"n+1\0", Kind("a NIfTI-1 file", _PUT.format("nibabel"))),
    (0, b"\x1c\x02\0\0n+2\0", Kind("a NIfTI-2 file", _PUT.format("nibabel"))),
    (128, b"DICM", Kind("a DICOM file", _PUT.format("pydicom"))),
    (0, b"II*\0", Kind("a TIFF image", _IMAGE)),
    (0, b"MM\0*", Kind("a TIFF image", _IMAGE)),
    (0, b"II+\0", Kind("a BigTIFF image", _PUT.format("tifffile"))),
    (0, b"\x89PNG", Kind("a PNG image", _IMAGE)),
    (0, b"\xff\xd8\xff", Kind("a JPEG image", _IMAGE)),
    (8, b"WEBPVP8", Kind("a WebP image", _IMAGE)),
    (0, b"RIFF", Kind("a RIFF file (WAV, AVI)", _PUT.format("a library for it"))),
    (0, b"GRIB", Kind("a GRIB file", _PUT.format("cfgrib or eccodes"))),
    (0, b"\x26\xfc\x8f\x88", Kind("a bigWig file", "make text of it with bigWigToBedGraph")),
    (0, b"\x88\x8f\xfc\x26", Kind("a bigWig file", "make text of it with bigWigToBedGraph")),
    (0, b"SQLite format 3\0", Kind("an SQLite database", _PUT.format("sqlite3"))),
    (0, b"%PDF", Kind("a PDF", "take the table out of it first")),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind("an old Excel file", _PUT.format("pandas"))),
    (0, b"Rar!", Kind("a RAR archive", "unpack it")),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", "unpack it")),
    (257, b"ustar", Kind("a tar archive", "unpack it (tar xf)")),
    (0, b"RDX3\n", Kind("an R data file", _PUT.format("pyreadr"))),
    (0, b"RDX2\n", Kind("an R data file", _PUT.format("pyreadr"))),
    (0, b"\x1f\x8b", GZIP),
    (0, b"BZh", Kind("compressed by bzip2", "name it .bz2, or decompress it (bunzip2)")),
    (0, b"\xfd7zXZ\0", Kind("compressed by xz", "name it .xz, or decompress it (unxz)")),
    (0, b"\x28\xb5\x2f\xfd", Kind("compressed by zstd", "decompress it (zstd -d)")),
    (0, b"\x04\x22\x4d\x18", Kind("compressed by LZ4", "decompress it (lz4 -d)")),
    (0, b"\x1f\x9d", Kind("compressed by compress", "decompress it (uncompress)")),
)

_PICKLE = Kind(
    "a pickle",
    "unpickling runs the file's own code, so no daemon does it: load it in your process, if you "
    "trust it, and share the array with arrayd.put",
)
_SAFETENSORS = Kind("a safetensors file", _PUT.format("safetensors.numpy.load_file"))
_ZIPS = (
    (b"[Content_Types].xml", Kind("an Excel (or other Office) file", _PUT.format("pandas"))),
    (b".pkl", Kind("a PyTorch file", _PUT.format("torch.load(…, weights_only=True)"))),
)
_ZIP = Kind("a zip archive", "unpack it and name a file in it")


_MARKUPS: tuple[tuple[re.Pattern[str], Kind], ...] = (
    (
        re.compile(r"<!doctype\s+html|<html|<head|<body", re.IGNORECASE),
        Kind(
            "a web page (HTML), such as a server sends in the place of a file that it refuses",
            "look at it in a browser, and get the file anew",
        ),
    ),
    (
        re.compile(r"<\?xml|<!doctype|<!--", re.IGNORECASE),
        Kind("XML", _PUT.format("a library for it")),
    ),
    (
        re.compile(r'\{\s*("|$)|\[+\s*([{"]|$|[-+\d.eE]+\s*[,\]])'),
        Kind("JSON", "read it with json.load and share np.array(…) of it with arrayd.put"),
    ),
)
"""Text that is no table, as it begins."""


def of_text(text: str) -> Kind | None:
    """Return what text is that was to be a table and does not read as one; None: unknown."""
    begin = text.removeprefix("\ufeff").lstrip()
    return next((kind for mark, kind in _MARKUPS if mark.match(begin)), None)


def advise(kind: Kind) -> str:
    """Return a sentence on a file of a kind that cannot be read as asked."""
    advice = kind.advice or f"pass format={kind.format!r}"
    return f"{kind.name}. {advice[0].upper()}{advice[1:]}."


def look(file: IO[bytes]) -> Kind | None:
    """Return what an open file is, by its first bytes; None: nothing that has a mark."""
    file.seek(0)
    head = file.read(_HEAD)
    kind = of_head(head)
    if kind is NPY:  # what looks like HDF5 further on are values, as for `numpy.load`
        return kind
    if _is_hdf5(file, file.seek(0, os.SEEK_END)):
        return HDF5
    inside = of_head(_gunzipped(head)) if kind is GZIP else None
    return inside if inside is not None and inside.format is None else kind


def _gunzipped(head: bytes) -> bytes:
    """Return the beginning of what is compressed: a BAM file, say, is gzip outside."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    except zlib.error:
        return b""


def _is_hdf5(file: IO[bytes], size: int) -> bool:
    """Whether the signature stands at the beginning, or behind a user block."""
    at = 0
    while at + len(_HDF5) <= size and at <= _MOST_USERBLOCK:
        file.seek(at)
        if file.read(len(_HDF5)) == _HDF5:
            return True
        at = 2 * at or 512
    return False


def of_head(head: bytes) -> Kind | None:
    """Return what a file is that begins with `head`; None: nothing that has a mark."""
    if head.startswith(_HDF5):
        return HDF5
    plain = like_text(head)  # then words of it may be a mark by chance
    for at, mark, kind in _MARKS:
        if head.startswith(mark, at) and not (plain and mark.isalnum()):
            return kind
    if head.startswith(b"PK\x03\x04"):
        return _zip(head)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and len(head) > 2:
        return _PICKLE
    return _SAFETENSORS if head[8:9] == b"{" and b"\0\0" in head[:8] else None


def _zip(head: bytes) -> Kind:
    """Return what a zip archive is by the name of its first member."""
    length = int.from_bytes(head[26:28], "little")
    name = head[30 : 30 + length]
    if name.endswith(b".npy"):
        return NPZ
    return next((kind for mark, kind in _ZIPS if name.endswith(mark)), _ZIP)


_NEVER_TEXT = bytes(set(range(32)) - set(b"\t\n\r\f\v"))
"""Bytes that no text has, in an encoding that extends ASCII."""


def like_text(head: bytes) -> bool:
    """Whether a file that begins with `head` may be text in an encoding that extends ASCII."""
    return bool(head) and len(head.translate(None, _NEVER_TEXT)) == len(head)
