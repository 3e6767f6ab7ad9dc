"""A file is what its bytes say, whatever it is called; what arrayd does not read is named."""

from __future__ import annotations

import bz2
import gzip
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.errors import BadFile, SpecMismatch
from arrayd.source import Source
from arrayd_server.loaders import formats
from tests.support.daemons import Daemon
from tests.support.processes import block_of

pytestmark = pytest.mark.one_daemon

X = np.arange(6.0)


def _hdf5(path: Path, userblock: int = 0) -> None:
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file["x"] = X


def _npz(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, x=X)


def _npy(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, X)


@pytest.mark.parametrize(
    ("name", "write", "member"),
    [
        *((f"a{s}", _hdf5, "x") for s in (".cool", ".nwb", ".nxs", ".cs", ".hdf", ".xyz", "")),
        ("a.txt", _hdf5, "x"),
        ("a.npy", _hdf5, "x"),
        ("a.bin", _hdf5, "x"),
        ("a.dat", _npy, None),
        ("a", _npy, None),
        ("a.h5", _npy, None),
        ("a.h5", _npz, "x"),
        ("a.zip", _npz, "x"),
        ("a.mat", lambda path: _hdf5(path, 512), "x"),
        ("a.fast5", lambda path: _hdf5(path, 2048), "x"),
    ],
)
def test_hdf5_and_npy_are_known_by_their_bytes(
    tmp_path: Path, name: str, write: Callable[[Path], None], member: str | None
) -> None:
    """They are read under any suffix, or none, and behind a user block."""
    write(tmp_path / name)
    source = formats.recognised(Source.of(tmp_path / name, dataset=member))
    plan = formats.probe(source)
    fill = formats.load_format(source.resolved_format()).fill
    chunks = [chunk.copy() for part in plan.parts for chunk in fill(source, plan, part)]
    np.testing.assert_array_equal(np.concatenate(chunks), X)


def test_one_block_however_the_format_was_found(tmp_path: Path, daemon: Daemon) -> None:
    """A format that is found and the same one said are one array."""
    _hdf5(tmp_path / "a.cs")
    with arrayd.connect(daemon.endpoint) as client:
        found = client.get(tmp_path / "a.cs", dataset="x")
        said = client.get(tmp_path / "a.cs", dataset="x", format="hdf5")
        assert block_of(found).name == block_of(said).name
        assert client.info(tmp_path / "a.cs").format == "hdf5"


def test_format_goes_before_the_bytes(tmp_path: Path, daemon: Daemon) -> None:
    """Who says raw gets the bytes, an npy file's header too."""
    _npy(tmp_path / "a.npy")
    data = (tmp_path / "a.npy").read_bytes()
    with arrayd.connect(daemon.endpoint) as client:
        got = client.get(tmp_path / "a.npy", format="raw", dtype="u1", shape=(-1,))
        assert got.tobytes() == data
        (tmp_path / "a.npy").rename(tmp_path / "a.bin")
        assert client.get(tmp_path / "a.bin", dtype="u1", shape=(-1,)).tobytes() == data


@pytest.mark.parametrize("suffix", ["vcf", "gff3", "gtf", "bedgraph", "narrowPeak", "sam", "tab"])
@pytest.mark.parametrize("pack", ["", ".gz", ".bgz", ".bz2"])
def test_text_by_more_suffixes(tmp_path: Path, suffix: str, pack: str) -> None:
    """The tables of genomics are text, also compressed; bgzip is gzip."""
    data = b"##fileformat\nchr1\t1\t2\n" * 3
    packed: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        ".gz": gzip.compress,
        ".bgz": gzip.compress,
        ".bz2": bz2.compress,
    }
    path = tmp_path / f"a.{suffix}{pack}"
    path.write_bytes(packed[pack](data))
    plan = formats.probe(Source.of(path, dtype="S4,i4,i4"))
    assert plan.shape == (3,)


def _zip(name: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr(name, "x")
    return data.getvalue()


FOREIGN = [
    ("a.nc", b"CDF\x01" + bytes(60), "NetCDF-3", "nccopy -k nc4"),
    ("a.nc", b"CDF\x05" + bytes(60), "NetCDF-3", "nccopy -k nc4"),
    ("a.mat", b"MATLAB 5.0 MAT-file, x".ljust(124) + b"\0\1IM", "MATLAB 5", "-v7.3"),
    ("a.hdf", b"\x0e\x03\x13\x01" + bytes(60), "HDF4", "h4toh5"),
    ("a.bed", b"\x6c\x1b\x01" + bytes(60), "PLINK", "bed_reader"),
    ("a.parquet", b"PAR1" + bytes(60), "Parquet", "pyarrow"),
    ("a", b"RIFF\x20\0\0\0WEBPVP8L" + bytes(20), "a WebP image", "format='image'"),
    ("a", b"RIFF\x20\0\0\0WAVEfmt " + bytes(20), "RIFF file (WAV, AVI)", "a library for it"),
    ("a.fits", b"SIMPLE  =                    T".ljust(2880), "FITS", "astropy"),
    ("a.pkl", pickle.dumps([1]), "pickle", "arrayd.put"),
    ("a.pt", _zip("archive/data.pkl"), "PyTorch", "torch.load"),
    ("a.xlsx", _zip("[Content_Types].xml"), "Excel", "pandas"),
    ("a.safetensors", (8).to_bytes(8, "little") + b"{}      ", "safetensors", "safetensors.numpy"),
    ("a.bam", gzip.compress(b"BAM\x01" + bytes(60)), "BAM", "pysam"),
    ("a.txt", gzip.compress(b"1 2\n"), "compressed by gzip", "gunzip"),
    ("a.h5", gzip.compress(b"1 2\n"), "compressed by gzip", "gunzip"),
    ("a.txt.zst", b"\x28\xb5\x2f\xfd" + bytes(9), "zstd", "zstd -d"),
    ("a.nii.gz", gzip.compress(b"\x5c\x01\0\0" + bytes(400)), "NIfTI", "nibabel"),
    ("a.txt.gz", gzip.compress(b"\x89HDF\r\n\x1a\n" + bytes(60)), "HDF5", "Decompress it first"),
    ("a.npy.gz", gzip.compress(b"x"), "only text", "Decompress it first"),
    ("a.h5", b"chr1 1\n", "begins like text", "format='text'"),
    ("a.xyz", b"chr1 1\n", "begins like text", "format='text'"),
    ("a.h5", b"", "empty", "still written"),
]


@pytest.mark.parametrize(("name", "data", "what", "way"), FOREIGN, ids=range(len(FOREIGN)))
def test_what_is_not_read_is_named(
    tmp_path: Path, name: str, data: bytes, what: str, way: str
) -> None:
    """Each error says what the file is and how to go on."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises((BadFile, SpecMismatch)) as caught:
        formats.probe(Source.of(tmp_path / name))
    assert what in str(caught.value)
    assert way in str(caught.value)


def test_a_zarr_store_is_named(tmp_path: Path) -> None:
    """It is a directory."""
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / ".zgroup").write_text("{}")
    with pytest.raises(BadFile, match=r"Zarr store.*arrayd\.put"):
        formats.probe(Source.of(tmp_path / "a.zarr"))


@pytest.mark.parametrize("head", ["PAR1 2", "CRAMPS 1", "GRIB 3", "BZh 1", "RIFF 2"])
def test_words_are_no_marks(tmp_path: Path, head: str) -> None:
    """A text that begins with a word of another format's is text."""
    (tmp_path / "a.txt").write_text(f"{head}\n")
    assert formats.probe(Source.of(tmp_path / "a.txt", dtype="S9,i4")).shape == ()
