"""A list names any files, comes back as it was written, and says which line is wrong."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arrayd import cli
from arrayd.datasets.file_list import (
    RepeatedPathWarning,
    first_entry,
    read_list,
)
from arrayd.datasets.folder_files import write_list
from arrayd.errors import AccessDenied, ArraydError, BadFile, SourceNotFound, SpecMismatch

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/") | st.just("\udcff"),
    min_size=1,
    max_size=12,
).filter(lambda name: not name.startswith(".") and len(os.fsencode(name)) < 100)


def listed(folder: Path, text: str | bytes, name: str = "list.txt") -> Path:
    """Write a list; its path."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_one_path_per_line(tmp_path: Path) -> None:
    """All of a line is the path; blank lines and comments are none; relative to the list."""
    text = '# mine\na.npy\r\n\n  \n/b c,d;e.npy\n"q ""x"".npy"\n./#1\n x \n"half\nlast'
    found = read_list(listed(tmp_path, text))
    names = ["a.npy", "/b c,d;e.npy", 'q "x".npy', "./#1", " x ", '"half', "last"]
    assert found.paths == [n if n[0] == "/" else f"{tmp_path}/{n}" for n in names]
    assert found.columns == {}


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.tsv", "list"])
def test_columns_have_types(tmp_path: Path, delimiter: str, name: str) -> None:
    """The first line names them, in any order; each gets the type that all its entries have."""
    rows = [
        ["", "Label", "File", "w", "group", "id", "big", "empty"],
        ["0", "3", "a.npy", "1", "ü", "007", "9" * 20, ""],
        ["1", " -4", "b.npy", "2.5", "x y", "8", "1", "1"],
    ]
    text = "\n".join(delimiter.join(row) for row in rows)
    found = read_list(listed(tmp_path, text, name))
    assert found.paths == [f"{tmp_path}/a.npy", f"{tmp_path}/b.npy"]
    assert {key: (c.dtype.kind, c.tolist()) for key, c in found.columns.items()} == {
        "Label": ("i", [3, -4]),
        "w": ("f", [1.0, 2.5]),
        "group": ("U", ["ü", "x y"]),
        "id": ("U", ["007", "8"]),
        "big": ("U", ["9" * 20, "1"]),
        "empty": ("U", ["", "1"]),
    }


def test_one_column_needs_no_header(tmp_path: Path) -> None:
    """A .csv of paths alone may name its column or not; quotes protect commas and line ends."""
    for header in ("path\n", "FileName\n", ""):
        found = read_list(listed(tmp_path, header + '"a,b.npy"\n#\n"c\n#d"\n', "list.csv"))
        assert found.paths == [f"{tmp_path}/a,b.npy", f"{tmp_path}/c\n#d"]


def test_names_need_not_be_utf8(tmp_path: Path) -> None:
    """Bytes come out as `os.fsdecode` has them; a byte order mark is no part of a name."""
    found = read_list(listed(tmp_path, b"\xef\xbb\xbfa\xff.npy\n"))
    assert found.paths == [os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.npy")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no file.*arrayd list"),
        ("# nothing\n\n", "names no file"),
        ("path,label\n", "names no file"),
        ("path,label\n#\na,1\n\nb\n", r"line 5: 1 columns \('b'\).*names 2: path, label.*Add"),
        ("path,label\na,1\nb,c,2\n", "line 3: 3 columns.*quotes around"),
        ("path,x,x\na,1,2\n", "column 'x' twice"),
        ("path,x\n,1\n", "line 2: there is no path"),
        ('path,x\n"a,1\n', "no CSV.*quote not closed"),
        ("a\nb\0\n", "line 2: .*zero bytes.*UTF-16"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, says: str) -> None:
    """The error names the list, the line and the remedy."""
    path = listed(tmp_path, text)
    with pytest.raises(BadFile, match=f"(?s){path}.*{says}"):
        read_list(path)


