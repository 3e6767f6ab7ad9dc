"""Text is what `numpy.loadtxt` makes of it, whatever the way it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrayd.errors import (
    SpecMismatch,
)
from arrayd.source import Source
from arrayd_server.loaders.text import loader as text
from arrayd_server.loaders.text import row_scan
from arrayd_server.loaders.text.parser import RowParser
from tests.support.text_files import (
    METHYLATION,
    QUICK,
    RECORD,
    TABLE,
    bad_line,
    expected,
    load,
    loses,
    outcome,
    same,
    tiny,
    written,
)

__all__ = ["tiny"]

# --- real data ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test1", "test2", "control1", "control2"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_methylation_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, suffix: str
) -> None:
    """The real samples read like np.loadtxt, in several parts, and as one if compressed."""
    source = METHYLATION / f"{name}.cov.txt"
    if not source.exists():
        pytest.skip(f"{METHYLATION} is not there: the sample data are no part of the project")
    monkeypatch.setattr(row_scan, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(text, "PART_BYTES", 10_000)
    monkeypatch.setattr(text, "PIECE_BYTES", 700)
    path = written(tmp_path, source.read_bytes(), f"s.cov.txt{suffix}")
    same(path, dtype=RECORD)
    same(path, dtype=RECORD, rows=slice(1500, 100, -7))
    parts = text.probe(Source.of(path, dtype=RECORD, format="text")).parts
    assert len(parts) == 1 if suffix else len(parts) > 3


# --- generated files ------------------------------------------------------------------------

FIELDS = st.sampled_from(["1", "2.5", "-3e4", "nan", "007", "1e400", "+.5"])
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"])
NOISE = st.sampled_from(
    ["", " ", "\t ", "#", " # 1 2", "#1 2", "\x0b", "\x0c", "\x1c", "\xa0", "\u2003", "\u2003#x"]
)
TAILS = st.sampled_from(["", "", "", " ", "\t", "#", " # c", "#c 1"])


@st.composite
def files(draw: st.DrawFn, gaps: tuple[str, ...]) -> str:
    """Draw a text of mostly equal rows with all that may lie between them."""
    columns = draw(st.integers(1, 3))
    lines = []
    for _ in range(draw(st.integers(0, 8))):
        if draw(st.integers(0, 4)) == 0:
            lines.append(draw(NOISE))
            continue
        ragged = draw(st.integers(0, 30)) == 0
        row = draw(st.lists(FIELDS, min_size=columns + ragged, max_size=columns + ragged))
        lead = draw(st.sampled_from(["", "", "", "  ", "\t"])) if gaps != (",",) else ""
        lines.append(lead + draw(st.sampled_from(gaps)).join(row) + draw(TAILS))
    body = "".join(line + draw(ENDS) for line in lines)
    return body if draw(st.booleans()) else body.removesuffix("\n")


SLICES = st.builds(
    slice,
    st.none() | st.integers(-9, 9),
    st.none() | st.integers(-9, 9),
    st.sampled_from([None, 1, 2, 3, -1, -2]),
).filter(lambda rows: Source.of("x", rows=rows).rows is not None)  # a[:] is a, also if 0-d
WISHES = st.fixed_dictionaries(
    {},
    optional={
        "skiprows": st.integers(0, 4),
        "max_rows": st.integers(0, 6),
        "ndmin": st.integers(0, 2),
        "unpack": st.booleans(),
        "usecols": st.sampled_from([0, (1,), (0, 1), (-1, 0), (2, 2)]),
        "dtype": st.sampled_from(["f8", "f4", "U3", "S2", "c16", "i4,f8", "f8,(2,)f4", "i4,"]),
        "comments": st.sampled_from([None, "#", "1", "##", ("#", "2")]),
        "encoding": st.sampled_from(["utf-8", "bytes", None]),
        "rows": SLICES,
    },
)


def agrees(path: Path, content: str, wish: dict[str, Any]) -> None:
    """Assert that numpy and we read the same, or both fail, or that it changes a value."""
    path.write_bytes(content.encode())
    if np.dtype(wish.get("dtype", float)).names:
        wish.pop("unpack", None)  # refused: several arrays
    options = {k: v for k, v in wish.items() if k != "rows"}
    whole = outcome(expected, path, **options)
    lost = whole != "failed" and loses(path, **options)
    if (whole == "failed" or lost) and wish.get("rows") is not None:
        return  # other parts of the file need not be looked at
    if lost:
        assert outcome(load, path, **wish) == "failed"
        return
    assert outcome(load, path, **wish) == outcome(expected, path, **wish)


@QUICK
@given(content=files((" ", "\t", "   ", "\xa0")), wish=WISHES)
def test_whitespace_agrees_with_numpy(tmp_path: Path, content: str, wish: dict[str, Any]) -> None:
    """Any mix of blank lines, comments, white space and line ends reads as with np.loadtxt."""
    agrees(tmp_path / "a.txt", content, wish)


@QUICK
@given(content=files((",",)), wish=WISHES)
def test_delimiter_agrees_with_numpy(tmp_path: Path, content: str, wish: dict[str, Any]) -> None:
    """The same holds for a delimiter character, where a line of spaces is a row."""
    agrees(tmp_path / "a.txt", content, {**wish, "delimiter": ","})


@QUICK
@given(
    content=st.text(st.sampled_from('12 ,"\n\r#'), max_size=40),
    wish=st.fixed_dictionaries(
        {"dtype": st.sampled_from(["U4", "S3"]), "delimiter": st.sampled_from([None, ",", " "])},
        optional={"quotechar": st.just('"'), "max_rows": st.integers(0, 4), "rows": SLICES},
    ),
)
def test_soup_agrees_with_numpy(tmp_path: Path, content: str, wish: dict[str, Any]) -> None:
    """Quotes, which may hold line ends, and arbitrary character soup read as with np.loadtxt."""
    agrees(tmp_path / "a.txt", content, wish)


def test_rule_agrees_with_numpy_on_every_first_character(tmp_path: Path) -> None:
    """Whether a line holds a row is decided as numpy does, for every character below U+3100."""
    characters = [chr(c) for c in range(1, 0x3100) if chr(c) not in "\r\n,"]  # NUL is no text
    path = written(tmp_path, "\n".join(f"{c}\n {c}" for c in characters))
    for delimiter in (None, ","):
        same(path, dtype="U2", delimiter=delimiter)


def test_long_indentation(tmp_path: Path) -> None:
    """Lines that begin with more spaces than are looked at together are decided all the same."""
    path = written(tmp_path, " " * 200 + "1 2\n" + " " * 200 + "\n" + " " * 200 + "# 1\n3 4\n")
    same(path)


# --- shapes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ndmin", [0, 1, 2])
@pytest.mark.parametrize("unpack", [False, True])
@pytest.mark.parametrize("content", ["", "#\n", "1\n", "1 2\n", "1\n2\n", "1 2\n3 4\n5 6\n"])
@pytest.mark.parametrize("usecols", [None, 0, (0,), ()])
def test_shapes(tmp_path: Path, ndmin: int, unpack: bool, content: str, usecols: Any) -> None:
    """Squeezing, ndmin, unpack and empty files give numpy's shapes and layout."""
    path = written(tmp_path, content)
    options = {"ndmin": ndmin, "unpack": unpack, "usecols": usecols}
    same(path, **options)
    assert load(path, **options).flags.c_contiguous == expected(path, **options).flags.c_contiguous


