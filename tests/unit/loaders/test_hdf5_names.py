"""Names in HDF5 files: whatever bytes a program wrote, they are listed and can be asked for."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.errors import BadFile, SourceNotFound, SpecMismatch
from arrayd.source import Source
from arrayd_server.loaders.hdf5.names import decoded, encoded, walk

pytestmark = pytest.mark.one_daemon

LATIN = b"L\xe4nge"
NAMES = [
    LATIN,
    b"x",
    "Länge".encode(),
    b"a b",
    b"g\xf6/k\xe4",
    b"n" * 60_000,
    b"tab\tline\n",
    b"C:x",
]


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Return a file with a dataset of each name, which holds its number."""
    with h5py.File(tmp_path / "named.h5", "w") as file:
        for number, name in enumerate(NAMES):
            file[name] = np.arange(number)
    return tmp_path / "named.h5"


def test_any_name_is_listed_and_loaded(client: arrayd.Client, named: Path) -> None:
    """What `info` lists can be asked for, as text that Python has for file names."""
    members = client.info(named).members
    assert {m.name: m.shape for m in members} == {decoded(n): (i,) for i, n in enumerate(NAMES)}
    for member in members:
        assert client.get(named, dataset=member.name).shape == member.shape
    assert client.get(f"{named}:{decoded(LATIN)}").shape == (0,)


def test_errors_name_them_printably(client: arrayd.Client, named: Path) -> None:
    """No message holds what a terminal refuses."""
    for dataset, error in ((None, SpecMismatch), ("nothing", SourceNotFound)):
        with pytest.raises(error, match=r"L\\udce4nge") as caught:
            client.get(named, dataset=dataset)
        assert str(caught.value).encode()


@pytest.mark.parametrize("name", ["x\0y", "\0", "x\ud800", "x" * 100_000])
def test_names_that_nothing_has(client: arrayd.Client, named: Path, name: str) -> None:
    """A name that no link can have is not there."""
    with pytest.raises((SourceNotFound, SpecMismatch)):
        client.get(named, dataset=name)


def test_an_option_beyond_any_file(client: arrayd.Client, named: Path) -> None:
    """What cannot be sent is the caller's mistake, and says which."""
    with pytest.raises(SpecMismatch, match="at most 64 bits"):
        client.get(named, format="raw", dtype="u1", shape=-1, offset=10**30)
    with pytest.raises(SpecMismatch, match="10000 values"):
        client.get(named, format="text", usecols=[*range(20_000)])


def test_bytes_and_text_are_inverse() -> None:
    """Any bytes without NUL."""
    name = bytes(range(1, 256))
    assert encoded(decoded(name)) == name
    with pytest.raises(ValueError, match="NUL"):
        encoded("a\0b")


def test_the_walk_is_that_of_h5py(tmp_path: Path) -> None:
    """The same datasets in the same order as `visititems`, through cycles and hard links."""
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name in ("b/x", "b/a/y", "a", "c/z"):
            file[name] = 1
        file["b/a/up"], file["0"], file["c/again"] = file["b"], file["c/z"], file["a"]
        file["soft"] = h5py.SoftLink("/a")
        found: list[str] = []
        file.visititems(lambda n, t: found.append(n) if isinstance(t, h5py.Dataset) else None)
        assert [name for name, _ in walk(file)] == found


def test_one_broken_object_costs_no_other(client: arrayd.Client, tmp_path: Path) -> None:
    """A dataset whose header is overwritten is not there; the others are."""
    path = tmp_path / "broken.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for name in ("a", "b", "c"):
            file[name] = np.arange(3)
        address = h5py.h5o.get_info(file["b"].id).addr
    data = bytearray(path.read_bytes())
    data[address : address + 16] = bytes(16)
    path.write_bytes(data)
    assert {"a", "c"} <= {member.name for member in client.info(path).members}
    np.testing.assert_array_equal(client.get(path, dataset="c"), np.arange(3))
    with pytest.raises((SourceNotFound, BadFile), match="'b'"):
        client.get(path, dataset="b")
    assert Source.of(path, dataset="b").member == "b"
