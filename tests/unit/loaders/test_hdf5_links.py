"""What an HDF5 file refers to: looked up beside it, part of what an array is, never guessed."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.errors import ArraydError, BadFile, LoadError, MissingDependency, SourceChanged
from arrayd.reduction import redeem, reduce
from arrayd.source import Source
from arrayd_server.loaders.formats import probe
from arrayd_server.loaders.hdf5 import links
from arrayd_server.loading import probing
from arrayd_server.loading.messages import ProbeTask
from tests.support.daemons import Daemon
from tests.support.loading import load, make_segment
from tests.support.processes import block_of

segment = pytest.fixture(make_segment)

KINDS = ("link", "soft", "through", "virtual", "nested", "raw")
"""Datasets of `master` whose values lie in other files."""


def virtual(file: Any, name: str, sources: list[tuple[str, str]], size: int = 3) -> None:
    """Write a virtual dataset that puts sources of `size` values each one after another."""
    layout = h5py.VirtualLayout((size * len(sources),), "i8")
    for index, (path, dataset) in enumerate(sources):
        part = h5py.VirtualSource(path, dataset, shape=(size,))
        layout[size * index : size * (index + 1)] = part
    file.create_virtual_dataset(name, layout, fillvalue=-1)


def numbered(file: Any, name: str, pattern: bytes) -> None:
    """Write a virtual dataset of any number of files, two values each."""
    endless = h5py.h5s.UNLIMITED
    space = h5py.h5s.create_simple((0,), (endless,))
    space.select_hyperslab((0,), (endless,), stride=(2,), block=(2,))
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_virtual(space, pattern, b"d", h5py.h5s.create_simple((2,)))
    made.set_fill_value(np.array(-1))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.NATIVE_INT64, space, dcpl=made)


def write_parts(folder: Path, value: int) -> None:
    """Write, or replace, the files that `master` refers to."""
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "part.h5", "w") as file:
        file["d"] = np.full(3, value)
        file["soft"] = h5py.SoftLink("/d")
    (folder / "raw.bin").write_bytes(np.full(3, value).tobytes())


def master(folder: Path) -> Path:
    """Write a file of which nothing lies in itself; return its path."""
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "middle.h5", "w") as file:
        file["hop"] = h5py.ExternalLink("part.h5", "/soft")
        virtual(file, "virtual", [("part.h5", "d")])
    with h5py.File(folder / "master.h5", "w") as file:
        file["link"] = h5py.ExternalLink("part.h5", "/d")
        file["soft"] = h5py.SoftLink("/link")
        file["through"] = h5py.ExternalLink("middle.h5", "/hop")
        virtual(file, "virtual", [("part.h5", "d")])
        virtual(file, "nested", [("middle.h5", "virtual")])
        file.create_dataset("raw", (3,), "i8", external=[("raw.bin", 0, 24)])
    return folder / "master.h5"


@pytest.mark.parametrize("parts", [True, False], ids=["there", "missing"])
def test_names_are_looked_up_beside_the_file(
    start_daemon: Callable[..., Daemon],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parts: bool,
) -> None:
    """Not where the daemon runs, nor where its environment says: other files lie there."""
    path = master(tmp_path / "mine")
    write_parts(tmp_path / "other", 666)
    master(tmp_path / "other")
    if parts:
        write_parts(tmp_path / "mine", 1)
    monkeypatch.chdir(tmp_path / "other")
    for name in ("EXT", "VDS", "EXTFILE"):
        monkeypatch.setenv(f"HDF5_{name}_PREFIX", str(tmp_path / "other"))
    daemon = start_daemon("--budget", "16M", "--workers", "1")
    with arrayd.connect(daemon.endpoint) as client:
        for name in KINDS:
            if parts or name in ("virtual", "nested"):
                expected = [1 if parts else -1] * 3
                assert client.get(path, dataset=name).tolist() == expected, name
            else:
                with pytest.raises(arrayd.SourceNotFound, match=r"part\.h5|raw\.bin"):
                    client.get(path, dataset=name)


@pytest.mark.parametrize("name", KINDS)
def test_a_change_behind_a_link_is_seen(client: arrayd.Client, tmp_path: Path, name: str) -> None:
    """Held by the same process, of the whole and of rows; what was there before stays."""
    path = master(tmp_path)
    write_parts(tmp_path, 1)
    old, part = (client.get(path, dataset=name, rows=rows) for rows in (None, slice(1, 3)))
    assert block_of(client.get(path, dataset=name)).name == block_of(old).name
    write_parts(tmp_path, 2)
    assert client.get(path, dataset=name, rows=slice(1, 3)).tolist() == [2, 2]
    assert client.get(path, dataset=name).tolist() == [2, 2, 2]
    assert (old.tolist(), part.tolist()) == ([1, 1, 1], [1, 1])


def test_info_names_all_files(client: arrayd.Client, tmp_path: Path) -> None:
    """Each hop, each place that was looked at, and whether there is a file."""
    path = master(tmp_path)
    write_parts(tmp_path, 1)
    sizes = {name: (tmp_path / name).stat().st_size for name in os.listdir(tmp_path)}
    named = {
        name: {Path(file.path).name: file.bytes for file in client.info(path, dataset=name).files}
        for name in KINDS
    }
    part, middle = {"part.h5": sizes["part.h5"]}, {"middle.h5": sizes["middle.h5"]}
    assert named["raw"] == {"raw.bin": 24}
    assert named["link"] == named["soft"] == named["virtual"] == part
    assert named["through"] == named["nested"] == middle | part
    (tmp_path / "part.h5").unlink()
    assert [file.bytes for file in client.info(path, dataset="virtual").files] == [None]


def test_a_source_that_appears(client: arrayd.Client, tmp_path: Path) -> None:
    """A missing source of a virtual dataset reads as the fill value only until it is there."""
    with h5py.File(tmp_path / "v.h5", "w", libver="latest") as file:
        virtual(file, "v", [("a.h5", "d"), ("b.h5", "d")])
        numbered(file, "n", b"%b.h5")
    assert client.get(tmp_path / "v.h5", dataset="v").tolist() == [-1] * 6
    assert client.get(tmp_path / "v.h5", dataset="n").tolist() == []
    for name in ("b", "0"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["d"] = np.arange(3 if name == "b" else 2)
    assert client.get(tmp_path / "v.h5", dataset="v").tolist() == [-1] * 3 + [0, 1, 2]
    assert client.get(tmp_path / "v.h5", dataset="n").tolist() == [0, 1]
    with h5py.File(tmp_path / "1.h5", "w") as file:
        file["d"] = np.arange(2) + 2
    assert client.get(tmp_path / "v.h5", dataset="n").tolist() == [0, 1, 2, 3]


def test_names_are_tried_as_by_h5py(client: arrayd.Client, tmp_path: Path) -> None:
    """Absolute names that lead nowhere are looked for beside; so is what the real file has."""
    write_parts(tmp_path / "real", 1)
    with h5py.File(tmp_path / "real" / "m.h5", "w") as file:
        file["moved"] = h5py.ExternalLink("/gone/with/it/part.h5", "/d")
        virtual(file, "virtual", [("/gone/part.h5", "d")])
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "m.h5").symlink_to(tmp_path / "real" / "m.h5")
    for folder in ("real", "links"):
        path = tmp_path / folder / "m.h5"
        for name in ("moved", "virtual"):
            with h5py.File(path) as file:
                expected = file[name][()].tolist()
            assert client.get(path, dataset=name).tolist() == expected == [1, 1, 1]


def test_what_is_there_and_cannot_be_read_is_not_missing(
    client: arrayd.Client, tmp_path: Path
) -> None:
    """No fill value for a source that is no HDF5, nor a wait for one that is a pipe."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.h5").write_text("not HDF5")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        for name in ("text.h5", "pipe"):
            virtual(file, name, [(name, "d")])
        file.create_dataset("stored", (8,), "f8", external=[("pipe", 0, 64)])
    for name in ("text.h5", "pipe", "stored"):
        with pytest.raises(BadFile, match=r"text\.h5, which .* refers to|pipe is no regular file"):
            client.get(tmp_path / "v.h5", dataset=name)


