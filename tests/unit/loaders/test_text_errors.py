"""What is no text is refused, and every error names the file and the line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrayd.errors import (
    AccessDenied,
    BadFile,
    SourceChanged,
    SourceNotFound,
    SpecMismatch,
)
from arrayd.source import Source
from arrayd_server.loaders.text import loader as text
from arrayd_server.loaders.text import row_scan
from tests.support.text_files import TABLE, bad_line, load, read, tiny, written

__all__ = ["tiny"]

# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"converters": 1}, "no option converters; it takes comments, delimiter"),
        ({"delimiter": ",,"}, "single unicode character"),
        ({"comments": ""}, "comments cannot be an empty string"),
        ({"comments": (1,)}, "must be strings"),
        ({"usecols": "x"}, "usecols must be an int"),
        ({"skiprows": -1}, "nonnegative"),
        ({"max_rows": 1.5}, "refuses"),
        ({"ndmin": 3}, "ndmin"),
        ({"encoding": "klingon"}, "no text encoding"),
        ({"encoding": "hex"}, "no text encoding"),
        ({"dtype": "U"}, "give it: S12"),
        ({"dtype": "S"}, "give it: S12"),
        ({"dtype": "M8"}, "M8[s]"),
        ({"dtype": "i4,i4", "unpack": True}, "one array per field"),
        ({"dtype": "i4,i4", "usecols": 0}, "must match"),
        ({"dtype": "(2,)i4"}, "subarray"),
        ({"dtype": "i4,i4,(2,)f4"}, "line 2: 2 columns, but the dtype has 4: f0:<i4, f1:<i4"),
        ({"usecols": (0, 2)}, "line 2: 2 columns, but usecols= asks for column 2"),
        ({"dataset": "x"}, "no members"),
    ],
)
def test_refused_by_probe(tmp_path: Path, wish: dict[str, Any], words: str) -> None:
    """What cannot be read as asked is refused before the file is scanned, with the reason."""
    path = written(tmp_path, "# a b\n1 2\n3 4\n")
    with pytest.raises(SpecMismatch) as caught:
        text.probe(Source.of(path, format="text", **wish))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_header_is_told_by_probe(tmp_path: Path) -> None:
    """A header line that is no comment fails at once and the message says how to skip it."""
    path = written(tmp_path, "\nchr pos\n1 2\n")
    with pytest.raises(BadFile, match=r"line 2: column 1: 'chr' is no float64.*skiprows=2"):
        text.probe(Source.of(path))


# --- errors name the line -------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("comments", ["#", ("#", "@")])
def test_bad_value_names_line(tmp_path: Path, suffix: str, end: str, comments: Any) -> None:
    """The line of a bad value is exact behind comments, blank lines and skipped rows."""
    lines = ["head", "# c"] + [f"{i} {i}" if i % 3 else "" for i in range(1, 60)]
    lines[45] = "1 oops"
    path = written(tmp_path, end.join(lines), f"a.txt{suffix}")
    error = bad_line(path, skiprows=1, comments=comments)
    assert error.details["line"] == 46
    assert "line 46: column 2: 'oops' is no float64." in str(error)


@pytest.mark.parametrize("comments", ["#", ("#", "@")])
@pytest.mark.parametrize("tail", ["3 3\n", "3 3 3\n"])
def test_changed_columns_name_line(tmp_path: Path, comments: Any, tail: str) -> None:
    """A row with more or fewer columns than the first is told by line, also from there on."""
    path = written(tmp_path, "1 2\n\n" * 20 + "#\n1 2 3\n" + tail * 10)
    error = bad_line(path, comments=comments)
    assert "line 42: the number of columns changed from 2 to 3" in str(error)


def test_changed_columns_of_records_name_line(tmp_path: Path) -> None:
    """For records, too, the line with a wrong number of columns is named."""
    error = bad_line(written(tmp_path, "1 2\n" * 20 + "1\n"), dtype="i4,i4")
    assert "line 21: the dtype passed requires 2 columns but 1 were found" in str(error)


def test_missing_column_names_line(tmp_path: Path) -> None:
    """A row too short for usecols is named."""
    error = bad_line(written(tmp_path, "1 2\n" * 20 + "1\n"), usecols=1)
    assert "line 21: invalid column index 1 with 1 columns" in str(error)


def test_quoted_line_ends_count(tmp_path: Path) -> None:
    """The line is right even where a quoted value goes over several lines."""
    path = written(tmp_path, '"a\nb" 1\n' * 5 + "c x\n")
    error = bad_line(path, dtype="U3,i4", quotechar='"')
    assert "line 11: column 2: 'x' is no int32" in str(error)


def test_binary_garbage_is_one_short_line(tmp_path: Path) -> None:
    """A file that is no text gives one line of printable characters."""
    data = bytes(np.random.default_rng(1).integers(1, 256, 5000, np.uint8)).replace(b"\n", b"\0")
    error = bad_line(written(tmp_path, data), encoding="latin1", delimiter=",")
    assert str(error).isprintable()
    assert len(str(error)) - len(str(tmp_path)) < 250


@pytest.mark.parametrize("comments", ["#", ("#", "@")])
def test_undecodable_byte_names_line(tmp_path: Path, comments: Any) -> None:
    """Bytes that are not of the encoding are told by line."""
    path = written(tmp_path, b"1\n\r\n# \xc3\xa4\n" * 30 + b"\xff\n1\n")
    error = bad_line(path, encoding="utf-8", comments=comments)
    assert "line 91: byte 0xff is no utf-8 text" in str(error)


def test_endless_line_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without line ends is refused instead of read whole into memory."""
    monkeypatch.setattr(row_scan, "LINE_BYTES", 1000)
    assert "this is no text file" in str(bad_line(written(tmp_path, b"\0" * 5000)))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("keep", [0.6, 0])
def test_damaged_compression(tmp_path: Path, suffix: str, keep: float) -> None:
    """A truncated or foreign compressed file is a bad file."""
    path = written(tmp_path, os.urandom(3000).hex(), f"a.txt{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)] or b"1 2 3\n")
    bad_line(path, dtype="U9", delimiter=",")


def test_changed_file(tmp_path: Path) -> None:
    """A file that loses rows between probe and fill is told as changed."""
    for comments in ("#", ("#", "@")):
        source = Source.of(written(tmp_path, TABLE), comments=comments)
        plan = text.probe(source)
        written(tmp_path, TABLE.replace("\n8", "\n#"))
        with pytest.raises(SourceChanged, match="changed while it was read"):
            read(source, plan)


def test_unreadable_paths(tmp_path: Path) -> None:
    """A missing file, a directory, a pipe and a forbidden file have their own errors."""
    with pytest.raises(SourceNotFound):
        load(tmp_path / "none.txt")
    with pytest.raises(BadFile):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(BadFile):
        load(tmp_path / "pipe.txt")
    secret = written(tmp_path, "1\n", "secret.txt")
    secret.chmod(0)
    if os.geteuid() != 0:
        with pytest.raises(AccessDenied):
            load(secret)


@contextlib.contextmanager
def descriptors_kept() -> Iterator[None]:
    """Assert that the block leaves no descriptor open."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.parametrize("comments", ["#", ("#", "@")])
def test_abandoned_fill_closes_its_file(tmp_path: Path, name: str, comments: Any) -> None:
    """A load that is cancelled between chunks leaves no descriptor."""
    source = Source.of(written(tmp_path, TABLE, name), comments=comments)
    with descriptors_kept():
        plan = text.probe(source)
        chunks = text.fill(source, plan, plan.parts[0])
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]  # it is a generator
