"""A text is read as it says, or not at all: nothing is cut, rounded or moved without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrayd.errors import ArraydError, CastError
from arrayd.source import Source
from arrayd_server.loaders.text import loader as text
from tests.support.text_files import load, same, tiny, written

__all__ = ["tiny"]

LOSSES = [
    ("i4,S10", "1 Scaffold10080\n2 Scaffold100805\n", "column 2: 'Scaffold10080' does not fit S10"),
    ("S3", "abc\nabcd\n", "line 2: column 1: 'abcd' does not fit S3, which would cut it"),
    ("U3", "abc\nabcd\n", "Pass dtype='U4' or longer"),
    (">U3", "abc\nabcd\n", "'abcd' does not fit >U3"),
    ("S3", "ab\né\n", "is not ASCII"),
    ("f8", "1\n1e400\n", "'1e400' does not fit float64"),
    ("f4", "1\n1e39\n", "Pass dtype='f8'"),
    ("f2", "1\n70000\n", "'70000' does not fit float16 (up to 65504.0)"),
    ("c8", "1\n1e39+1j\n", "'1e39+1j' does not fit complex64"),
    ("f4", "1\n16777217\n", "is an integer that float32 holds as 16777216. Pass dtype='i4'"),
    ("f8", "1\n9007199254740993\n", "holds as 9007199254740992. Pass dtype='i8'"),
    ("?", "1\n2\n", "'2' is no bool (0 or 1). Pass dtype='i4'"),
    ("u4", "1\n-1\n", "'-1' is no uint32. It does not fit uint32. Pass dtype='i4'"),
    ("i4", "1\n1.5\n", "'1.5' is no int32. It is no integer. Pass dtype='f8'"),
    ("i1", "1\n300\n", "'300' is no int8. It does not fit int8. Pass dtype='i4'"),
    ("M8[s]", "2020-01-01\n2020-01-01T00:00+02:00\n", "has a time zone"),
    ("M8[s]", "2020-01-01\n2020-01-01T00:00:00.123\n", "Pass dtype='M8[ms]'"),
    ("M8[ns]", "2020-01-01\n3000-01-01\n", "'3000-01-01' does not fit datetime64[ns]"),
    ("M8[D]", "2020-01-01\n20200131\n", "is the year 20200131 to numpy; a date is written 20"),
    ("u8", "1\n18446744073709551616\n", "It does not fit uint64. Pass dtype='f8'"),
    ("M8[s]", "2020-01-01\nnow\n", "'now' is no datetime64[s]"),
    ("m8[s]", "1\n99999999999999999999\n", "does not fit timedelta64[s]"),
    ("m8[s]", "1\n-99999999999999999999\n", "does not fit timedelta64[s]"),
    ([("a", "i4"), ("b", [("c", "S2"), ("d", "(2,)f4")])], "1 ab 1 1e39\n", "column 4: '1e39'"),
]


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize(("dtype", "content", "words"), LOSSES)
def test_a_value_that_would_change_is_an_error(
    tmp_path: Path, dtype: Any, content: str, words: str, quoted: bool
) -> None:
    """Line, column and value are named, on either way of reading, and the type that holds it."""
    path = written(tmp_path, content)
    options = {"quotechar": '"'} if quoted else {}
    with pytest.raises(ArraydError) as caught:
        load(path, dtype=np.dtype(dtype), encoding="utf-8", **options)
    assert words in str(caught.value)
    assert f"line {caught.value.details['line']}: column" in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "content"),
    [
        ("S3", "abc\nab\n\n"),
        ("U2", "é€\nx\n"),
        ("f4", "inf\n-Infinity\nnan\n0.1\n16777217.5\n3.4028235e38\n33554432\n1.6777217e7\n"),
        ("f8", "1e308\n-inf\n0.1\n9007199254740992\n100000000000000000000\n1e-400\n"),
        ("c16", "1+2j\ninf+1j\n(1-nanj)\n"),
        ("?", "1\n0\n"),
        ("M8[s]", "2020-01-01\n2020-01-01T10:11:12\nNaT\n1600-02-03T04:05\n"),
        ("M8[ms]", "2020-01-01T10:11:12.123\n2020\n"),
        ("M8[D]", "12020-01-01\n+12020\n-12020\n"),
        ("m8[s]", "1\n-5\nNaT\n9223372036854775807\n"),
        (">i4", "1\n-5\n"),
        ("i4,S3,?,f4", "1 abc 0 1.5\n2 x 1 inf\n"),
    ],
)
def test_what_fits_is_what_numpy_reads(tmp_path: Path, dtype: str, content: str) -> None:
    """Nothing is refused that is not changed, and the bytes are numpy's."""
    same(written(tmp_path, content), dtype=dtype, encoding="utf-8")