@pytest.mark.parametrize("name", ["itself", "by name", "ring", "soft"])
def test_a_file_that_is_made_of_itself(client: arrayd.Client, tmp_path: Path, name: str) -> None:
    """A circle is an error, where libhdf5 ends in a stack overflow."""
    with h5py.File(tmp_path / "c.h5", "w") as file:
        virtual(file, "itself", [(".", "itself")])
        virtual(file, "by name", [("c.h5", "by name")])
        virtual(file, "ring", [("other.h5", "ring")])
        file["soft"] = h5py.SoftLink("/soft")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        virtual(file, "ring", [("c.h5", "ring")])
    with pytest.raises(BadFile, match=r"made of itself|links one after another"):
        client.get(tmp_path / "c.h5", dataset=name)


def sources(folder: Path, count: int) -> Source:
    """Write a virtual dataset of as many files; return its source."""
    for index in range(count):
        with h5py.File(folder / f"s{index}.h5", "w") as file:
            file.create_dataset("d", data=np.full(3, index), chunks=(3,), compression="gzip")
    with h5py.File(folder / "many.h5", "w") as file:
        virtual(file, "v", [(f"s{index}.h5", "d") for index in range(count)])
    return Source.of(folder / "many.h5", dataset="v")


def test_more_files_than_may_be_open(tmp_path: Path, segment: Path) -> None:
    """They are looked at one after another; what cannot be opened is an error, no fill value."""
    source = sources(tmp_path, 60)
    assert len(probe(source).files) == 60
    limit = len(os.listdir("/proc/self/fd")) + links._OPEN + 10
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        assert len(probe(source).files) == 60
        with pytest.raises(LoadError, match="more files than a loader may have open"):
            load(source, segment)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    segment.unlink()
    assert load(source, segment).tolist() == np.repeat(np.arange(60), 3).tolist()


