"""What a dataset is made of: sources of .npy files, what is wrong with some, what is kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayd
from arrayd.datasets import cache, kept, npy_look
from arrayd.datasets.patterns import natural
from arrayd.datasets.scan import scan
from arrayd.errors import (
    AccessDenied,
    ArraydError,
    BadFile,
    SourceNotFound,
    SpecMismatch,
)
from arrayd.samples.manifest import Manifest
from arrayd.source import Source
from tests.support.scans import ALONE, names, place, shards, starts, wrong_files

__all__ = ["place"]


def test_the_rows_of_files_in_the_order_in_which_people_count() -> None:
    """A glob means the rows of all files, and of sound .npy files no daemon is asked."""
    shards(*range(1, 12))
    made = scan(ALONE, "s*.npy")
    assert names(made) == [f"s{n}.npy" for n in range(1, 12)]
    assert starts(made)[:4] == [0, 1, 3, 6]
    assert made.rows == 66
    field = made.field("x")
    assert (field.dtype, field.row_shape, field.whole_files) == (np.dtype("f4"), (3,), False)
    assert sorted(["a10", "a9", "a09", "b"], key=natural) == ["a09", "a9", "a10", "b"]


def test_several_sources_are_one_after_another(place: Path) -> None:
    """A list or tuple may have paths, globs and Sources; a file may come twice."""
    shards(1, 2, 3)
    made = scan(ALONE, [Path("s3.npy"), ("s[12].npy", Source.of("s3.npy")), f"{place}/s1.npy"])
    assert names(made) == ["s3.npy", "s1.npy", "s2.npy", "s3.npy", "s1.npy"]


# ---- lists -----------------------------------------------------------------------------------


def test_each_file_of_a_list_is_a_row(place: Path) -> None:
    """The columns of the list are those of the dataset."""
    shards(3, 3, shape=(2,))
    Path("samples.csv").write_text("path,label\ns2.npy,b\ns1.npy,a\n")
    made = scan(ALONE, {"x": "samples.csv"})
    field = made.field("x")
    assert (made.rows, field.whole_files, field.row_shape) == (2, True, (3, 2))
    assert names(made) == ["s2.npy", "s1.npy"]
    assert made.columns["label"].tolist() == ["b", "a"]
    Path("more.csv").write_text("path,label\ns1.npy,3\n")
    both = scan(ALONE, [Path("samples.csv"), "more.csv"])
    assert both.columns["label"].tolist() == ["b", "a", "3"]


# ---- what is wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "error", "says"),
    [
        ("q*.npy", SourceNotFound, r"q\*\.npy: no file matches this pattern"),
        ("q.npy", SourceNotFound, "q.npy: no such file"),
        (["q.npy", "r.npy", "s1.npy"], SourceNotFound, "q.npy: .*1 more of the 3 files"),
        (["s1.npy", "d1.npy"], SpecMismatch, r"d1.*float64 \(3,\), and .*float32 \(3,\)"),
        (["s1.npy", "w1.npy"], SpecMismatch, r"w1.npy has rows of .*\(4,\).*field 'x'.*Leave"),
        ("zero.npy", SpecMismatch, "single value.*arrayd list"),
        ("empty.npy", SpecMismatch, "no rows"),
        ("folder", BadFile, "folder is a directory"),
        ({"x": "s1.npy", "y": "s2.npy"}, SpecMismatch, "equally many rows: x 2, y 3"),
        ({"x": ["a.h5:one", "a.h5:two"]}, SpecMismatch, "read differently"),
        (["some.lst", "s1.npy"], SpecMismatch, "both a list.*some.lst.*s1.npy"),
        ({"x": "label.csv"}, SpecMismatch, "column and of a field"),
        ({"a": "label.csv", "b": "others.csv"}, SpecMismatch, "Two lists have a column 'x'"),
        (["label.csv", "some.lst"], SpecMismatch, "different columns: x; none"),
        ("none.lst", BadFile, "names no file"),
        ({}, SpecMismatch, "at least one field"),
        ([], SpecMismatch, "is empty"),
        ({"": "s1.npy"}, SpecMismatch, "name of a field"),
        ({3: "s1.npy"}, SpecMismatch, "name of a field"),
        (3, SpecMismatch, "not int"),
        ("name:a", SpecMismatch, "published block"),
        (Source.of("/a.npy", rows=slice(0, 1)), SpecMismatch, "no dataset is made"),
    ],
)
def test_what_is_wrong_is_said(sources: Any, error: type[ArraydError], says: str) -> None:
    """One typed error each, which names the file, the numbers and the remedy."""
    wrong_files()
    with pytest.raises(error, match=f"(?s){says}"):
        scan(ALONE, sources)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rows": slice(3)}, "Cut the dataset"),
        ({"order": "F"}, "stream"),
        ({"cast": "f4"}, "arrayd.dataset"),
        ({"list": 3}, "True, False"),
        ({"mode": "c"}, "mode= means nothing"),
    ],
)
def test_wrong_options(options: dict[str, Any], says: str) -> None:
    """Options that no file has are refused."""
    shards(1)
    with pytest.raises(SpecMismatch, match=says):
        scan(ALONE, "s1.npy", **options)


def test_unreadable_files_are_known_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first is named and the others are counted."""
    shards(1, 1, 1)
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda p, m: not p.endswith(("2.npy", "3.npy")) and allowed(p, m)
    )
    monkeypatch.setattr(npy_look.NpyHeaders, "look", lambda *_: pytest.fail("it was read"))
    with pytest.raises(AccessDenied, match=r"s2.npy: you may not read it. 1 more of the 3"):
        scan(ALONE, "s*.npy")


