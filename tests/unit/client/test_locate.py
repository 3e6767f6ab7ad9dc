"""``FILE:MEMBER``: the file system decides where the file ends, and each remedy can be pasted."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.common.locate import locate, places
from arrayd.errors import NoSuchBlock, SourceNotFound, SpecMismatch
from arrayd.source import Source
from tests.support.daemons import Daemon

pytestmark = pytest.mark.one_daemon

NAMES = ["dense/kernel:0", "it's", 'say "x"', "a b", ":lead", "trail:", "back\\slash", "ü:ö"]
"""Names of members that people's files hold."""


def files(folder: Path, *names: str) -> None:
    """Make empty files."""
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize(
    ("there", "text", "path", "member"),
    [
        (["m.h5"], "m.h5:dense/kernel:0", "m.h5", "dense/kernel:0"),
        (["a:b.h5"], "a:b.h5:x", "a:b.h5", "x"),
        (["a:b.h5"], "a:b.h5:x:0", "a:b.h5", "x:0"),
        (["a:b.h5"], "a:b.h5", "a:b.h5", None),
        (["a", "a:b.h5"], "a:b.h5:x", "a:b.h5", "x"),
        (["a", "a:b.h5"], "a:c", "a", "c"),
        (["m.h5"], "m.h5::x", "m.h5", ":x"),
        (["m.h5"], "m.h5:x:", "m.h5", "x:"),
        ([], "m.h5:dense/kernel:0", "m.h5", "dense/kernel:0"),
        ([], "run 12:30.h5", "run 12:30.h5", None),
        ([], "run 12:30.h5:x", "run 12:30.h5", "x"),
        ([], "plain:x", "plain", "x"),
    ],
)
def test_the_longest_part_that_is_a_file_is_the_file(
    tmp_path: Path, there: list[str], text: str, path: str, member: str | None
) -> None:
    """Colons may be part of names; if no file exists, what looks like a file's name is one."""
    files(tmp_path, *there)
    assert locate(f"{tmp_path}/{text}", None) == (f"{tmp_path}/{path}", member, None)


def test_a_folder_is_no_file_of_members(tmp_path: Path) -> None:
    """A file goes before a folder, and a folder before nothing: its error is the useful one."""
    (tmp_path / "d:1").mkdir()
    assert locate(f"{tmp_path}/d:1:x", None)[0] == f"{tmp_path}/d:1"
    files(tmp_path, "d")
    assert locate(f"{tmp_path}/d:1:x", None) == (f"{tmp_path}/d", "1:x", None)


def test_a_member_is_named_once(tmp_path: Path) -> None:
    """``dataset=`` beside ``FILE:MEMBER`` is refused, not left out."""
    files(tmp_path, "m.h5")
    with pytest.raises(SpecMismatch, match="give one of them"):
        Source.of(f"{tmp_path}/m.h5:x", dataset="y")


@pytest.mark.parametrize("what", [b"a.npy", ["a.npy"], {"a.npy"}, 5, None, np.zeros(3), object()])
def test_what_names_no_file_gets_a_remedy(what: object) -> None:
    """There is no bare TypeError of os.fspath; the error says what to pass."""
    with pytest.raises(SpecMismatch, match="A source is a str or a path, not"):
        Source.of(what)  # type: ignore[arg-type]


def test_open_files_and_datasets_get_a_remedy(tmp_path: Path) -> None:
    """The two that people pass most often have texts of their own."""
    with (
        h5py.File(tmp_path / "m.h5", "w") as file,
        open(tmp_path / "m.h5", "rb") as raw,
    ):
        for what in (file, file.create_dataset("x", data=[1])):
            with pytest.raises(SpecMismatch, match="dataset="):
                Source.of(what)
        with pytest.raises(SpecMismatch, match="give the path"):
            Source.of(raw)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", ["h5", "npz"])
def test_the_remedy_can_be_pasted(daemon: Daemon, tmp_path: Path, name: str, suffix: str) -> None:
    """What the error of an unnamed member proposes is that member, whatever its name."""
    path = str(tmp_path / f"it's:a model.{suffix}")
    values = {name: np.arange(3), f"{name}~": np.arange(2)}
    if suffix == "npz":
        np.savez(path, allow_pickle=True, **values)
    else:
        with h5py.File(path, "w") as file:
            file.update(values)
    with arrayd.connect(daemon.endpoint) as client:
        with pytest.raises(SpecMismatch, match="Say which: ") as caught:
            client.get(path)
        found = re.search(r"Say which: (.*) or dataset=(.*)\.$", str(caught.value))
        assert found is not None
        both, dataset = map(ast.literal_eval, found.groups())
        assert client.get(both).tolist() == values[name].tolist()
        assert client.get(path, dataset=dataset).tolist() == values[name].tolist()
        assert client.info(both).shape == (3,)


def test_the_remedy_is_not_another_file(daemon: Daemon, tmp_path: Path) -> None:
    """Where ``FILE:MEMBER`` is a file of its own, the remedy is ``dataset=``."""
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.update({"x": np.arange(3), "y": np.arange(2)})
    np.save(tmp_path / "m.h5:x", np.arange(9))
    os.rename(tmp_path / "m.h5:x.npy", tmp_path / "m.h5:x")
    with (
        arrayd.connect(daemon.endpoint) as client,
        pytest.raises(SpecMismatch, match=r"Say which: dataset='x'\."),
    ):
        client.get(path)


def test_a_block_of_a_removed_file_is_evicted(daemon: Daemon, tmp_path: Path) -> None:
    """Without the file, the blocks in memory decide where the name is cut."""
    path = tmp_path / "run 12:30.h5"
    with h5py.File(path, "w") as file:
        file.update({"k:0": np.arange(3)})
    with arrayd.connect(daemon.endpoint) as client:
        client.release(client.get(f"{path}:k:0"))
        path.unlink()
        with pytest.raises(SourceNotFound, match=re.escape(f"{path}: no such file")):
            client.get(f"{path}:k:0")
        with pytest.raises(NoSuchBlock):
            client.evict(f"{path}:k:1")
        assert client.evict(f"{path}:k:0")["blocks"] == 1


def test_every_cut_is_a_place() -> None:
    """If no file exists, each colon may separate the member, or none."""
    assert {member for _, member in places("/no/a:b:c")} == {"c", "b:c", None}
