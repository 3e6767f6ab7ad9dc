"""HDF5 types: what h5py reads into arrays of fixed size comes as h5py gives it; text too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5s, h5t

import arrayd
from arrayd.errors import ArraydError, CastError, SpecMismatch
from arrayd.source import Source
from arrayd_server.loaders.formats import probe
from arrayd_server.loaders.hdf5 import text_lengths
from tests.support.loading import load, make_segment, make_tiny, same

tiny = pytest.fixture(autouse=True)(make_tiny)
segment = pytest.fixture(make_segment)

WORDS = ["AAACCTG-1", "", "Käse", "日本語テキスト", "x"]


def compound(size: int, *fields: tuple[bytes, int, Any]) -> Any:
    """Return a compound type of named fields at offsets."""
    kind = h5t.create(h5t.COMPOUND, size)
    for field in fields:
        kind.insert(*field)
    return kind


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Return a file with a dataset of each odd type, of ten values where it can be written."""
    pair = h5t.array_create(h5t.IEEE_F64LE, (2, 3))
    opaque = h5t.create(h5t.OPAQUE, 5)
    opaque.set_tag(b"of the LabVIEW kind")
    nested = compound(12, (b"y", 8, h5t.STD_I32BE), (b"x", 0, h5t.IEEE_F64LE))
    kinds = {
        b"array": pair,
        b"out of order": compound(16, (b"b", 8, h5t.IEEE_F64LE), (b"a", 0, h5t.STD_I32LE)),
        b"nested": compound(32, (b"n", 20, nested), (b"k", 0, h5t.STD_U8LE)),
        b"array field": compound(60, (b"m", 8, pair), (b"i", 0, h5t.STD_I64LE)),
        b"bits": h5t.STD_B16LE,
        b"opaque": opaque,
        b"time": h5t.UNIX_D32LE,
        b"latin": compound(4, (b"\xe4", 0, h5t.STD_I32LE)),
        b"sequences": h5t.vlen_create(h5t.STD_I32LE),
        b"text field": compound(24, (b"t", 8, h5t.py_create(h5py.string_dtype(), logical=True))),
    }
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((3,))
        for name, kind in kinds.items():
            h5d.create(file.id, name, kind, h5s.create_simple((10,)), created)
        for readable in ("array", "out of order", "nested", "array field", "bits"):
            stored = file[readable]
            size = 10 * stored.dtype.itemsize
            bits = (np.arange(size, dtype=np.int64) % 61).astype(np.uint8)
            stored[...] = bits.view(stored.dtype.base).reshape(10, *stored.dtype.shape)
        single = h5d.create(file.id, b"single", pair, h5s.create(h5s.SCALAR))
        h5py.Dataset(single)[...] = np.arange(6.0).reshape(2, 3)
        file.create_dataset("references", (3,), h5py.ref_dtype)
    return tmp_path / "odd.h5"


ROWS = [None, slice(2, 9), slice(None, None, -3), slice(8, 1, -1), slice(4, 4)]


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("name", ["array", "out of order", "nested", "array field", "bits"])
def test_types_are_those_of_h5py(odd: Path, segment: Path, name: str, rows: slice | None) -> None:
    """Array axes are appended, fields stay where they are; in chunks, parts and rows."""
    with h5py.File(odd) as file:
        whole = file[name][()]
    expected = whole if rows is None else whole[rows]
    found = load(Source.of(odd, dataset=name, rows=rows), segment)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    # With what the file has between the fields, which numpy would not copy.
    items = f"V{whole.dtype.itemsize}" if whole.dtype.names else whole.dtype
    assert found.tobytes() == whole.view(items)[rows or slice(None)].tobytes()


@pytest.mark.parametrize("rows", [None, slice(1, None), slice(None, None, -1), slice(0, 0)])
def test_a_single_value_that_is_an_array(odd: Path, segment: Path, rows: slice | None) -> None:
    """Its axes are all the axes there are, and ``rows=`` slices the first."""
    expected = np.arange(6.0).reshape(2, 3)[rows or slice(None)]
    same(load(Source.of(odd, dataset="single", rows=rows), segment), expected.copy())


