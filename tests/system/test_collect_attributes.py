"""``arrayd collect``: the attributes of HDF5 datasets and their types go along, or that is told."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.cli import main
from arrayd.gather.dataset import OWN_ATTRIBUTES
from arrayd.gather.hdf5 import LeftOutWarning, collect
from tests.support.daemons import Daemon

pytestmark = pytest.mark.one_daemon

COLOUR = h5py.enum_dtype({"RED": 0, "GREEN": 1}, "i1")

ATTRIBUTES: dict[str, tuple[Any, Any]] = {
    "units": ("days since 1970-01-01", None),
    "scale_factor": (np.float32(0.1), None),
    "_FillValue": (np.array([-9], "i2"), None),
    "valid_range": (np.array([0, 2**53 + 1]), None),
    "empty": (h5py.Empty("f4"), None),
    "empty text": (h5py.Empty(h5py.string_dtype()), None),
    "names": (["ä", "b"], None),
    "latin": (np.bytes_(b"\xff"), None),
    "fixed": (np.array([b"ab"], "S4"), None),
    "fixed UTF-8": ("ä".encode(), h5py.string_dtype("utf-8", 6)),
    "flag": (True, None),
    "complex": (1 + 2j, None),
    "long": (np.longdouble(1) / 3, None),
    "record": (np.array((1, b"x"), "i4,S3"), None),
    "rows": (np.ones((2, 3)), np.dtype(("f4", (2, 3)))),
    "colour": (1, COLOUR),
    "time": (np.array([1], "M8[s]").astype(h5py.opaque_dtype("M8[s]")), None),
    "größe": (1, None),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a file with a dataset of an enumeration and many attributes."""
    path = tmp_path / "in.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", data=np.array([0, 1], "i1"), dtype=COLOUR)
        for name, (value, dtype) in ATTRIBUTES.items():
            dataset.attrs.create(name, value, dtype=dtype)
    return path


def attributes(dataset: h5py.Dataset) -> Iterator[tuple[str, str, Any]]:
    """Yield name, value in words, and HDF5 type of each attribute."""
    for name, value in dataset.attrs.items():
        kind = h5py.h5a.open(dataset.id, name.encode()).get_type()
        yield name, repr(value), kind


def test_attributes_go_along(client: arrayd.Client, source: Path, tmp_path: Path) -> None:
    """Each is the same to h5py, and to HDF5, and so is the type of the dataset."""
    assert collect(client, [source], tmp_path / "out.h5") == ["in"]
    with h5py.File(source) as before, h5py.File(tmp_path / "out.h5") as after:
        assert after["in"].id.get_type() == before["x"].id.get_type()
        assert h5py.check_enum_dtype(after["in"].dtype) == {"RED": 0, "GREEN": 1}
        assert after["in"][()].tolist() == [0, 1]
        expected = list(attributes(before["x"]))
        found = [one for one in attributes(after["in"]) if one[0] not in OWN_ATTRIBUTES]
        assert len(expected) == len(ATTRIBUTES)
        assert sorted(found, key=lambda one: one[0]) == sorted(expected, key=lambda one: one[0])


def test_a_cast_drops_the_enumeration_alone(
    client: arrayd.Client, source: Path, tmp_path: Path
) -> None:
    """What is asked for is done: integers; the attributes stay."""
    collect(client, [source], tmp_path / "out.h5", cast="i4")
    with h5py.File(tmp_path / "out.h5") as file:
        assert h5py.check_enum_dtype(file["in"].dtype) is None
        assert file["in"].dtype == "i4"
        assert file["in"].attrs["units"] == "days since 1970-01-01"


def test_named_types(client: arrayd.Client, tmp_path: Path) -> None:
    """A datatype that has a name in the file becomes the dataset's and the attribute's own."""
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["colour"] = COLOUR
        dataset = file.create_dataset("x", data=np.array([0, 1], "i1"), dtype=file["colour"])
        dataset.attrs.create("of", 1, dtype=file["colour"])
    collect(client, [f"{tmp_path}/in.h5:x"], tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert h5py.check_enum_dtype(file["in/x"].dtype) == {"RED": 0, "GREEN": 1}
        kind = h5py.h5a.open(file["in/x"].id, b"of").get_type()
        assert h5py.check_enum_dtype(kind.dtype) == {"RED": 0, "GREEN": 1}


def test_text_stays_utf8(client: arrayd.Client, tmp_path: Path) -> None:
    """Text says that it is UTF-8 where it said so, also where its length was found."""
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["varying"] = ["ä", "bcd"]
        file.create_dataset("fixed", (1,), h5py.string_dtype("utf-8", 4))[0] = "ä"
        file["bytes"] = np.array([b"\xff"])
    names = ("varying", "fixed", "bytes")
    collect(client, [f"{tmp_path}/in.h5:{name}" for name in names], tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["in/varying"].asstr()[()].tolist() == ["ä", "bcd"]
        assert file["in/fixed"].asstr()[()].tolist() == ["ä"]
        encodings = [h5py.check_string_dtype(file[f"in/{name}"].dtype) for name in names]
        assert [one.encoding for one in encodings if one] == ["utf-8", "utf-8", "ascii"]
        assert file["in/bytes"][()].tolist() == [b"\xff"]


def test_collected_twice(client: arrayd.Client, source: Path, tmp_path: Path) -> None:
    """An attribute that has the name of one of arrayd's own is kept under another name."""
    collect(client, [source], tmp_path / "once.h5")
    collect(client, [tmp_path / "once.h5"], tmp_path / "twice.h5")
    with h5py.File(tmp_path / "twice.h5") as file:
        found = dict(file["once"].attrs)
    assert found["source"] == f"{tmp_path}/once.h5"
    assert found["original_source"] == str(source)
    assert found["units"] == "days since 1970-01-01"


def test_what_is_left_out_is_told(
    daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """References to other objects, and what is too large: one line for many files."""
    for n in range(3):
        with h5py.File(tmp_path / f"in{n}.h5", "w", libver="latest") as file:
            dataset, scale = (
                file.create_dataset("x", data=[1, 2]),
                file.create_dataset("t", data=[1, 2]),
            )
            scale.make_scale("t")
            dataset.dims[0].attach_scale(scale)
            dataset.attrs["large"] = np.zeros(10_000)
            dataset.attrs["to"] = scale.ref
            dataset.attrs["units"] = "m"
    files = [f"{tmp_path}/in{n}.h5:x" for n in range(3)]
    words = ["collect", *files, "-o", str(tmp_path / "out.h5"), "--endpoint", daemon.endpoint]
    assert main(words) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{files[0]} and 2 more" in line
    assert all(name in line for name in ("DIMENSION_LIST", "large", "to"))
    with h5py.File(tmp_path / "out.h5") as out:
        assert set(out["in0/x"].attrs) == {"units", *OWN_ATTRIBUTES}
    with arrayd.connect(daemon.endpoint) as client, pytest.warns(LeftOutWarning, match="in1"):
        collect(client, files[1:], tmp_path / "out.h5")


def test_info_has_the_attributes(client: arrayd.Client, source: Path, tmp_path: Path) -> None:
    """`Info.header` is a small HDF5 file; other formats have none."""
    header = client.info(source).header
    assert header is not None
    with h5py.File(io.BytesIO(header)) as file:
        assert set(file["x"].attrs) == set(ATTRIBUTES)
    np.save(tmp_path / "a.npy", np.arange(3))
    assert client.info(tmp_path / "a.npy").header is None