def test_columns_need_a_first_line(tmp_path: Path) -> None:
    """A .csv with several columns and no names of them is refused with the remedy."""
    with pytest.raises(BadFile, match=r"line 1: 2 columns.*`path,label`"):
        read_list(listed(tmp_path, "a.npy,1\n", "list.csv"))


def test_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    """A list that is not there, or a folder, is a typed error."""
    with pytest.raises(SourceNotFound, match="no such list"):
        read_list(tmp_path / "none.txt")
    with pytest.raises(BadFile, match="directory"):
        read_list(tmp_path)


def test_a_path_may_stand_twice(tmp_path: Path) -> None:
    """It is a row each time, and a warning says so."""
    path = listed(tmp_path, "a\nb\na\na\n")
    with pytest.warns(RepeatedPathWarning, match="2 of its 4 entries.*/a.*group="):
        assert len(read_list(path).paths) == 4


def test_the_first_entry(tmp_path: Path) -> None:
    """It is found without reading all, and data have none or a number."""
    many = "path,x\n" + "a b.npy,1\n" * 50_000
    assert first_entry(str(listed(tmp_path, many))) == (True, f"{tmp_path}/a b.npy")
    assert first_entry(str(listed(tmp_path, "#\nb.npy\n"))) == (False, f"{tmp_path}/b.npy")
    assert first_entry(str(listed(tmp_path, "1 2\n"))) == (False, f"{tmp_path}/1 2")
    for text in (b"", b"# x\n", b"\xff\xfea\0", b'path,x\n"a'):
        assert first_entry(str(listed(tmp_path, text))) is None
    assert first_entry(str(tmp_path / "none")) is None


def test_many_lines(tmp_path: Path) -> None:
    """A table without quotes is read in another, faster way, to the same end."""
    lines = (f"d/{i:07d}.npy,{i % 10},g{i % 100}\n" for i in range(100_000))
    found = read_list(listed(tmp_path, "path,label,group\n" + "".join(lines)))
    assert found.columns["label"].sum() == 450_000
    assert found.paths[-1] == f"{tmp_path}/d/0099999.npy"


