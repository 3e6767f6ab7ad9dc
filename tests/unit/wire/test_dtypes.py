"""Dtypes as plain data: exact, bounded, and equal after a way through the daemon."""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

import arrayd
from arrayd.errors import MissingDependency, SpecMismatch
from arrayd.wire.codec import pack, unpack
from arrayd.wire.dtypes import bare, descr, from_descr, parsed
from tests.support.daemons import Daemon

pytestmark = pytest.mark.one_daemon

EXTENSIONS = sorted(
    name
    for name, kind in vars(ml_dtypes).items()
    if isinstance(kind, type) and issubclass(kind, np.generic)
)


def structure(names: list[str], formats: list[Any], offsets: list[int], **more: Any) -> Any:
    """Return a structure that a map describes."""
    form: Any = {"names": names, "formats": formats, "offsets": offsets, **more}
    return np.dtype(form)


OUT_OF_ORDER = structure(["b", "a"], ["<i4", ">f8"], [8, 0], itemsize=16)
OVERLAPPING = structure(["a", "b"], ["<i4", "u1"], [0, 1])
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

ODD = [
    OUT_OF_ORDER,
    OVERLAPPING,
    structure(["a"], ["<i4"], [2], itemsize=9),
    structure(["b", "a"], ["<i4", "<i4"], [4, 0], titles=["second", None]),
    np.dtype([(("a title", "a"), "<i4"), ("b", "S3")]),
    np.dtype([("x", OUT_OF_ORDER, (2, 3)), ("y", [("z", OVERLAPPING)])]),
    np.dtype([("w", BFLOAT16, (4,)), ("n", ml_dtypes.int4)]),
    np.dtype("i1,f8", align=True),
    np.dtype([("", "i4"), ("", "f4")]),
    np.dtype([("Länge", ">u2"), (chr(0xDC80), "i1")]),
    np.dtype("M8[25us]"),
    np.dtype("c32" if hasattr(np, "complex256") else "c16"),
]