def test_opaque_values_are_bytes_or_what_they_are_said_to_be(odd: Path, segment: Path) -> None:
    """Which h5py refuses for their tag; dtype= of the same size says what they are."""
    same(load(Source.of(odd, dataset="opaque"), segment), np.zeros(10, "V5"))
    claimed = Source.of(odd, dataset="opaque", dtype="S5")
    same(load(claimed, segment), np.zeros(10, "S5"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("time", r"times \(H5T_TIME\) that neither numpy nor h5py"),
        ("latin", "name is no UTF-8"),
        ("sequences", r"variable-length sequences of int32.*np\.concatenate"),
        ("references", "references to objects"),
        ("text field", "its field 't' holds variable-length text.*S16"),
    ],
)
def test_what_cannot_be_shared_is_named(odd: Path, name: str, says: str) -> None:
    """In words, with a remedy, and without talk of pickles."""
    with pytest.raises(SpecMismatch, match=rf"odd\.h5.*{says}") as caught:
        probe(Source.of(odd, dataset=name))
    assert "pickl" not in str(caught.value)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Return a file with text of no fixed size, and some of a fixed one."""
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file.create_dataset("words", data=WORDS, dtype=h5py.string_dtype(), chunks=(2,))
        grid = np.array(WORDS + WORDS[:1], object).reshape(2, 3)
        file.create_dataset("grid", data=grid, dtype=h5py.string_dtype())
        file.create_dataset("one", data=WORDS[3], dtype=h5py.string_dtype())
        file.create_dataset("none", (0,), dtype=h5py.string_dtype())
        file.create_dataset("null", (3,), dtype=h5py.string_dtype())
        latin = np.array([b"ok", b"K\xe4se"], object)
        fixed = [word.encode() for word in WORDS]
        file.create_dataset("utf8", data=fixed, dtype=h5py.string_dtype("utf-8", 24))
        file.create_dataset("latin", data=latin, dtype=h5py.string_dtype("ascii"))
        file.create_dataset("long", data=["x"] * 99 + ["y" * 999], dtype=h5py.string_dtype())
    return tmp_path / "text.h5"


@pytest.mark.parametrize(
    ("name", "cast", "dtype"),
    [
        *(("words", *pair) for pair in (("U", "U9"), ("S", "S21"), ("U20", "U20"), ("S30", "S30"))),
        *(("words", None, "S21"), ("grid", "U", "U9"), ("grid", None, "S21"), ("one", "U", "U7")),
        *(("one", None, "S21"), ("none", "U", "U1"), ("null", None, "S1"), ("null", "U3", "U3")),
        *(("utf8", "U", "U9"), ("utf8", "U9", "U9"), ("utf8", None, "S24"), ("utf8", "S", "S24")),
        *(("latin", None, "S4"), ("latin", "S9", "S9")),
    ],
)
def test_text_gets_a_fixed_size(
    text: Path, segment: Path, name: str, cast: str | None, dtype: str
) -> None:
    """As many bytes or characters as asked for, or as the longest value has; UTF-8 is decoded."""
    with h5py.File(text) as file:
        stored = np.array(file[name][()], object)
    values = [value.decode() if dtype[0] == "U" else value for value in stored.flat]
    expected = np.array(values, dtype).reshape(stored.shape)
    same(load(Source.of(text, dataset=name, cast=cast), segment), expected)


def test_rows_of_text_have_the_type_of_all(text: Path, segment: Path) -> None:
    """A dtype does not depend on which rows are asked for."""
    some = load(Source.of(text, dataset="words", cast="U", rows=slice(4, None, -2)), segment)
    same(some, np.array(WORDS, "U9")[::-2].copy())


@pytest.mark.parametrize(
    ("name", "cast", "says"),
    [
        ("words", "S8", r"at \[0\]: The value b'AAACCTG-1' does not fit .*8 bytes; it has 9.*'S'"),
        ("words", "U8", r"at \[0\]: The value 'AAACCTG-1' .*8 characters; it has 9.*overflow="),
        ("grid", "U5", r"at \[0, 0\]"),
        ("utf8", "U5", r"at \[0\]"),
        ("latin", "U9", r"at \[1\]: The value b'K\\xe4se' is no UTF-8. Cast to bytes, such as S4"),
        ("latin", "U", "is no UTF-8"),
    ],
)
def test_text_that_does_not_fit(text: Path, segment: Path, name: str, cast: str, says: str) -> None:
    """The error has the index, the value, the numbers and the ways out."""
    with pytest.raises(CastError, match=says):
        load(Source.of(text, dataset=name, cast=cast), segment)


def test_text_is_cut_between_characters(text: Path, segment: Path) -> None:
    """On request, and never within a character of UTF-8."""
    for size, end in ((2, b"K"), (3, b"K\xc3\xa4"), (4, b"K\xc3\xa4s")):
        source = Source.of(text, dataset="words", cast=f"S{size}", overflow="clip")
        assert load(source, segment)[2] == end
    assert load(Source.of(text, dataset="words", cast="S4", overflow="clip"), segment)[3] == (
        "日".encode()
    )
    assert load(Source.of(text, dataset="words", cast="U2", overflow="clip"), segment)[3] == "日本"
    latin = Source.of(text, dataset="latin", cast="S2", overflow="clip")
    assert load(latin, segment)[1] == b"K\xe4"


def test_a_few_long_values_are_no_reason_to_fill_the_memory(
    text: Path, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is asked for, padding is no more than some times the text; the error has all."""
    same(load(Source.of(text, dataset="long"), segment)[:1], np.array([b"x"], "S999"))
    monkeypatch.setattr(text_lengths, "SMALL_BYTES", 1000)
    with pytest.raises(SpecMismatch, match=r"100 values .* longest has 999 bytes.*cast='S999'"):
        probe(Source.of(text, dataset="long"))
    for cast in ("S", "S999", "U"):
        assert load(Source.of(text, dataset="long", cast=cast), segment).shape == (100,)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"cast": "f4"}, "text goes to text"), ({"dtype": "S9"}, "variable-length text, not .S9")],
)
def test_text_is_nothing_else(text: Path, options: dict[str, Any], says: str) -> None:
    """No number, and of no size that a claim could name."""
    with pytest.raises(SpecMismatch, match=says):
        probe(Source.of(text, dataset="words", **options))


def test_text_through_a_daemon(client: arrayd.Client, text: Path) -> None:
    """The very values, a warning for what was cut, an error for what was not."""
    np.testing.assert_array_equal(client.get(text, dataset="words", cast="U"), WORDS)
    assert client.get(text, dataset="words").tolist() == [word.encode() for word in WORDS]
    with pytest.warns(arrayd.PrecisionWarning, match="2 of 5 values"):
        client.get(text, dataset="words", cast="U4", overflow="clip")
    with pytest.raises(ArraydError, match="does not fit"):
        client.get(text, dataset="words", cast="U4")


def test_text_of_fixed_size_keeps_its_length(tmp_path: Path, segment: Path) -> None:
    """In every format, S and U without a number have as many characters as there are."""
    np.save(tmp_path / "a.npy", np.array([b"ab", b"cde"]))
    same(load(Source.of(tmp_path / "a.npy", cast="U"), segment), np.array(["ab", "cde"]))
