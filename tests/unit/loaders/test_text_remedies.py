"""The remedy for a bad row is one that helps: each of these is followed, and the file reads."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrayd.errors import ArraydError
from tests.support.text_files import load, tiny, written

__all__ = ["tiny"]

HEADER = "chr pos pct\nchr1 1 0.5\nchr2 2 0.25\n"

FOLLOWED = [
    ("\ufeff1,2\n3,4\n", {"delimiter": ","}, {"encoding": "utf-8-sig"}),
    ("\ufeffa,b\nc,d\n", {"delimiter": ",", "dtype": "U4"}, {"encoding": "utf-8-sig"}),
    ("\ufeffx,y\n1,2\n3,4\n", {"delimiter": ","}, {"encoding": "utf-8-sig", "skiprows": 1}),
    ("1,2\n3,4\n", {}, {"delimiter": ","}),
    ("1;2\n3;4\n", {"delimiter": ","}, {"delimiter": ";"}),
    ("1\t2\n3\t4\n", {"delimiter": ","}, {"delimiter": "\t"}),
    ("1 2\n3 4\n", {"delimiter": "\t"}, {"delimiter": " "}),
    ("a,b\n1,2\n3,4\n", {}, {"delimiter": ",", "skiprows": 1}),
    ("a,1,2\nb,3,4\n", {"dtype": "S5,i4,i4"}, {"delimiter": ","}),
    ('"1","2"\n"3","4"\n', {"delimiter": ","}, {"quotechar": '"'}),
    ('"1","2"\n"3","4"\n', {}, {"delimiter": ",", "quotechar": '"'}),
    ("1,2,\n3,4,\n", {"delimiter": ","}, {"usecols": (0, 1)}),
    ("1,2,\n3,4,\n", {"delimiter": ",", "dtype": "i4,i4"}, {"usecols": (0, 1)}),
    ("5000000000\n1\n", {"dtype": "i4"}, {"dtype": "i8"}),
    ("18446744073709551615\n1\n", {"dtype": "i8"}, {"dtype": "u8"}),
    ("-1\n1\n", {"dtype": "u2"}, {"dtype": "i4"}),
    ("1.0\n1\n", {"dtype": "i4"}, {"dtype": "f8"}),
    ("0x1f\n1\n", {"dtype": "i4"}, {"dtype": "S8"}),
    ("NA\n1\n", {}, {"dtype": "S8"}),
    ("chr1 1 2\nchr2 3 4\n", {}, {"dtype": "S16,i8,i8"}),
    ("chr pos\nchr1 1\nchr2 2\n", {}, {"dtype": "S16,i8", "skiprows": 1}),
    ("# c\nsome words\nx y\n1 2\n3 4\n", {}, {"skiprows": 3}),
    (HEADER, {"dtype": "S5,i4,f4"}, {"skiprows": 1}),
]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("content", "wish", "remedy"), FOLLOWED)
def test_the_remedy_is_told_and_helps(
    tmp_path: Path, content: str, wish: dict[str, Any], remedy: dict[str, Any], suffix: str
) -> None:
    """What the message says to pass is `remedy`, and with it all rows of data are there."""
    path = written(tmp_path, content, f"a.txt{suffix}")
    with pytest.raises(ArraydError) as caught:
        load(path, **{"encoding": "utf-8", **wish})
    for option, value in remedy.items():
        assert f"{option}={value!r}" in str(caught.value)
    if "skiprows" not in remedy:
        assert "skiprows" not in str(caught.value)
    told = set(re.findall(r"(\w+)=", str(caught.value).split(": ", 1)[1]))
    assert told - {"usecols"} <= set(remedy)
    got = load(path, **{"encoding": "utf-8", **wish, **remedy}, ndmin=1)
    rows = content.splitlines()[remedy.get("skiprows", 0) :]
    assert len(got) == len([row for row in rows if not row.startswith("#")])


UNHELPED = [
    ("chr1\t1\tNA\nchr1\t2\t0.5\n", {"dtype": "S5,i4,f4"}, "missing value", "column 3 the type S8"),
    ("chr1\t.\t1\nchr1\t2\t0.5\n", {"dtype": "S5,i4,f4"}, "No int32 can say that", "type S8"),
    ("1,,3\n4,5,6\n", {"delimiter": ","}, "The value is missing", "dtype='S8'"),
    ("1,5;2,5\n3,5;4,5\n", {"delimiter": ";"}, "decimal comma", "dtype='S8'"),
    ("1,5;2,5\n3,5;4,5\n", {}, "line 1", "column 1"),
    ("1'000 2\n3 4\n", {}, "separators of thousands", "dtype='S8'"),
    ("1D5\n1\n", {}, "Fortran's exponent", "dtype='S8'"),
    ("50%\n1\n", {}, "a number with a unit", "dtype='S8'"),
    ("True\nFalse\n", {"dtype": "?"}, "0 and 1 for bool", "dtype='S8'"),
    ("1 x\n2 3\n", {"dtype": "i4,i4"}, "'x' is no int32", "line 1"),
    ("x\ny\n", {"dtype": "i4"}, "'x' is no int32", "line 1"),
    ("a b\n", {"dtype": "i4,i4"}, "'a' is no int32", "line 1"),
    ("1 2 3\n", {"dtype": "i4,i4"}, "3 columns, but the dtype has 2", "3 fields"),
]


@pytest.mark.parametrize(("content", "wish", "cause", "way"), UNHELPED)
def test_no_row_of_data_is_given_up(
    tmp_path: Path, content: str, wish: dict[str, Any], cause: str, way: str
) -> None:
    """Where no option reads the file as asked, cause and value are told, and no skiprows=."""
    with pytest.raises(ArraydError) as caught:
        load(written(tmp_path, content), **wish)
    assert cause in str(caught.value)
    assert way in str(caught.value)
    assert "skiprows" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("NA 1 1", "line 41: column 1: 'NA' is no int32. It stands for a missing value"),
        ("1 NA 1", "Give column 2 the type S8"),
        ("9999999999 1 1", "Give column 1 the type i8"),
        ("1 1e39 1", "Give column 2 the type f8, or pass overflow='clip'"),
        ("1 1 abcd", "Give column 3 the type S4 or longer, or pass overflow='clip'"),
        ("chr pos x", "line 41: column 1: 'chr' is no int32."),
    ],
)
def test_later_rows_are_diagnosed_too(tmp_path: Path, row: str, words: str) -> None:
    """A row behind the first has the same causes and remedies, but is never a header."""
    path = written(tmp_path, "1 2 abc\n" * 40 + row + "\n" + "1 2 abc\n" * 5)
    with pytest.raises(ArraydError) as caught:
        load(path, dtype="i4,f4,S3")
    assert words in str(caught.value)
    assert caught.value.details["line"] == 41
    assert "skiprows" not in str(caught.value)


PAGE = "\n<!DOCTYPE html>\n<html><head>\n<title>404 Not Found</title>\n"
NO_TABLES = [
    (PAGE, "a web page (HTML)", "get the file anew"),
    ("<HTML>\n<body>Please log in</body>\n", "a web page (HTML)", "get the file anew"),
    ("\ufeff<?xml version='1.0'?>\n<rows><row>1</row></rows>\n", "XML", "arrayd.put"),
    ('{"a": [1, 2],\n "b": 3}\n', "JSON", "json.load"),
    ('[\n  {"a": 1},\n  {"a": 2}\n]\n', "JSON", "json.load"),
    ("[[1, 2],\n [3, 4]]\n", "JSON", "json.load"),
]


@pytest.mark.parametrize("wish", [{}, {"dtype": "S9,i4"}, {"delimiter": ","}])
@pytest.mark.parametrize(("content", "kind", "way"), NO_TABLES, ids=range(len(NO_TABLES)))
def test_text_that_is_no_table(
    tmp_path: Path, content: str, kind: str, way: str, wish: dict[str, Any]
) -> None:
    """A web page, XML or JSON is named; no dtype is offered to read it with."""
    with pytest.raises(ArraydError) as caught:
        load(written(tmp_path, content), encoding="utf-8", **wish)
    assert f"it is no table, but {kind}" in str(caught.value)
    assert way in str(caught.value)
    assert "dtype=" not in str(caught.value)


@pytest.mark.parametrize("text", ["<NA> 1\n", "[1 2]\n", "{x} 1\n", "<5 1\n"])
def test_brackets_are_no_markup(tmp_path: Path, text: str) -> None:
    """A value in brackets is a value that does not read."""
    with pytest.raises(ArraydError) as caught:
        load(written(tmp_path, text))
    assert "it is no table" not in str(caught.value)


def test_blanks_of_a_text_count(tmp_path: Path) -> None:
    """Where blanks delimit nothing they are part of the value, which is told with them."""
    path = written(tmp_path, "ab \nabc \n")
    with pytest.raises(ArraydError) as caught:
        load(path, dtype="S3", delimiter=",")
    assert "line 2: column 1: 'abc ' does not fit S3" in str(caught.value)
    assert "Pass dtype='S4'" in str(caught.value)
    assert load(path, dtype="S4", delimiter=",").tolist() == [b"ab ", b"abc "]


BINARY = [
    (b"\x6c\x1b\x01" + bytes(range(60)), "PLINK", "arrayd.put"),
    (np.arange(50, dtype="i2").tobytes(), "binary file", "format='raw'"),
    (b"\x5c\x01\0\0" + bytes(300), "NIfTI", "nibabel"),
    ("1,2\n3,4\n".encode("utf-16"), "utf-16", "encoding='utf-16'"),
    (gzip.compress(b"1 2\n"), "compressed by gzip", "gunzip"),
    ("Müller 1\n".encode("latin1"), "0xfc is no utf-8", "encoding='latin1'"),
    ("“a” 1\n".encode("cp1252"), "0x93 is no utf-8", "encoding='cp1252'"),
]


@pytest.mark.parametrize(("data", "cause", "way"), BINARY, ids=range(len(BINARY)))
def test_no_text_is_named(tmp_path: Path, data: bytes, cause: str, way: str) -> None:
    """A file that is no text, or of another encoding, is told as that."""
    with pytest.raises(ArraydError) as caught:
        load(written(tmp_path, data), encoding="utf-8", dtype="U9,i4")
    assert cause in str(caught.value)
    assert way in str(caught.value)
    assert "skiprows" not in str(caught.value)