def test_a_filter_of_a_source_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be decoded is said, where libhdf5 may show the fill value."""
    source = sources(tmp_path, 2)
    monkeypatch.setattr("arrayd_server.loaders.hdf5.filters.h5py", without_filters())
    with pytest.raises(MissingDependency, match=r"filter 1 \(deflate\)"):
        probe(source)


def without_filters() -> SimpleNamespace:
    """Return an h5py without filters."""
    return SimpleNamespace(h5z=SimpleNamespace(filter_avail=lambda code: False))


def test_a_restart_keeps_the_rule(daemon: Daemon, tmp_path: Path) -> None:
    """An adopted block is found as long as all its files are the same, and no longer."""
    path = master(tmp_path)
    write_parts(tmp_path, 1)
    with arrayd.connect(daemon.endpoint) as client:
        held = client.get(path, dataset="link")
        name = block_of(held).name
        daemon.kill()
        daemon.start()
        assert block_of(client.get(path, dataset="link")).name == name
        write_parts(tmp_path, 2)
        assert client.get(path, dataset="link").tolist() == [2, 2, 2]
        assert held.tolist() == [1, 1, 1]
        del held


@pytest.mark.parametrize("changes", [False, True])
def test_a_late_reference(
    client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: bool
) -> None:
    """Redeemed when its block is gone, it is the same values or an error, though `stat` agrees."""
    monkeypatch.setattr("arrayd.api.client_of", lambda endpoint: client)
    path = master(tmp_path)
    write_parts(tmp_path, 1)
    array = client.get(path, dataset="virtual")
    _, (reference,) = reduce(array)
    gone = {**reference, "segment": reference["segment"][:-1] + "999"}
    del array
    if changes:
        write_parts(tmp_path, 2)
        with pytest.raises(SourceChanged, match="while a reference to it was on its way"):
            np.asarray(redeem(gone))
    else:
        assert redeem(gone).tolist() == [1, 1, 1]


def test_a_source_that_changes_while_it_is_read(tmp_path: Path) -> None:
    """What a part was read from is looked at again after it, whichever file it is."""
    path = master(tmp_path)
    write_parts(tmp_path, 1)
    source = Source.of(path, dataset="nested")
    found = probing.probe(ProbeTask(source))
    probing.check_unchanged(source, found)
    write_parts(tmp_path, 2)
    with pytest.raises(ArraydError, match=r"part\.h5 changed while"):
        probing.check_unchanged(source, found)