def travelled(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype at the other end of the wire."""
    return from_descr(unpack(pack(descr(dtype))))


@pytest.mark.parametrize("dtype", ODD, ids=str)
def test_odd_structures_come_back(dtype: np.dtype[Any]) -> None:
    """Offsets, order, overlaps, titles, byte order and item size are the same."""
    found = travelled(dtype)
    assert found == dtype
    assert (found.fields, found.itemsize) == (dtype.fields, dtype.itemsize)


@pytest.mark.parametrize("name", EXTENSIONS)
def test_types_of_ml_dtypes_come_back(name: str) -> None:
    """Each type that ml_dtypes has comes back as itself, not as raw bytes."""
    assert travelled(np.dtype(getattr(ml_dtypes, name))).type is getattr(ml_dtypes, name)


@given(hnp.array_dtypes() | hnp.scalar_dtypes() | hnp.nested_dtypes())
def test_any_dtype_comes_back(dtype: np.dtype[Any]) -> None:
    """Any dtype that numpy can build comes back equal."""
    assert travelled(dtype) == dtype


@pytest.mark.parametrize(
    ("dtype", "form"),
    [
        ("f8", "<f8"),
        (">M8[ns]", ">M8[ns]"),
        ("S10,i4", [("f0", "|S10"), ("f1", "<i4")]),
        ([("p", "f4", (3,))], [("p", "<f4", (3,))]),
        ("i1,f8", [("f0", "|i1"), ("f1", "<f8")]),
        (np.dtype("i1,f8", align=True), [("f0", "|i1"), ("", "|V7"), ("f1", "<f8")]),
    ],
)
def test_what_numpy_can_say_is_said_as_ever(dtype: Any, form: Any) -> None:
    """Blocks of an earlier arrayd, and .npy headers, have this form."""
    assert descr(np.dtype(dtype)) == form


def test_notes_are_dropped_without_a_word() -> None:
    """The metadata that h5py attaches to a dtype is dropped without a warning, at any depth."""
    enum = h5py.enum_dtype({"A": 0, "B": 1}, basetype="i1")
    noted = np.dtype([("e", enum, (2,)), (("t", "s"), h5py.string_dtype(length=5))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert descr(enum) == "|i1"
        plain = travelled(noted)
    assert plain == bare(noted) == noted
    assert plain["e"].base.metadata is None
    assert bare(enum).metadata is None


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"ml_dtypes": "finfo", "itemsize": 2},
        {"ml_dtypes": "os", "itemsize": 2},
        {"ml_dtypes": "bfloat16", "itemsize": 4},
        {"ml_dtypes": "bfloat16", "itemsize": -1},
        {"ml_dtypes": 7, "itemsize": 2},
        {"names": ["a"], "formats": ["<i4"], "offsets": [0], "itemsize": 2},
        {"names": ["a"], "formats": ["<i4"], "offsets": [-4], "itemsize": 8},
        {"names": ["a", "a"], "formats": ["i4", "i4"], "offsets": [0, 4], "itemsize": 8},
        {"names": ["a"], "formats": ["<i4", "<i4"], "offsets": [0], "itemsize": 8},
        {"names": [5], "formats": ["<i4"], "offsets": [0], "itemsize": 8},
        {"names": ["a"], "formats": ["<i4"], "offsets": [0], "itemsize": 1 << 80},
        {"names": ["a"], "formats": ["<i4"], "offsets": 7, "itemsize": 8},
        {"names": ["a"], "formats": [{}], "offsets": [0], "itemsize": 8},
        {"names": ["a"], "formats": ["<i4"], "offsets": [0], "itemsize": 8, "aligned": True},
        [["a", {"ml_dtypes": "bfloat16", "itemsize": 2}]],
        [{"a": 1}, [2]],
    ],
)
def test_an_invalid_form_raises_only_what_is_documented(form: Any) -> None:
    """Whatever a peer sends as a dtype, it is a ValueError or TypeError."""
    for stand_in in (False, True):
        if stand_in and "ml_dtypes" in form:
            continue
        with pytest.raises((ValueError, TypeError)):
            from_descr(form, stand_in=stand_in)


def test_without_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the missing package, and how to get the bits; a daemon needs none."""
    form = descr(np.dtype([("a", BFLOAT16)]))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(MissingDependency, match=r"bfloat16 .* pip install ml_dtypes .*view\('u2'"):
        from_descr(form)
    assert from_descr(form, stand_in=True) == np.dtype([("a", "V2")])


def test_names_of_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    """``"bfloat16"`` is a dtype, though numpy knows it only once the package is imported."""
    for name in ("bfloat16", "float8_e4m3fn", "int4"):
        assert parsed("dtype", name) == getattr(ml_dtypes, name)
    assert parsed("dtype", [("a", "bfloat16")])["a"] == BFLOAT16
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(SpecMismatch, match="float8_nonsense"):
        parsed("dtype", "float8_nonsense")


def test_put_gives_the_very_dtype(client: arrayd.Client) -> None:
    """What is put comes back as it was, by name and in a status."""
    for dtype in (*(np.dtype(getattr(ml_dtypes, name)) for name in EXTENSIONS), *ODD):
        values = np.zeros(3, dtype)  # and not its padding
        values[...] = np.arange(3, dtype=np.uint8).repeat(dtype.itemsize).view(dtype)
        shared = client.put(values, name="odd", replace=True)
        assert shared.block is not None
        assert shared.dtype == dtype, dtype
        assert repr(shared.tolist()) == repr(values.tolist()), dtype
        assert client.get("name:odd").dtype == dtype
        assert client.info("name:odd").dtype == dtype
        listed = [b.dtype for b in client.status().blocks if b.segment == shared.block.name]
        assert [kind.itemsize for kind in listed] == [dtype.itemsize]


def test_a_block_of_bfloat16_is_adopted(daemon: Daemon, client: arrayd.Client) -> None:
    """The next run of the daemon knows the block by its description."""
    values = np.arange(9).astype(BFLOAT16)
    client.put(values, name="weights", keep=True)
    daemon.stop(signal.SIGUSR1)
    daemon.start()
    found = client.get("name:weights")
    assert found.dtype == BFLOAT16
    np.testing.assert_array_equal(found, values)


def test_create_appends_the_axes_of_a_subarray(client: arrayd.Client) -> None:
    """As `numpy.zeros` does."""
    with client.create((3,), ("f4", (2,))) as out:
        out[...] = [[1, 2], [3, 4], [5, 6]]
    assert (out.shape, out.dtype) == ((3, 2), np.dtype("f4"))


def test_raw_and_claims_of_bfloat16(client: arrayd.Client, tmp_path: Path) -> None:
    """Raw bytes are read as the dtype that the caller names."""
    values = np.arange(6).astype(BFLOAT16)
    values.tofile(tmp_path / "w.bin")
    for named in (BFLOAT16, "bfloat16"):
        found = client.get(tmp_path / "w.bin", dtype=named, shape=(-1, 2))
        assert (found.shape, found.dtype) == ((3, 2), BFLOAT16)
        assert found.tobytes() == values.tobytes()


def test_what_cannot_be_shared_says_so(client: arrayd.Client) -> None:
    """A typed error with the numbers, before anything is sent."""
    cases: list[tuple[Any, str]] = [
        (object, "Python objects"),
        ([("a", "O")], "Python objects"),
        ("S", "Say the length"),
        ([("x" * 90 + str(i), "f4") for i in range(1000)], r"95890 characters .* 1000 fields"),
        ([(f"f{i}", "f4") for i in range(9000)], r"9000 fields"),
        (BFLOAT16.newbyteorder(">"), r"other processes.*view\('V2'\)"),
    ]
    for dtype, says in cases:
        with pytest.raises(SpecMismatch, match=says), client.create(3, dtype):
            pass