@pytest.mark.parametrize("zone", ["Z", "+00:00", "-0000"])
def test_universal_time_is_no_change(tmp_path: Path, zone: str) -> None:
    """A date that says that it is in UTC is taken: all of datetime64 is."""
    got = load(written(tmp_path, f"2020-01-01T10:00:00{zone}\n"), dtype="M8[s]", ndmin=1)
    assert got.tolist() == [np.datetime64("2020-01-01T10:00:00").item()]


@pytest.mark.parametrize(
    ("dtype", "content", "values"),
    [
        ("S3", "abcd\nab\n", [b"abc", b"ab"]),
        ("U1", "é€\n", ["é"]),
        ("f8", "1e400\n-1e400\ninf\n", [np.finfo("f8").max, np.finfo("f8").min, np.inf]),
        ("f4", "16777217\n", [16777216]),
        ("i1", "300\n-300\n5\n", [127, -128, 5]),
        ("u8", "-1\n99999999999999999999\n", [0, 2**64 - 1]),
        ("?", "7\n-1\n1\n", [True, False, True]),
        ("m8[s]", "99999999999999999999\n", [np.timedelta64(2**63 - 1, "s").item()]),
    ],
)
def test_clip_takes_the_nearest(
    tmp_path: Path, dtype: str, content: str, values: list[Any]
) -> None:
    """``overflow="clip"`` is how one asks for what does not fit."""
    got = load(written(tmp_path, content), dtype=dtype, overflow="clip", ndmin=1, encoding="utf-8")
    assert got.tolist() == np.array(values, dtype).tolist()


def test_clip_makes_no_number_of_words(tmp_path: Path) -> None:
    """What is no integer at all is an error even then."""
    with pytest.raises(ArraydError, match="'x' is no int32"):
        load(written(tmp_path, "1\nx\n"), dtype="i4", overflow="clip")


def test_inf_is_what_loadtxt_reads(tmp_path: Path) -> None:
    """With ``overflow="inf"`` a number beyond a float type is infinity; all else is as ever."""
    path = written(tmp_path, "1e400\n-1e400\n0.5\n")
    got = load(path, dtype="f8", overflow="inf")
    assert got.tolist() == [float("inf"), float("-inf"), 0.5]
    with pytest.raises(CastError, match="16777217"):
        load(written(tmp_path, "16777217\n"), dtype="f4", overflow="inf")


def test_latin1_bytes_are_the_files(tmp_path: Path) -> None:
    """In an encoding of one byte per character, S holds the bytes of the file."""
    path = written(tmp_path, b"M\xfcller\n")
    assert load(path, dtype="S6", encoding="latin1", ndmin=1).tolist() == [b"M\xfcller"]


def test_nul_in_a_text_is_refused(tmp_path: Path) -> None:
    """S and U end with their last character that is no NUL: a NUL in the text would be lost."""
    with pytest.raises(ArraydError, match="line 2"):
        load(written(tmp_path, b"ab\ncd\0\n"), dtype="S3")


def test_a_clipped_load_is_another_block() -> None:
    """The key of a block says whether its text was clipped."""
    from arrayd_server import identity
    from arrayd_server.loading.messages import FoundFile

    state = ("/a.txt", 1, 2, 3, 4, 5)
    found = FoundFile((1,), "<i4", "<i4", 4, "C", "C", 1, (), (), None, state, False, "text")
    keys = {
        identity.key(Source.of("/a.txt", dtype="i4", overflow=how), found)
        for how in ("error", "clip")
    }
    assert len(keys) == 2


def test_probe_refuses_the_first_row(tmp_path: Path) -> None:
    """Nothing is scanned or reserved for a file whose first row does not fit."""
    with pytest.raises(CastError, match="line 1"):
        text.probe(Source.of(written(tmp_path, "abcd\n"), dtype="S3"))
