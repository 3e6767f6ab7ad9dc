"""Sources: what a string means, and which requests are equal."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from arrayd.errors import ProtocolMismatch, SourceNotFound, SpecMismatch
from arrayd.source import Source


def test_a_path_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Relative paths start at the caller's working directory, not at the daemon's."""
    monkeypatch.chdir(tmp_path)
    assert Source.of("a.npy").path == os.path.join(os.getcwd(), "a.npy")
    assert Source.of(Path("a.npy")) == Source.of("a.npy")


def test_a_colon_divides_file_and_member() -> None:
    """``file.h5:/x`` and ``dataset=`` are the same request."""
    assert Source.of("/d/f.h5:/g/x").member == "/g/x"
    assert Source.of("/d/f.h5:/g/x") == Source.of("/d/f.h5", dataset="/g/x")
    assert Source.of("/d/a:b.h5:x").path == "/d/a:b.h5"


def test_a_string_that_exists_as_a_path_is_one(tmp_path: Path) -> None:
    """A colon in a file's name does not cut it, nor does a file named like ``name:x``."""
    odd = tmp_path / "run:1.npy"
    odd.touch()
    source = Source.of(str(odd))
    assert (source.path, source.member) == (str(odd), None)


def test_a_name_is_a_published_block() -> None:
    """``name:N`` has no path."""
    source = Source.of("name:table")
    assert (source.name, source.path, str(source)) == ("table", "", "name:table")


def test_a_source_is_returned_as_it_is() -> None:
    """`Source.of` of a source is that source."""
    source = Source.of("/a.npy", rows=slice(5))
    assert Source.of(source) is source


@pytest.mark.parametrize("rows", [None, slice(None), slice(0, None), slice(None, None, 1)])
def test_all_rows_are_no_rows(rows: slice | None) -> None:
    """A slice that takes everything equals none."""
    assert Source.of("/a.npy", rows=rows).rows is None


def test_equal_requests_are_equal() -> None:
    """Spellings of options, dtypes and slices do not matter, so one load serves all."""
    one = Source.of("/a.txt", dtype="f8", usecols=[0, 1], skiprows=np.int64(2), rows=slice(0, 9))
    two = Source.of("/a.txt", skiprows=2, usecols=(0, 1), dtype=np.float64, rows=slice(0, 9, 1))
    assert one == two
    assert hash(one) == hash(two)


def test_float64_is_not_none() -> None:
    """A dtype that is given differs from none, though numpy calls float64 equal to None."""
    plain, given = Source.of("/a.npy"), Source.of("/a.npy", dtype="f8", cast="f8")
    assert plain != given
    assert given.to_wire() == {"path": "/a.npy", "dtype": "<f8", "cast": "<f8"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dtype": "nonsense"}, "dtype='nonsense'"),
        ({"dtype": object}, "Python objects"),
        ({"cast": [("a", "O")]}, "Python objects"),
        ({"rows": 5}, "slice"),
        ({"rows": slice(0, 5, 0)}, "cannot be 0"),
        ({"order": "K"}, "'C', 'F'"),
        ({"format": "no name"}, "'npy', 'npz'.*name of a plug-in"),
        ({"format": "../npy"}, "plug-in"),
        ({"format": 3}, "plug-in"),
        ({"overflow": "wrap"}, "'error', 'clip'"),
        ({"converters": {0: float}}, "another process"),
    ],
)
def test_wrong_options_are_refused_with_the_right_ones(
    options: dict[str, object], says: str
) -> None:
    """Each error names the option and what it can be."""
    with pytest.raises(SpecMismatch, match=says):
        Source.of("/a.npy", **options)  # type: ignore[arg-type]


def test_an_empty_path_is_no_source() -> None:
    """An empty string names no file."""
    with pytest.raises(SourceNotFound):
        Source.of("")


@pytest.mark.parametrize(
    ("path", "format_"),
    [
        ("/a.npy", "npy"),
        ("/a.NPZ", "npz"),
        ("/a.h5", "hdf5"),
        ("/a.nc", "hdf5"),
        ("/a.cov.txt", "text"),
        ("/a.csv.gz", "text"),
        ("/a.gz", "text"),
        ("/a.bin", "raw"),
    ],
)
def test_the_suffix_names_the_format(path: str, format_: str) -> None:
    """Formats go by the last suffix; ``.gz`` is text."""
    assert Source.of(path).resolved_format() == format_


def test_an_unknown_suffix_asks_for_a_format() -> None:
    """The error lists the formats; ``format=`` overrides any suffix."""
    with pytest.raises(SpecMismatch, match=r"npy, npz, hdf5, text, raw"):
        Source.of("/a.xyz").resolved_format()
    assert Source.of("/a.xyz", format="raw").resolved_format() == "raw"


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"path": 5},
        {"path": "/a", "name": "n"},
        {"path": "/a", "rows": [1, 2]},
        {"path": "/a", "rows": [1, 2, "x"]},
        {"path": "/a", "options": [["k"]]},
        {"path": "/a", "dtype": 7},
        {"path": "/a", "dtype": [["x"]]},
        {"path": "/a", "options": [["k", {"a": 1}]]},
    ],
)
def test_an_invalid_source_raises_only_what_is_documented(wire: dict[str, object]) -> None:
    """Whatever a peer sends as a source, it is a ValueError or TypeError."""
    with pytest.raises((ValueError, TypeError)):
        Source.from_wire(wire)


NEWER = {"path": "/a.npy", "missing": 0, "_speed": {"fast": 1}}


def test_what_a_newer_version_asks_for_is_carried_and_not_done() -> None:
    """Unknown fields are kept; a reader that acts on a source refuses them, but for hints."""
    source = Source.from_wire(NEWER)
    assert source.to_wire() == NEWER
    assert source != Source.of("/a.npy")
    assert source.without_hints() == {"path": "/a.npy", "missing": 0}
    with pytest.raises(ProtocolMismatch, match=r"missing.*newer.*arrayd stop"):
        source.understand()
    hinted = Source.from_wire({"path": "/a.npy", "_speed": 2})
    assert hinted.understand() == Source.of("/a.npy")
    assert hash(hinted) == hash(Source.of("/a.npy"))
    assert replace(source, rows=(1, 2, None)).to_wire() == {**NEWER, "rows": (1, 2, None)}
