"""What the compiled parser of plain rows reads is what numpy reads; the rest it gives up."""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrayd.common.casts.changes import values_in
from arrayd.source import Source
from arrayd_server.loaders.text import plain_rows
from arrayd_server.loaders.text.parser import RowParser
from arrayd_server.loaders.text.row_scan import Rule, text_lines
from tests.support.plain_rows import MANY, compiled, equal, functions
from tests.support.text_files import Array

__all__ = ["compiled", "functions"]


def request(dtype: Any, columns: int = 1, **wish: Any) -> tuple[RowParser, plain_rows.PlainRows]:
    """Return numpy's way and the compiled one for the same request."""
    parser = RowParser.of(Source.of("a.txt", dtype=dtype, format="text", **wish))
    plain = parser.plain_rows(columns)
    assert plain is not None
    return parser, plain


def numpys(parser: RowParser, piece: bytes, columns: int) -> Array:
    """Return what numpy and the checks of `exact` make of the same text."""
    return parser.parse(text_lines(piece.decode(parser.encoding)), columns)


# --- any text: the compiled parser gives up, or agrees ----------------------------------------

INTEGERS = st.one_of(
    st.integers(-300, 300),
    st.integers(-(2**70), 2**70),
    st.builds(lambda bits, more: 2**bits + more, st.integers(0, 65), st.integers(-2, 2)),
)
NUMBERS = st.one_of(
    INTEGERS.map(str),
    st.floats().map(repr),
    st.floats(width=32).map(lambda x: f"{x:.7g}"),
    st.floats().map("{:.18e}".format),
    st.from_regex(r"[+-]?[0-9]{0,25}\.?[0-9]{0,25}([eE][+-]?[0-9]{1,5})?", fullmatch=True),
    st.sampled_from(["nan", "NaN", "-nan", "+nan", "inf", "-Inf", "+INFINITY", "infinit", "nani"]),
    st.sampled_from(["1e400", "-1e400", "3.5e38", "1e-400", "4.9e-324", "16777217", "16777217."]),
    st.sampled_from(["0x10", "1_0", "1e", "1e+", ".", "-", "+", "", "--1", "1.2.3", "1d3", "١"]),
)
WORDS = st.text(st.sampled_from("abc XYZ09.#'\"é\0\x7f\x0b"), max_size=5)
PLAIN = st.integers(-9, 120).map(str) | st.sampled_from(["0.5", "-1e3", "nan", "ab", "7"])
GAPS = st.sampled_from(
    [" ", "\t", " ", "\t", ",", ",", ",", "  ", ", ", " ,", "\t\t", "\x1c", "\xa0"]
)
ENDS = st.sampled_from(["\n", "\n", "\n", "\n", "\r\n", "\r", "\n\n", " \n", "\t\n", ",\n", "#\n"])
DTYPES = st.sampled_from(
    [
        *("f8", "f4", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "S3", "U3"),
        *("S3,f8", "i4,f4,S2", "(2,)i2,U2", "f4,u8"),
    ]
)


@st.composite
def pieces(draw: st.DrawFn) -> tuple[bytes, int]:
    """Draw some text that is nearly a table, and its columns."""
    columns, gap = draw(st.integers(1, 3)), draw(GAPS)
    end = draw(st.sampled_from(["\n", "\n", "\r\n"]) | ENDS)
    odd = st.integers(0, 30).map(lambda n: n == 0)
    field = draw(
        st.sampled_from([NUMBERS, INTEGERS.map(str), WORDS, PLAIN, PLAIN, PLAIN | NUMBERS])
    )
    found = ""
    for _ in range(draw(st.integers(1, 4))):
        width = columns + draw(odd) - draw(odd)
        found += (draw(GAPS) if draw(odd) else gap).join(draw(field) for _ in range(width))
        found += draw(ENDS) if draw(odd) else end
    return (found if draw(st.booleans()) else found.rstrip("\n")).encode(), columns


@MANY
@given(
    drawn=pieces(),
    dtype=DTYPES,
    wish=st.fixed_dictionaries(
        {"delimiter": st.sampled_from([None, None, ",", "\t", " "])},
        optional={
            "comments": st.sampled_from(["#", "%", None]),
            "usecols": st.sampled_from([(0,), (1,), (1, 0), (0, 2)]),
            "overflow": st.sampled_from(["error", "clip", "inf"]),
        },
    ),
)
def test_it_agrees_or_gives_up(drawn: tuple[bytes, int], dtype: str, wish: dict[str, Any]) -> None:
    """Whatever the text: rows that it returns are those of numpy, in which nothing was lost."""
    piece, columns = drawn
    chosen = np.dtype(dtype)
    if "usecols" in wish:
        columns = len(wish["usecols"])
    if chosen.names and "usecols" in wish and values_in(chosen) != columns:
        wish.pop("usecols")
    parser, plain = request(dtype, columns, **wish)
    got = plain.parse(piece)
    if got is None:
        return
    want = numpys(parser, piece, columns)
    assert len(got) == len(want)
    if len(got):
        equal(got, want)