@pytest.mark.parametrize("ndmin", [0, 1, 2])
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_structured_shapes(tmp_path: Path, ndmin: int, rows: int) -> None:
    """Records with subarrays and nested records are 1-D, and 0-d for one row."""
    dtype = [("a", "i4"), ("b", "f8", (2,)), ("c", [("d", "S2"), ("e", "U2")])]
    same(written(tmp_path, "1 2 3 ab xy\n" * rows), dtype=dtype, ndmin=ndmin)


def test_one_row_slices_its_columns(tmp_path: Path) -> None:
    """A single row is 1-D as in numpy, so rows= chooses among its columns."""
    same(written(tmp_path, "1 2 3 4\n"), rows=slice(3, 0, -1))


def test_zero_dimensions_have_no_rows(tmp_path: Path) -> None:
    """rows= of a file with a single value is refused."""
    with pytest.raises(SpecMismatch, match="single value"):
        load(written(tmp_path, "1\n"), rows=slice(1, None))


# --- the other ways in ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("rows", [None, slice(5, 30, 3), slice(None, None, -1)])
def test_compressed(tmp_path: Path, suffix: str, rows: slice | None) -> None:
    """A compressed file reads as numpy reads it, as one part."""
    path = written(tmp_path, TABLE, f"a.txt{suffix}")
    same(path, rows=rows, skiprows=3)
    same(path, rows=rows, comments=["#", "@"])
    assert len(text.probe(Source.of(path, format="text")).parts) == 1