# ---- what is kept ----------------------------------------------------------------------------


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the names of the files that were looked at."""
    seen: list[str] = []
    look = npy_look.NpyHeaders.look

    def watched(self: npy_look.NpyHeaders, source: Source, path: str, size: int) -> Any:
        seen.append(os.path.basename(path))
        return look(self, source, path, size)

    monkeypatch.setattr(npy_look.NpyHeaders, "look", watched)
    return seen


def test_only_new_and_changed_files_are_looked_at(looked: list[str]) -> None:
    """A scan that is repeated looks at nothing; one of more files, or others, at those alone."""
    shards(1, 2, name="t")
    first = scan(ALONE, "t*.npy")
    assert looked == ["t1.npy", "t2.npy"]
    looked.clear()
    assert scan(ALONE, "t*.npy").digest == first.digest
    assert looked == []
    shards(1, 2, 5, name="t0")
    np.save("t2.npy", np.zeros((7, 3), "f4"))
    grown = scan(ALONE, "t*.npy")
    assert looked == ["t01.npy", "t02.npy", "t2.npy", "t03.npy"]
    assert starts(grown) == [0, 1, 2, 4, 11, 16]
    looked.clear()
    os.remove("t01.npy")
    assert scan(ALONE, "t*.npy").rows == 15
    assert looked == []
    np.save("t1.npy", np.zeros((7, 4), "f4"))
    with pytest.raises(SpecMismatch, match=r"t1.npy has rows of float32 \(4,\), and .*t02.npy"):
        scan(ALONE, "t*.npy")


def test_a_list_that_changed_is_read_again(looked: list[str]) -> None:
    """Its columns may be others while its files are the same; no file is looked at then."""
    shards(1, 1)
    for label in "ab":
        Path("l.csv").write_text(f"path,label\ns1.npy,{label}\ns2.npy,c\n")
        assert scan(ALONE, "l.csv").columns["label"].tolist() == [label, "c"]
    assert looked == ["s1.npy", "s2.npy"]


def test_other_requests_have_manifests_of_their_own(looked: list[str]) -> None:
    """What is asked for otherwise is looked at anew; where one is damaged or gone, too."""
    shards(2)
    scan(ALONE, "s*.npy")
    scan(ALONE, {"y": "s*.npy"})
    scan(ALONE, "s*.npy", format="npy")
    assert len(looked) == 3
    for path in Path(cache.folder()).glob("*.manifest"):
        path.write_bytes(b"PK")
    scan(ALONE, "s*.npy", format="npy")
    assert len(looked) == 4
    for path in Path(cache.folder()).iterdir():
        path.unlink()
    assert scan(ALONE, "s*.npy").rows == 2
    assert len(looked) == 5


def test_what_nobody_uses_is_removed() -> None:
    """Manifests that were not used for a month go when the next is saved; used ones stay."""
    shards(2)
    folder = Path(cache.folder())
    assert folder.stat().st_mode & 0o777 == 0o700
    made = {key: scan(ALONE, {key: "s1.npy"}) for key in "abc"}
    month_ago = time.time() - kept.DAYS * 86_400 - 60
    (folder / "left.tmp").touch()
    (folder / ".a.request.00000000.part").touch()
    (folder / "old.pack").touch()
    (folder / "others.txt").touch()
    for path in folder.iterdir():
        os.utime(path, (month_ago, month_ago))
    scan(ALONE, {"a": "s1.npy"})  # used
    shards(2, name="n")
    new = scan(ALONE, "n1.npy")
    left = {path.name for path in folder.iterdir()}
    assert {made["a"].file_name, new.file_name} == {
        name for name in left if name.endswith(".manifest")
    }
    assert len(left) == 7  # a request and a time of last use for each, and the other file
    assert "others.txt" in left


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the folder, and the variable that names another."""
    shards(2)
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file"))
    with pytest.raises(ArraydError, match=f"{tmp_path}/file, where.*{cache.VARIABLE}"):
        scan(ALONE, "s1.npy")