@MANY
@given(
    block=st.text(st.sampled_from("12 \t\n\n\n\r#\x0b\xa0é"), max_size=600), spaced=st.booleans()
)
def test_rows_are_counted_or_not(block: str, spaced: bool) -> None:
    """The quick count is that of numpy's rule, or says that it does not know."""
    for comment in ("#", ""):
        count = plain_rows.count_rows(block.encode(), comment)
        if count is not None:
            assert count == Rule(comment, spaced, "utf-8").data_lines(block.encode()).size


def test_long_texts_are_counted() -> None:
    """Line ends are summed by the 255: more do not fit the byte that counts them."""
    for lines in (254, 255, 256, 511, 100_000):
        assert plain_rows.count_rows(b"1\n" * lines, "#") == lines
        assert plain_rows.count_rows(b"1\n" * lines + b"1", "#") == lines + 1
        assert plain_rows.count_rows(b"1\n" * lines + b"\n", "#") is None


# --- plain text: the compiled parser reads it -------------------------------------------------


@MANY
@given(
    values=st.lists(st.floats(-1.79e308, 1.79e308), min_size=1, max_size=6),
    form=st.sampled_from(["r", ".18e", ".17g", ".6f", "+.3e", ".25g"]),
)
def test_it_reads_every_float(values: list[float], form: str) -> None:
    """Numbers as repr, np.savetxt and printf write them are read, and correctly rounded."""
    texts = [repr(v) if form == "r" else format(v, form) for v in values]
    texts = [t if len(t) < 80 and ("." in t or "e" in t) else "-1.5" for t in texts]
    got = request("f8")[1].parse("\n".join(texts).encode())
    assert got is not None
    assert got[:, 0].tobytes() == np.array([float(t) for t in texts]).tobytes()


@MANY
@given(
    bits=st.integers(0, 2**63 - 2**52 - 2),
    digits=st.integers(1, 19),
    nudge=st.sampled_from([-1, 0, 0, 1]),
)
def test_it_rounds_halves_to_even(bits: int, digits: int, nudge: int) -> None:
    """The hardest numbers lie half-way between two doubles, or as close as so many digits get."""
    low, high = struct.unpack("<2d", struct.pack("<2q", bits, bits + 1))
    half = (Decimal(low) + Decimal(high)) / 2
    _sign, all_digits, exponent = half.as_tuple()
    assert isinstance(exponent, int)
    short = int("".join(map(str, all_digits[:digits])))
    words = f"{short + nudge}e{exponent + len(all_digits) - len(all_digits[:digits])}"
    got = request("f8")[1].parse(words.encode())
    assert (got is None) == np.isinf(float(words))
    assert got is None or got[0, 0] == float(words)


@MANY
@given(
    digits=st.integers(2**53, 10**19 - 1),
    power=st.integers(-30, 30),
    form=st.sampled_from(["f4", "f8"]),
)
def test_it_rounds_19_digits(digits: int, power: int, form: str) -> None:
    """More digits than a double holds, by powers of ten about where the ways to round change."""
    words = f"{digits}e{power if form == 'f8' else min(power, 19)}"
    got = request(form)[1].parse(words.encode())
    assert got is not None
    assert got[0, 0] == np.float64(float(words)).astype(form)


def halves() -> Iterator[str]:
    """Yield integers and fractions with few digits that lie exactly between two doubles."""
    for more in range(1, 2000, 2):
        yield f"{2**53 + more}.0"
        yield f"{2**54 + 2 * more}.0"
        yield f"{(2**53 + more) * 5**4}e-4"  # a power of two times the same
        yield f"{(2**53 + more) * 2}e0"


def test_it_rounds_exact_halves() -> None:
    """Ties go to the even double, on both sides of it."""
    texts = list(halves())
    got = request("f8")[1].parse("\n".join(texts).encode())
    assert got is not None
    assert got[:, 0].tolist() == [float(t) for t in texts]


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"])
def test_it_reads_integers_to_their_limits(dtype: str) -> None:
    """The first and the last value are read, the ones beyond are left to numpy and its error."""
    kind = np.dtype(dtype)
    low, high = (0, 1) if dtype == "?" else (np.iinfo(kind).min, np.iinfo(kind).max)
    for words in (f"{low} +{high}", f"{low:06d} {high:025d}"[: 7 + 20]):
        got = request(dtype, 2)[1].parse(f" {words}\t\n".encode())
        if got is not None:
            assert got.tolist() == [[int(w) for w in words.split()]]
    got = request(dtype, 2)[1].parse(f"{low} +{high}\n".encode())
    assert got is not None
    assert got.tolist() == [[low, high]]
    beyond = (low - 1, high + 1, high + 2**64, 10**20, 2**64, 18446744073709551616)
    assert [request(dtype)[1].parse(f"{value}\n".encode()) for value in beyond] == [None] * 6