# ---- writing ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@example(["\n", "\t"], False, False)
@given(st.lists(NAMES, min_size=1, max_size=5, unique=True), st.booleans(), st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], labels: bool, inside: bool
) -> None:
    """Whatever the files are called, the list names them, and their folders are the labels."""
    folder = tmp_path_factory.mktemp("list")
    root = folder / "data"
    for number, name in enumerate(names):
        (root / f"class {number % 2}").mkdir(parents=True, exist_ok=True)
        (root / f"class {number % 2}" / name).touch()
    output = folder / "samples.txt" if inside else root / "class 0" / ".list"
    assert write_list(root, output, "parent" if labels else None) == len(names)
    found = read_list(output)
    expected = sorted(f"{root}/class {n % 2}/{name}" for n, name in enumerate(names))
    assert [os.path.normpath(path) for path in found.paths] == [
        os.path.normpath(p) for p in expected
    ]
    if labels:
        assert found.columns["label"].tolist() == [p.split("/")[-2] for p in expected]
    assert os.listdir(folder) == (["data", "samples.txt"] if inside else ["data"]) or inside


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a folder with some files, hidden ones, links and a folder that links to itself."""
    root = tmp_path / "tree"
    for name in ("b/2.PNG", "b/1.png", "a/x/3.jpg", "0.txt", ".h/4.png", "b/.5.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "a" / "loop").symlink_to(root)
    (root / "c").symlink_to(root / "b")
    (root / "broken.png").symlink_to(root / "nowhere")
    (root / "a" / "itself.png").symlink_to("itself.png")
    (root / "one").symlink_to("other")
    (root / "other").symlink_to("one")
    os.mkfifo(root / "pipe.png")
    return root


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["0.txt", "a/x/3.jpg", "b/1.png", "b/2.PNG", "c/1.png", "c/2.PNG"]),
        ({"suffixes": [".png"]}, ["b/1.png", "b/2.PNG", "c/1.png", "c/2.PNG"]),
        ({"suffixes": ["jpg", ".TXT"]}, ["0.txt", "a/x/3.jpg"]),
        ({"pattern": "*"}, ["0.txt"]),
        ({"pattern": "**/x/**"}, ["a/x/3.jpg"]),
        ({"pattern": "b/**/[0-1].*"}, ["b/1.png"]),
        ({"pattern": "**/?.png"}, ["b/1.png", "c/1.png"]),
    ],
)
def test_which_files_are_listed(tree: Path, options: dict[str, object], names: list[str]) -> None:
    """Regular ones that are not hidden, of the pattern and the suffixes, each once."""
    output = tree.parent / "samples.txt"
    write_list(tree, output, **options)  # type: ignore[arg-type]
    assert output.read_text().splitlines() == [f"tree/{name}" for name in names]


def test_a_list_does_not_name_itself(tree: Path) -> None:
    """Written into the folder that it lists, twice, it has the same entries."""
    assert write_list(tree, tree / "samples.txt") == write_list(tree, tree / "samples.txt")
    assert (tree / "samples.txt").read_text().startswith("0.txt\n")
    assert write_list(tree, tree / "b" / "1.txt") == write_list(tree, tree / "b" / "1.txt")


def test_nothing_to_list(tree: Path, tmp_path: Path) -> None:
    """An empty result, a wrong option or a folder that is none writes no list."""
    output = tmp_path / "out.txt"
    with pytest.raises(BadFile, match=r"tree has no files 'q/\*' that end in .npy.*no list"):
        write_list(tree, output, pattern="q/*", suffixes=["npy"])
    with pytest.raises(SpecMismatch, match="'parent'"):
        write_list(tree, output, "name")
    for suffixes in ([], [""], [3]):
        with pytest.raises(SpecMismatch, match="suffixes="):
            write_list(tree, output, suffixes=suffixes)  # type: ignore[arg-type]
    with pytest.raises(SourceNotFound, match="no such folder"):
        write_list(tmp_path / "none", output)
    with pytest.raises(BadFile, match="is no folder"):
        write_list(tree / "0.txt", output)
    assert not output.exists()


def test_a_list_that_cannot_be_written(tree: Path) -> None:
    """The error names it."""
    with pytest.raises((AccessDenied, ArraydError), match="cannot be written"):
        write_list(tree, tree / "none" / "samples.txt")


def test_the_command(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``arrayd list`` writes the list and says how many files it names."""
    output = tree.parent / "s.csv"
    words = ["list", str(tree), "-o", str(output), "--label-from", "parent", "--suffix", ".jpg"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == f"{output}: 1 file\n"
    assert output.read_text() == "path,label\ntree/a/x/3.jpg,x\n"
    assert cli.main([*words, "--pattern", "none"]) == 1
    assert "no files 'none' that end in .jpg" in capsys.readouterr().err


def test_columns_are_ready_for_a_manifest(tmp_path: Path) -> None:
    """A column is an array of fixed size, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_list(listed(tmp_path, "path,a\nx,1e3\ny,nan\n"))
    assert found.columns["a"].dtype == np.float64


@pytest.mark.parametrize(
    ("first", "name", "names"),
    [
        ("a\rb.npy", "list.txt", ["a\rb.npy", "c"]),
        ("x" * 140_000, "list.txt", ["x" * 140_000, "c"]),
        ("a\rb.npy", "list.csv", None),
        ("x" * 140_000, "list.csv", None),
        ("path\ra.npy", "list.tsv", None),
    ],
)
def test_a_first_line_that_is_no_csv(
    tmp_path: Path, first: str, name: str, names: list[str] | None
) -> None:
    """It is a path, whatever is in it, or else the list is no CSV."""
    path = listed(tmp_path, f"{first}\nc\n", name)
    if names is None:
        with pytest.raises(BadFile, match=f"{name}: it is no CSV"):
            read_list(path)
    else:
        assert read_list(path).paths == [f"{tmp_path}/{one}" for one in names]