def refusing(number: int) -> Callable[..., str]:
    """Return a `Manifest.save` that fails with this errno."""

    def save(self: Manifest, folder: str) -> str:
        raise OSError(number, os.strerror(number))

    return save


@pytest.mark.parametrize(
    ("number", "error"), [(28, arrayd.NoRoom), (30, AccessDenied), (5, ArraydError)]
)
def test_a_full_cache(
    number: int, error: type[ArraydError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the system says is a typed error."""
    shards(2)
    monkeypatch.setattr(Manifest, "save", refusing(number))
    with pytest.raises(error, match=f"another folder in {cache.VARIABLE}"):
        scan(ALONE, "s1.npy")


# ---- many files, and progress ------------------------------------------------------------------


def test_many_files() -> None:
    """A list of thousands of samples is looked at whole."""
    row = np.zeros(8, "f4")
    np.save("0.npy", row)
    data = Path("0.npy").read_bytes()
    for number in range(1, 3000):
        Path(f"{number}.npy").write_bytes(data)
    Path("all.lst").write_text("".join(f"{number}.npy\n" for number in range(3000)))
    made = scan(ALONE, "all.lst")
    assert (made.rows, made.field("x").row_shape) == (3000, (8,))


def test_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A function is told how many files are done; an exception in it ends the scan."""
    shards(1, 1, 1)
    monkeypatch.setattr("arrayd.datasets.scan.MIN_INTERVAL", 0.0)
    told: list[tuple[str, int, int]] = []
    scan(ALONE, "s*.npy", progress=lambda p: told.append((p.source.path[-6:], p.done, p.total)))
    assert told == [("s1.npy", 1, 3), ("s2.npy", 2, 3), ("s3.npy", 3, 3)]

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(ALONE, {"y": "s*.npy"}, progress=interrupt)
    monkeypatch.setattr("arrayd.datasets.scan._SHOW_AFTER", 0)
    scan(ALONE, {"z": "s*.npy"}, progress=True)
    assert "0/3" in capsys.readouterr().err
