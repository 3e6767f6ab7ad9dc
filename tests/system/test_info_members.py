"""`arrayd.results.info` of a file tells of all its members, whatever is wrong with one of them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from h5py import h5d, h5s, h5t

import arrayd
from arrayd.cli.get import _dtype
from arrayd.errors import BadFile, SpecMismatch
from tests.unit.wire.test_dtypes import ODD

pytestmark = pytest.mark.one_daemon


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Return an HDF5 file with sound datasets and with others."""
    path = tmp_path / "mixed.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["a"] = np.arange(6.0).reshape(2, 3)
        file["broken"] = np.arange(3)
        h5d.create(file.id, b"time", h5t.UNIX_D32LE, h5s.create_simple((4,)))
        file.create_dataset("empty", data=h5py.Empty("f4"))
        file.create_dataset("words", data=["x", "yz"], dtype=h5py.string_dtype())
        file.create_dataset("arrays", (2,), dtype=np.dtype(("f4", (3,))))
        file.create_dataset("references", (2,), h5py.ref_dtype)
        file["dangling"], file["away"] = h5py.SoftLink("/no"), h5py.ExternalLink("no.h5", "/x")
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((2,))
        created.set_filter(32_768 + 99, h5py.h5z.FLAG_OPTIONAL, ())
        h5d.create(file.id, b"filtered", h5t.IEEE_F32LE, h5s.create_simple((4,)), created)
        address = h5py.h5o.get_info(file["broken"].id).addr
    data = bytearray(path.read_bytes())
    data[address : address + 16] = bytes(16)
    path.write_bytes(data)
    return path


def test_one_bad_member_spoils_no_other(client: arrayd.Client, mixed: Path) -> None:
    """Each is listed; which cannot be loaded says why, and the others can."""
    info = client.info(mixed)
    found = {m.name: (m.shape, m.dtype, m.problem) for m in info.members}
    assert found["a"] == ((2, 3), np.dtype("f8"), None)
    assert found["arrays"] == ((2, 3), np.dtype("f4"), None)
    assert found["words"] == ((2,), np.dtype(object), None)
    assert found["filtered"][:2] == ((4,), np.dtype("f4"))
    for name, says in {
        "broken": "cannot be opened",
        "time": "H5T_TIME",
        "empty": "declared empty",
        "references": "references to objects",
        "filtered": "filter 32867",
    }.items():
        assert says in str(found[name][2])
    for member in info.members:
        if member.problem is None:
            assert client.get(mixed, dataset=member.name).shape == member.shape
    assert (info.shape, info.dtype) == (None, None)


def test_a_single_member_with_a_problem(client: arrayd.Client, tmp_path: Path) -> None:
    """It is described, not an error; what is asked of it beyond that is."""
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file.create_dataset("references", (2,), h5py.ref_dtype)
    assert client.info(tmp_path / "one.h5").members[0].shape == (2,)
    wishes: tuple[dict[str, Any], ...] = ({"cast": "f4"}, {"dataset": "references"})
    for options in wishes:
        with pytest.raises(SpecMismatch, match="references to objects"):
            client.info(tmp_path / "one.h5", **options)


def test_a_file_without_datasets_is_sound(client: arrayd.Client, tmp_path: Path) -> None:
    """Groups and attributes are a file; there is nothing to load in it."""
    with h5py.File(tmp_path / "groups.h5", "w") as file:
        file.create_group("g").attrs["x"] = 1
    np.savez(tmp_path / "nothing.npz")
    for name, kind in (("groups.h5", "hdf5"), ("nothing.npz", "npz")):
        info = client.info(tmp_path / name)
        assert (info.format, info.members, info.shape, info.dtype) == (kind, (), None, None)
        with pytest.raises(BadFile, match="that is an array"):
            client.get(tmp_path / name)


def test_one_bad_member_of_an_archive(client: arrayd.Client, tmp_path: Path) -> None:
    """Objects, and what is no array whatever its name, are among the others."""
    good = io.BytesIO()
    np.save(good, np.arange(4))
    objects = io.BytesIO()
    np.save(objects, np.array([{}, 1], object))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("good.npy", good.getvalue())
        archive.writestr("bad.npy", b"no array")
        archive.writestr("objects.npy", objects.getvalue())
    found = {m.name: m for m in client.info(tmp_path / "a.npz").members}
    assert (found["good"].shape, found["good"].problem) == ((4,), None)
    assert "no readable .npy" in str(found["bad"].problem)
    assert (found["objects"].shape, found["objects"].dtype) == ((2,), np.dtype(object))
    assert "Python objects" in str(found["objects"].problem)
    np.testing.assert_array_equal(client.get(tmp_path / "a.npz", dataset="good"), np.arange(4))


def test_headers_of_many_fields(client: arrayd.Client, tmp_path: Path) -> None:
    """Some hundred fields, as cryoSPARC writes them, also in an archive."""
    fields = [(f"alignments_class3D_{i}/class_posterior", "<f4") for i in range(1000)]
    values = np.zeros(4, fields)
    values["alignments_class3D_999/class_posterior"] = 7
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", x=values)
    for name in ("a.npy", "a.npz"):
        assert client.info(tmp_path / name).dtype == values.dtype
        found = client.get(tmp_path / name)
        assert (found.dtype, found.tobytes()) == (values.dtype, values.tobytes())


def test_bytes_are_what_they_are_said_to_be(client: arrayd.Client, tmp_path: Path) -> None:
    """`numpy.save` of bfloat16 writes V2: dtype= says what it was, if it has that size."""
    values = np.arange(6).astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "w.npy", values)
    np.savez_compressed(tmp_path / "w.npz", w=values)
    for name in ("w.npy", "w.npz"):
        assert client.get(tmp_path / name).dtype == np.dtype("V2")
        for claim in ("bfloat16", "u2"):
            found = client.get(tmp_path / name, dtype=claim, rows=slice(1, None, 2))
            assert found.dtype == (ml_dtypes.bfloat16 if claim == "bfloat16" else "u2")
            assert found.tobytes() == values[1::2].tobytes()
        with pytest.raises(SpecMismatch, match="dtype= says what is in the file"):
            client.get(tmp_path / name, dtype="f4")


@pytest.mark.parametrize("dtype", ODD, ids=str)
def test_what_attach_prints_can_be_pasted(dtype: Any) -> None:
    """An expression of numpy's, or of ml_dtypes' for its own types."""
    assert eval(_dtype(dtype), {"np": np}) == dtype
    assert eval(_dtype(np.dtype(ml_dtypes.int4)), {"np": np}) is ml_dtypes.int4
