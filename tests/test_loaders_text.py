"""Text is what `numpy.loadtxt` makes of it, whatever the way it is read."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arrayd.errors import (
    AccessDenied,
    ArraydError,
    BadFile,
    SourceChanged,
    SourceNotFound,
    SpecMismatch,
)
from arrayd.source import Source
from arrayd_server.loaders import text, text_scan
from arrayd_server.loaders.base import Plan
from arrayd_server.loaders.text_reader import Reader

METHYLATION = Path(__file__).parents[2] / "shared" / "data" / "methylation"
RECORD = np.dtype([("chr", "S10"), ("pos", "<i4"), ("pct", "<f4"), ("c", "<i4"), ("t", "<i4")])
QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make many blocks, parts and pieces of small files."""
    monkeypatch.setattr(text_scan, "BLOCK_BYTES", 16)
    monkeypatch.setattr(text, "PART_BYTES", 40)
    monkeypatch.setattr(text, "PIECE_BYTES", 12)
    monkeypatch.setattr(text, "_STEP", 3)


def read(source: Source, plan: Plan) -> Array:
    """Fill every part of `plan`, as the engine does."""
    storage = np.zeros(plan.storage_shape, plan.dtype)
    end = 0
    for part in plan.parts:
        assert part.start == end
        for chunk in text.fill(source, plan, part):
            storage[end : end + len(chunk)] = chunk
            end += len(chunk)
        assert part.stop == end
    assert not storage.size or end == len(storage)
    return storage.reshape(plan.shape) if plan.order == "C" else storage.T


def load(path: Path, **wish: Any) -> Array:
    """Load `path` through probe and fill."""
    source = Source.of(path, format="text", **wish)
    return read(source, text.probe(source))


def expected(path: Path, rows: slice | None = None, **options: Any) -> Array:
    """Return what `numpy.loadtxt` makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array: Array = np.loadtxt(path, **options)
    return array if rows is None else array[rows]


def outcome(function: Any, *args: Any, **options: Any) -> Any:
    """Return the array as comparable data, or that it failed for a reason of the file."""
    try:
        array = function(*args, **options)
    except (ArraydError, ValueError, TypeError, IndexError):
        return "failed"
    return array.shape, array.dtype, array.tobytes()


def same(path: Path, **wish: Any) -> None:
    """Assert that we read exactly what numpy reads."""
    got, want = load(path, **wish), expected(path, **wish)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_array_equal(got, want)


def written(tmp_path: Path, content: str | bytes, name: str = "a.txt") -> Path:
    """Write `content` without translating line ends; by suffix also compressed."""
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    path = tmp_path / name
    with openers.get(path.suffix, open)(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path


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
    monkeypatch.setattr(text_scan, "BLOCK_BYTES", 1000)
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
    """Assert that numpy and we read the same, or that both fail."""
    path.write_bytes(content.encode())
    if np.dtype(wish.get("dtype", float)).names:
        wish.pop("unpack", None)  # refused: several arrays
    options = {k: v for k, v in wish.items() if k != "rows"}
    whole = outcome(expected, path, **options)
    if whole == "failed" and wish.get("rows") is not None:
        return  # other parts of the file need not be looked at
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
    characters = [chr(c) for c in range(0x3100) if chr(c) not in "\r\n,"]
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
    same(written(tmp_path, "1 2 3 abc xyz\n" * rows), dtype=dtype, ndmin=ndmin)


def test_one_row_slices_its_columns(tmp_path: Path) -> None:
    """A single row is 1-D as in numpy, so rows= chooses among its columns."""
    same(written(tmp_path, "1 2 3 4\n"), rows=slice(3, 0, -1))


def test_zero_dimensions_have_no_rows(tmp_path: Path) -> None:
    """rows= of a file with a single value is refused."""
    with pytest.raises(SpecMismatch, match="single value"):
        load(written(tmp_path, "1\n"), rows=slice(1, None))


# --- the other ways in ----------------------------------------------------------------------

TABLE = "".join(f"{i} {i * 0.5}  # row {i}\n" for i in range(40))


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
    monkeypatch.setattr(text_scan, "BLOCK_BYTES", block)
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
    monkeypatch.setattr(text_scan, "BLOCK_BYTES", block)
    path = written(tmp_path, "1\r\n22\r\n333\r\n\r\nx\r\n")
    same(path, max_rows=2, skiprows=1)
    assert bad_line(path).details["line"] == 5


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin1", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    """Any encoding reads as with numpy; byte ranges are used only where ASCII is ASCII."""
    path = written(tmp_path, "ä 1\nö\xa0 2\n# ß\nü 3\n".encode(encoding))
    same(path, dtype="U3", encoding=encoding)
    source = Source.of(path, dtype="U3", encoding=encoding)
    assert (Reader.of(source).rule is not None) == (encoding == "latin1")


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
    monkeypatch.setattr(text_scan, "BLOCK_BYTES", 1 << 20)
    monkeypatch.setattr(text, "PART_BYTES", 1 << 20)
    monkeypatch.setattr(text, "PIECE_BYTES", 4096)
    source = Source.of(written(tmp_path, "ab\n" * 1000), dtype="U100")
    plan = text.probe(source)
    sizes = [c.nbytes for part in plan.parts for c in text.fill(source, plan, part)]
    assert sum(sizes) == 400_000
    assert max(sizes) <= 4800


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


def bad_line(path: Path, **wish: Any) -> BadFile:
    """Return the error of reading `path`."""
    with pytest.raises(BadFile) as caught:
        load(path, **wish)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return caught.value


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
    monkeypatch.setattr(text_scan, "LINE_BYTES", 1000)
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
