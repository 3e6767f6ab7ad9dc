"""``arrayd collect``: what h5py reads again is what the file held, or there was an error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest

import arrayd
from arrayd import PrecisionWarning, SpecMismatch
from arrayd.cli import main
from arrayd.gather.hdf5 import collect
from tests.support.daemons import Daemon
from tests.support.processes import raised, save

pytestmark = pytest.mark.one_daemon

UNORDERED = np.dtype(
    {"names": ["a", "b"], "formats": ["<i4", "<i4"], "offsets": [4, 0], "itemsize": 12}
)

KEPT = {
    "times": np.array(["2020-01-01", "NaT"], "M8[ns]"),
    "spans": np.array([1, -2], ">m8[s]"),
    "records with times": np.array([(1, "2020"), (2, "NaT")], [("n", "i8"), ("t", "M8[D]", (1,))]),
    "NULs": np.array([b"a\0b", b"\xff"]),
    "opaque": np.array([b"a\0b", b"\xffxx"], "V3"),
    "long double": np.array([1 + np.longdouble(2) ** -60, 2]),
    "long complex": np.array([1 + 1j, 2]).astype("clongdouble"),
    "half": np.array([1.5, np.nan], "f2"),
    "big endian": np.array([1 + 2j], ">c16"),
    "bool": np.array([(True, b"x")], [("b", "?"), ("s", "S3")]),
    "subarrays": np.ones(2, [("a", "f4", (2, 3)), ("é", "S3")]),
    "out of order": np.frombuffer(np.arange(6, dtype="i4"), UNORDERED),
    "no rows": np.zeros((0, 3), "M8[s]"),
    "0-d": np.array("2020-01-01", "M8[s]"),
}


def store(path: Path, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Write an array to a raw file; return how it is read."""
    array.tofile(path)
    return {"dtype": array.dtype, "shape": array.shape}


@pytest.mark.parametrize("what", KEPT)
def test_every_type_is_read_again(client: arrayd.Client, tmp_path: Path, what: str) -> None:
    """Dtype and bytes are those of the file, by h5py alone."""
    array, path = KEPT[what], tmp_path / "in.bin"
    options = store(path, array)
    assert collect(client, [path], tmp_path / "out.h5", **options) == ["in"]
    with h5py.File(tmp_path / "out.h5") as file:
        found = np.asarray(file["in"][()], file["in"].dtype)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert all(found[name].tobytes() == array[name].tobytes() for name in array.dtype.names or ())
    assert array.dtype.names or found.tobytes() == array.tobytes()


REFUSED = {
    "titles": (np.zeros(2, [(("title", "a"), "<i4")]), np.dtype([("a", "<i4")])),
    "overlapping": (
        np.zeros(2, {"names": ["a", "b"], "formats": ["<i4", "<i2"], "offsets": [0, 0]}),
        np.dtype([("a", "<i4"), ("b", "<i2")]),
    ),
    "characters": (np.array(["ab", "c"]), np.dtype("S")),
    "characters in records": (
        np.array([("ab", 1)], [("a", "U4"), ("b", "i4")]),
        np.dtype([("a", "S4"), ("b", "i4")]),
    ),
    "bfloat16": (np.array([1, 2], ml_dtypes.bfloat16), np.dtype("f4")),
    "int4": (np.array([1, -2], ml_dtypes.int4), np.dtype("i1")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_hdf5_has_no_type_for(client: arrayd.Client, tmp_path: Path, what: str) -> None:
    """The error tells of cast=, and with it the values are collected."""
    (array, cast), path = REFUSED[what], tmp_path / "in.bin"
    options = store(path, array)
    error, _ = raised(lambda: collect(client, [path], tmp_path / "out.h5", **options))
    assert isinstance(error, SpecMismatch)
    assert "HDF5 has no type for" in str(error)
    assert ("cast='S'" if what == "characters" else "cast=") in str(error)
    collect(client, [path], tmp_path / "out.h5", cast=cast, **options)
    with h5py.File(tmp_path / "out.h5") as file:
        found = file["in"][()]
    expected = array.astype(cast)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("cast", [None, "S"])
def test_text_whose_length_is_found(
    client: arrayd.Client, tmp_path: Path, cast: str | None
) -> None:
    """Text of varying length gets the size of its longest value, rows asked for or not."""
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["x"] = [b"a", b"bcd", b""]
        file["single"] = b"abcde"
    files = [f"{tmp_path}/in.h5:x", f"{tmp_path}/in.h5:single"]
    assert collect(client, files, tmp_path / "out.h5", cast=cast) == ["in/x", "in/single"]
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["in/x"][()].tolist() == [b"a", b"bcd", b""]
        assert (file["in/x"].dtype, file["in/single"].dtype) == (np.dtype("S3"), np.dtype("S5"))
        assert file["in/single"][()] == b"abcde"


def test_names_that_are_no_utf8(daemon: Daemon, tmp_path: Path) -> None:
    """A dataset is named with the bytes of the file's name, and its attribute has them too."""
    path = os.fsencode(tmp_path) + b"/\xff.npy"
    save(Path(os.fsdecode(path)), np.arange(3))
    out = tmp_path / "out.h5"
    words = ["collect", os.fsdecode(path), "-o", str(out), "--endpoint", daemon.endpoint]
    assert main(words) == 0
    with h5py.File(out) as file:
        assert file[b"\xff"][()].tolist() == [0, 1, 2]
        assert os.fsencode(file[b"\xff"].attrs["source"]) == path


def test_one_dataset_twice(client: arrayd.Client, tmp_path: Path) -> None:
    """Two spellings of one dataset are a typed error, and not h5py's words."""
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["x"] = [1, 2]
    files = [f"{tmp_path}/in.h5:{name}" for name in ("x", "./x")]
    error, _ = raised(lambda: collect(client, files, tmp_path / "out.h5"))
    assert isinstance(error, SpecMismatch)
    assert all(file in str(error) for file in files)


def test_what_a_cast_changes_is_told(
    daemon: Daemon, client: arrayd.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says it on standard error in one line, and is done all the same."""
    save(tmp_path / "a.npy", np.array([1.1, 2]))
    words = [str(tmp_path / "a.npy"), "--cast", "f4", "-o", str(tmp_path / "out.h5")]
    for _ in ("loaded", "there already"):
        assert main(["collect", *words, "--endpoint", daemon.endpoint]) == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"arrayd: {tmp_path}/a.npy: float32")
        assert "1 of 2 values were changed" in line
    with pytest.warns(PrecisionWarning, match="1 of 2"):
        collect(client, [tmp_path / "a.npy"], tmp_path / "out.h5", cast="f4")