def test_it_reads_records(tmp_path: Path) -> None:
    """Nested, with subarrays and with padding, which is zero."""
    inner = [("d", "S2"), ("e", "U2")]
    dtype = np.dtype([("a", "i1"), ("b", "f8", (2,)), ("c", inner, (2,))], align=True)
    assert dtype.itemsize > values_in(dtype)
    piece = b"1 2 3 ab xy c d\n\n  -4 5e-3 nan a b c d  \r\n"
    parser, plain = request(dtype)
    got = plain.parse(piece)
    assert got is not None
    assert not np.isnan(got["b"][0]).any()
    equal(got, numpys(parser, piece, 7))


def test_it_chooses_columns() -> None:
    """usecols= in any order; what is behind the last of them need not be a table."""
    _, plain = request("f8", 2, usecols=(2, 0), delimiter=",")
    got = plain.parse(b"1,x y, 3 ,,,\n4,,6\n")
    assert got is not None
    assert got.tolist() == [[3, 1], [6, 4]]
    assert plain.parse(b"1,x\n") is None
    assert plain.parse(b"1,\xe9,3\n") is None
    assert plain.parse(b"1,2,3,#\n") is None


@pytest.mark.parametrize(
    ("dtype", "wish"),
    [
        *[(kind, {}) for kind in (">f8", "f2", "c16", "M8[s]", "m8[s]", "longdouble", "i4,>i4")],
        *[("f8", {"delimiter": d}) for d in (".", "5", "\x1f", "é")],
        *[("f8", {"comments": c}) for c in ("1", "-", ["#", "%"], "//", "é")],
        *[("f8", {"usecols": u}) for u in ((-1,), (0, 0), (), (20_000,))],
        ("f8", {"quotechar": '"'}),
        ("f8", {"encoding": "utf-16"}),
    ],
)
def test_what_is_not_plain_does_not_come(dtype: str, wish: dict[str, Any]) -> None:
    """Such requests are numpy's altogether."""
    parser = RowParser.of(Source.of("a.txt", dtype=dtype, format="text", **wish))
    assert parser.plain_rows(1) is None


# --- memory -----------------------------------------------------------------------------------


class Guarded:
    """A page of memory with one behind it that nobody may touch.

    Reading or writing past the end kills the process that runs the tests, which is seen.
    """

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 2 * mmap.PAGESIZE)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        code = ctypes.CDLL(None).mprotect(
            ctypes.c_void_p(self._start + mmap.PAGESIZE), ctypes.c_size_t(mmap.PAGESIZE), 0
        )
        assert code == 0

    def last(self, size: int) -> int:
        """Return the address of the last `size` bytes that may be touched."""
        return self._start + mmap.PAGESIZE - size


@pytest.fixture(scope="module")
def room() -> tuple[Guarded, Guarded]:
    """Return such memory for the text, and for the rows."""
    return Guarded(), Guarded()


@MANY
@given(
    piece=st.binary(min_size=1, max_size=60)
    | st.text(st.sampled_from("12.e-+ \t,\n\rnaif#\0"), min_size=1, max_size=60).map(str.encode),
    dtype=DTYPES,
    rows=st.integers(0, 5),
    separator=st.sampled_from([-1, ord(","), ord("\t")]),
    ends=st.booleans(),
)
def test_it_stays_within_its_memory(
    functions: ctypes.CDLL,
    room: tuple[Guarded, Guarded],
    piece: bytes,
    dtype: str,
    rows: int,
    separator: int,
    ends: bool,
) -> None:
    """No byte behind the text is read, and none behind the rows is written, whatever comes."""
    piece += b"\n" if ends else b""
    _, plain = request(dtype)
    size, source, target = np.dtype(dtype).itemsize, room[0].last(len(piece)), room[1].last(0)
    ctypes.memmove(source, piece, len(piece))
    words = ctypes.cast(source, ctypes.c_char_p)
    odd = ctypes.c_int32()
    assert functions.arrayd_line_ends(
        words, len(piece), ord("#"), ctypes.addressof(odd)
    ) == piece.count(b"\n")
    found = functions.arrayd_plain_rows(
        *(words, len(piece), separator, ord("#"), plain.columns.ctypes.data),
        *(len(plain.columns), False, target - rows * size, rows, size),
    )
    assert -1 <= found <= rows
