"""Scans that ask a daemon: members, lists and texts, and what is wrong with a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.datasets.scan import scan
from arrayd.errors import (
    ArraydError,
    BadFile,
    SourceNotFound,
    SpecMismatch,
)
from arrayd.source import Source
from tests.support.scans import ALONE, place, shards, starts, wrong_files

pytestmark = pytest.mark.one_daemon

__all__ = ["place"]


def test_members_of_hdf5_files(client: arrayd.Client) -> None:
    """``*.h5:/x`` is that member of all; two fields of the same files share them."""
    for number, rows in enumerate((2, 3)):
        with h5py.File(f"{number}.h5", "w") as file:
            file["a/x:0"], file["y"] = np.zeros((rows, 4), "<i2"), np.arange(rows)
    made = scan(client, {"x": "*.h5:/a/x:0", "y": ["0.h5:y", "1.h5:y"]})
    assert (made.rows, len(made.files), starts(made)) == (5, 1, [0, 2, 5])
    assert [(f.name, f.dtype.str, f.row_shape, f.member) for f in made.fields] == [
        ("x", "<i2", (4,), "/a/x:0"),
        ("y", "<i8", (), "y"),
    ]
    assert made.source_of(made.field("x"), 1).member == "/a/x:0"
    assert scan(client, "*.h5", dataset="y").field("x").dtype == np.dtype("i8")


def test_options_go_to_all_files(client: arrayd.Client) -> None:
    """Raw and text files are read as the options say."""
    np.arange(12, dtype="<i2").tofile("a.bin")
    made = scan(client, {"x": "a.bin"}, dtype="<i2", shape=(-1, 3))
    assert (made.rows, made.field("x").row_shape) == (4, (3,))
    assert made.field("x").options == (("shape", (-1, 3)),)
    Path("a.csv").write_text("h,h\n1,2\n3,4\n")
    made = scan(client, "a.csv", delimiter=",", skiprows=1)
    assert (made.rows, made.field("x").row_shape) == (2, (2,))
    np.save("v.npy", np.zeros((2, 2), "V2"))
    assert scan(ALONE, "v.npy", dtype="bfloat16").field("x").dtype.name == "bfloat16"


def test_how_rows_are_stored(client: arrayd.Client) -> None:
    """How many are decoded together is known of each field; of several files the most."""
    rows = np.zeros((20, 4), "f4")
    with h5py.File("a.h5", "w") as file:
        file["plain"] = rows
        file.create_dataset("gz", data=rows, chunks=(8, 2), compression="gzip")
        file.create_dataset("chunked", data=rows, chunks=(5, 4))
    np.savez("stored.npz", rows)
    np.savez_compressed("gz.npz", rows)
    np.savetxt("a.txt", rows)
    np.save("c.npy", rows)
    np.save("f.npy", np.asfortranarray(rows))
    units = {"plain": 0, "gz": 8, "chunked": 5}
    made = scan(client, {name: f"a.h5:/{name}" for name in units})
    assert {one.name: one.unit for one in made.fields} == units
    units = {"stored.npz": 0, "gz.npz": 20, "a.txt": 20, "c.npy": 0, "f.npy": (4 << 20) // 16}
    assert {name: scan(client, name).fields[0].unit for name in units} == units
    assert client.info("a.h5:/gz").unit == 8
    with h5py.File("b.h5", "w") as file:
        file.create_dataset("gz", data=rows, chunks=(16, 4), compression="gzip")
    assert scan(client, "?.h5:/gz").fields[0].unit == 16
    Path("a.lst").write_text("c.npy\n")
    assert scan(client, "a.lst").fields[0].unit == 1


LISTS: list[tuple[str, str, dict[str, Any], bool]] = [
    ("a.txt", "s1.npy\n", {}, True),
    ("a.dat", "s1.npy\n", {"list": True}, True),
    ("a.tsv", "s1.npy\n", {}, True),
    ("a.lst", "s1.npy\n", {}, True),
    ("a.csv", "w,file\n1,s1.npy\n", {}, True),
    ("a.txt", "s1.npy\n", {"list": False}, False),
    ("b.txt", "1\n2\n", {}, False),
    ("b.csv", "1,2\n2,3\n", {"delimiter": ","}, False),
    ("c.csv", "file,y\n2,3\n", {"delimiter": ",", "skiprows": 1}, False),
]


def test_what_is_a_list(client: arrayd.Client) -> None:
    """A text whose first entry is a file, or that is said to be one; numbers are data."""
    shards(2)
    Path("1").touch()  # a number is one, even if a file is called so
    for name, text, options, is_list in LISTS:
        Path(name).write_text(text)
        if options == {"list": False}:
            with pytest.raises(BadFile, match=r"s1\.npy"):
                scan(client, name, **options)
        else:
            made = scan(ALONE if is_list else client, name, **options)
            assert made.field("x").whole_files == is_list


def test_a_list_that_was_taken_for_data_says_so(client: arrayd.Client) -> None:
    """Where the first entry is no file, the error names it."""
    Path("a.txt").write_text("images/one.npy\n")
    with pytest.raises(BadFile, match=r"first entry, .*/images/one.npy, is no file.*list=True"):
        scan(client, "a.txt")
    with pytest.raises(SourceNotFound, match=r"images/one.npy: no such file"):
        scan(client, "a.txt", list=True)


def test_of_a_list_of_other_files_one_is_looked_at(client: arrayd.Client) -> None:
    """Asking the daemon for each would take hours; the .npy among them are looked at."""
    for number in range(3):
        np.savetxt(f"{number}.txt", np.zeros((2, 2)))
    Path("one.lst").write_text("0.txt\n1.txt\n2.txt\n")
    asked: list[str] = []
    info = client.info

    class Counting:
        def info(self, source: Source) -> object:
            asked.append(os.path.basename(source.path))
            return info(source)

    counting: Any = Counting()
    made = scan(counting, "one.lst")
    assert (made.rows, made.field("x").row_shape, asked) == (3, (2, 2), ["0.txt"])
    np.save("3.npy", np.zeros((2, 2)))
    np.save("4.npy", np.zeros((2, 3)))
    Path("two.lst").write_text("3.npy\n0.txt\n1.txt\n3.npy\n")
    with pytest.warns(UserWarning, match="1 of its 4"):
        assert scan(counting, "two.lst").rows == 4
    assert asked == ["0.txt", "0.txt"]
    Path("three.lst").write_text("0.txt\n1.txt\n4.npy\n")
    with pytest.raises(SpecMismatch, match=r"4\.npy has rows of float64 \(2, 3\), and .*0\.txt"):
        scan(client, "three.lst")


ASKED: list[tuple[Any, type[ArraydError], str]] = [
    ("object.npy", SpecMismatch, "Python objects"),
    ("cut.npy", BadFile, "cut.npy is truncated"),
    ("a.h5", SpecMismatch, "a.h5 holds 3 arrays: one, two, words. Say which"),
    ("a.h5:three", SourceNotFound, "no dataset 'three'"),
    ("a.h5:words", SpecMismatch, "text of varying length"),
    ("time.h5", SpecMismatch, "references to objects"),
    ("none.txt", SpecMismatch, "no rows.*list of files it is empty"),
]


def test_what_the_daemon_says_is_wrong(client: arrayd.Client) -> None:
    """Of files that are not sound, or no .npy, errors are those of `arrayd.get`."""
    wrong_files()
    for sources, error, says in ASKED:
        with pytest.raises(error, match=f"(?s){says}"):
            scan(client, sources)
    with pytest.raises(SpecMismatch, match="no option delimiter"):
        scan(client, "s1.npy", delimiter=",")
    with pytest.raises(SpecMismatch, match="holds float32, not int16"):
        scan(client, "s1.npy", dtype="i2")


def test_members_of_one_file_belong_together(client: arrayd.Client) -> None:
    """Equal totals are not enough where two fields lie in the same files."""
    for number, (a, b) in enumerate([(2, 3), (3, 2)]):
        with h5py.File(f"{number}.h5", "w") as file:
            file["a"], file["b"] = np.zeros(a), np.zeros(b)
    with pytest.raises(SpecMismatch, match=r"0\.h5: the field 'x' has 2 rows .*'y' 3"):
        scan(client, {"x": "*.h5:a", "y": "*.h5:b"})