@pytest.mark.parametrize("rows", [slice(5, 30, 3), slice(None, None, -1), slice(-2, 7, -5)])
def test_rows_over_many_parts(tmp_path: Path, rows: slice) -> None:
    """rows= reads like a slice of the whole, in either direction, from many parts."""
    path = written(tmp_path, TABLE)
    same(path, rows=rows)
    same(path, rows=slice(None, None, -1), unpack=True)
    assert len(text.probe(Source.of(path, rows=rows)).parts) > 5


@pytest.mark.parametrize("max_rows", range(5))
@pytest.mark.parametrize("block", [16, 1000])
def test_mixed_line_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_rows: int, block: int
) -> None:
    """Offsets stay true where all three line ends are mixed."""
    monkeypatch.setattr(row_scan, "BLOCK_BYTES", block)
    path = written(tmp_path, "\r\n\r\n# x\r1 2\r\n3 4\r\r\n5 6\r\n\n7 8\rrest")
    same(path, max_rows=max_rows)


def test_lone_returns_divide(tmp_path: Path) -> None:
    """A file with no line feed at all still comes in parts."""
    path = written(tmp_path, TABLE.replace("\n", "\r"))
    same(path)
    assert len(text.probe(Source.of(path)).parts) > 5


@pytest.mark.parametrize("block", range(1, 9))
def test_line_end_at_a_block_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """A return and its line feed count as one line end wherever a block ends."""
    monkeypatch.setattr(row_scan, "BLOCK_BYTES", block)
    path = written(tmp_path, "1\r\n22\r\n333\r\n\r\nx\r\n")
    same(path, max_rows=2, skiprows=1)
    assert bad_line(path).details["line"] == 5


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin1", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    """Any encoding reads as with numpy; byte ranges are used only where ASCII is ASCII."""
    path = written(tmp_path, "ä 1\nö\xa0 2\n# ß\nü 3\n".encode(encoding))
    same(path, dtype="U3", encoding=encoding)
    source = Source.of(path, dtype="U3", encoding=encoding)
    assert (RowParser.of(source).rule is not None) == (encoding == "latin1")


def test_max_rows_ends_inside_a_block(tmp_path: Path) -> None:
    """max_rows counts rows, not comments, and what lies behind may be of any kind."""
    path = written(tmp_path, "1\n\n2 # two\n#\n\n3\nnonsense\n")
    same(path, max_rows=3)
    same(path, max_rows=2, comments=["#", "%"])


def test_a_block_reads_few_bytes_for_few_rows(tmp_path: Path) -> None:
    """Parts cover only the blocks in which wanted rows lie."""
    path = written(tmp_path, TABLE)
    parts = text.probe(Source.of(path, rows=slice(20, 22))).parts
    assert sum(part.hint[1] - part.hint[0] for part in parts) < len(TABLE) / 10


def test_wide_rows_are_read_in_small_pieces(tmp_path: Path, monkeypatch: Any) -> None:
    """A dtype much wider than its text makes no large chunks."""
    monkeypatch.setattr(row_scan, "BLOCK_BYTES", 1 << 20)
    monkeypatch.setattr(text, "PART_BYTES", 1 << 20)
    monkeypatch.setattr(text, "PIECE_BYTES", 4096)
    source = Source.of(written(tmp_path, "ab\n" * 1000), dtype="U100")
    plan = text.probe(source)
    sizes = [c.nbytes for part in plan.parts for c in text.fill(source, plan, part)]
    assert sum(sizes) == 400_000
    assert max(sizes) <= 4800
