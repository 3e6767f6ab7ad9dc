"""Casts against Python's own exact arithmetic."""

from __future__ import annotations

import math
from datetime import date
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrayd.common.casts.cast import cast_chunk, check_cast
from arrayd.errors import CastError, SpecMismatch

INTEGERS = ["?", "i1", "u1", "<i2", ">u2", "i4", "u4", "i8", "u8"]
FLOATS = ["f2", "<f4", ">f4", "f8", "g"]


def numbers(kinds: list[str]) -> Any:
    """Return a strategy for (array, target): values near the edges of either dtype."""

    @st.composite
    def arrays(draw: Any) -> tuple[np.ndarray[Any, Any], np.dtype[Any]]:
        origin, target = (
            np.dtype(draw(st.sampled_from(kinds))),
            np.dtype(draw(st.sampled_from(INTEGERS + FLOATS))),
        )
        values = draw(st.lists(value(origin), min_size=1, max_size=6))
        return np.array(values, origin), target

    return arrays()


def value(dtype: np.dtype[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for values of `dtype`, the edges of all dtypes among them."""
    edges = [sign * 2**n + d for n in range(65) for d in (-1, 0, 1) for sign in (1, -1)]
    if dtype.kind == "f":
        near = st.sampled_from(edges).map(float) | st.sampled_from(
            [65504.0, 65520.0, 3.4e38, 3.5e38]
        )
        wild = st.floats(width=64) | st.sampled_from(
            [math.nan, math.inf, -math.inf, -0.99, 0.5, 5e-324]
        )
        with_edges = near | wild
        return with_edges.filter(lambda v: dtype.itemsize > 4 or not 6e4 <= abs(v) < math.inf)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return st.sampled_from([e for e in edges if low <= e <= high]) | st.integers(low, high)


def exact(value: Any) -> Fraction | float:
    """Return a number exactly; inf and nan as floats."""
    if isinstance(value, np.longdouble):
        head = float(value)
        return Fraction(head) + Fraction(float(value - head)) if math.isfinite(head) else head
    plain = value.item()
    return Fraction(plain) if math.isfinite(plain) else plain


def limits(dtype: np.dtype[Any]) -> tuple[Fraction | float, Fraction | float]:
    """Return the least and the greatest finite value of `dtype`."""
    if dtype.kind == "b":
        return Fraction(0), Fraction(1)
    if dtype.kind == "f":
        return exact(np.finfo(dtype).min), exact(np.finfo(dtype).max)
    return Fraction(int(np.iinfo(dtype).min)), Fraction(int(np.iinfo(dtype).max))


def fits(number: Fraction | float, dtype: np.dtype[Any]) -> bool:
    """Whether `dtype` has a neighbour of `number` that is no farther than rounding."""
    if dtype.kind == "f":
        if isinstance(number, float):
            return True
        with np.errstate(over="ignore"):
            return dtype.itemsize > 8 or bool(np.isfinite(np.float64(number).astype(dtype)))
    if isinstance(number, float):
        return False
    low, high = limits(dtype)
    return low <= int(number) <= high


@settings(max_examples=250, deadline=None)
@given(numbers(INTEGERS + FLOATS))
def test_every_number_fits_or_is_refused(
    case: tuple[np.ndarray[Any, Any], np.dtype[Any]],
) -> None:
    """A cast succeeds exactly if each value fits, and counts exactly the values that differ."""
    values, target = case
    before = [exact(v) for v in values]
    if not all(fits(number, target) for number in before):
        with pytest.raises(CastError) as caught:
            cast_chunk(values, target, "error")
        first = next(i for i, number in enumerate(before) if not fits(number, target))
        assert caught.value.details["at"] == first or math.isnan(
            float(before[caught.value.details["at"]])
        )
        return
    result, changed = cast_chunk(values, target, "error")
    after = [exact(v) for v in result]
    assert result.dtype == target
    pairs = list(zip(before, after, strict=True))
    assert changed == sum(a != b for a, b in pairs if not math.isnan(a))
    if target.kind != "f":
        assert all(int(a) == b for a, b in pairs)
    else:
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(result, values.astype(target))


@settings(max_examples=250, deadline=None)
@given(numbers(INTEGERS + FLOATS))
def test_clip_gives_the_nearest(case: tuple[np.ndarray[Any, Any], np.dtype[Any]]) -> None:
    """With clip a value beyond the limits becomes the limit, and only NaN to integer fails."""
    values, target = case
    before = [exact(v) for v in values]
    if target.kind != "f" and any(isinstance(n, float) and math.isnan(n) for n in before):
        with pytest.raises(CastError, match="The value nan"):
            cast_chunk(values, target, "clip")
        return
    result, changed = cast_chunk(values, target, "clip")
    low, high = limits(target)
    count = 0
    for number, got in zip(before, map(exact, result), strict=True):
        if not fits(number, target):
            assert got == (low if number < 0 else high)
        count += number != got and not math.isnan(number)
    assert changed == count


@pytest.mark.parametrize(
    ("values", "target", "said"),
    [
        (np.array([1, 300], "i4"), "u1", ["300", "uint8", "0 to 255", "clip"]),
        (np.array([-1.0]), "u8", ["-1.0", "uint64", "18446744073709551615"]),
        (np.array([np.nan]), "i4", ["nan", "int32", "float"]),
        (np.array([1e300]), "f4", ["1e+300", "float32"]),
        (np.array([2.0]), "?", ["2.0", "bool", "0 to 1"]),
        (np.array([1 + 2j]), "f8", ["(1+2j)", "float64"]),
        (np.array([1e300j]), "c8", ["1e+300", "float32"]),
        (np.array(["abc", "abcd"]), "U3", ["'abcd'", "3 characters"]),
        (np.array([b"abcd"]), "U3", ["b'abcd'", "3 characters"]),
        (np.array(["né"]), "S9", ["'né'", "ASCII"]),
        (np.array([b"\xff"]), "U9", ["xff", "ASCII"]),
        (np.array(["9999-01-01"], "M8[D]"), "M8[ns]", ["9999-01-01", "64 bits", "ns"]),
    ],
)
def test_an_error_names_value_and_limits(
    values: np.ndarray[Any, Any], target: str, said: list[str]
) -> None:
    """The message holds the value, the dtype and its limits; details hold the position."""
    with pytest.raises(CastError) as caught:
        cast_chunk(values, np.dtype(target), "error")
    assert all(word in str(caught.value) for word in said)
    assert caught.value.details["at"] == values.size - 1


@pytest.mark.parametrize(
    ("values", "target", "expected", "changed"),
    [
        (np.array([3 + 0j, 1 + 2j]), "i2", np.array([3, 1], "i2"), 1),
        (np.array([1e300j, 1]), "c8", np.array([np.finfo("f4").max * 1j, 1], "c8"), 1),
        (np.array(["abcd", "ab"]), "S3", np.array([b"abc", b"ab"]), 1),
        (
            np.array(["9999-01-01", "NaT", "-9999-01-01", "2000-01-01"], "M8[D]"),
            "M8[ns]",
            np.array(
                [np.iinfo("i8").max, np.iinfo("i8").min, -np.iinfo("i8").max, 946684800 * 10**9],
                "i8",
            ).view("M8[ns]"),
            2,
        ),
    ],
)
def test_clip_of_the_rest(
    values: np.ndarray[Any, Any], target: str, expected: np.ndarray[Any, Any], changed: int
) -> None:
    """Clip takes the real part, cuts text, and stops dates at the ends of 64 bits."""
    result, count = cast_chunk(values, np.dtype(target), "clip")
    np.testing.assert_array_equal(result, expected)
    assert (result.dtype, count) == (np.dtype(target), changed)


@pytest.mark.parametrize(
    ("origin", "target"),
    [
        ("i4", "f8"), ("<f4", ">f4"), ("?", "i1"), ("f4", "c8"), ("S3", "S5"), ("U2", ">U2"),
        ("M8[s]", "M8[s]"), ("V4", "V4"), ("u4,f4", "u4,f4"),
    ],
)  # fmt: skip
def test_a_wider_dtype_changes_nothing(origin: str, target: str) -> None:
    """What each value fits exactly is cast as astype does, and counted as unchanged."""
    values = np.zeros(3, origin)
    result, changed = cast_chunk(values, np.dtype(target), "error")
    assert (result.dtype, changed) == (np.dtype(target), 0)
    np.testing.assert_array_equal(result, values.astype(target))


def test_int64_to_float64_is_counted() -> None:
    """2**53 + 1 has no float64, though numpy calls that cast safe."""
    values = np.array([2**53, 2**53 + 1, 2**63 - 1])
    assert cast_chunk(values, np.dtype("f8"), "error")[1] == 2
    assert cast_chunk(values.astype("u8"), np.dtype("c16"), "error")[1] == 2


def test_dates_to_a_coarser_unit_are_counted() -> None:
    """A date that loses its time of day counts as changed; NaT does not."""
    values = np.array(["2001-01-01T00", "2001-01-01T05", "NaT"], "M8[h]")
    result, changed = cast_chunk(values, np.dtype("M8[D]"), "error")
    assert changed == 1
    np.testing.assert_array_equal(result, np.array(["2001-01-01", "2001-01-01", "NaT"], "M8[D]"))


@pytest.mark.parametrize(
    ("origin", "count", "target", "expected"),
    [
        # Products on the way leave 64 bits; numpy 2.4 wraps at the first two, 2.5 at the third.
        ("M8[1000s]", 2**62, "M8[h]", 2**62 * 1000 // 3600),
        ("m8[1000s]", -(2**62), "m8[h]", -(2**62) * 1000 // 3600),
        ("M8[12Y]", -35, "M8[5ns]", (date(1550, 1, 1) - date(1970, 1, 1)).days * 86400 * 2 * 10**8),
        ("M8[Y]", 400 * 10**14, "M8[W]", 146_097 * 10**14 // 7),
        ("M8[W]", -146_097 * 10**13, "M8[Y]", -400 * 7 * 10**13),
        ("m8[7s]", -7, "m8[5s]", -10),
        ("M8[D]", -(2**63) + 1, "M8[W]", (-(2**63) + 1) // 7),
        ("M8[as]", -(2**63) + 1, "M8[D]", -1),
    ],
)
def test_times_are_exact(origin: str, count: int, target: str, expected: int) -> None:
    """Between all units, rounded down, up to the ends of 64 bits; NaT and other axes stay."""
    values = np.array([[count, np.iinfo("i8").min, 0]]).view(origin)
    result, changed = cast_chunk(values, np.dtype(target).newbyteorder(">"), "error")
    assert result.dtype == np.dtype(target).newbyteorder(">")
    assert result.astype(target).view("i8").tolist() == [[expected, np.iinfo("i8").min, 0]]
    back, beyond = cast_chunk(result, values.dtype, "clip")
    assert changed == (beyond or int(back.view("i8")[0, 0]) != count)


def test_days_and_months_are_the_calendars() -> None:
    """Every month from the year 1 on begins with the day that Python's calendar says."""
    starts = [date(year, month, 1) for year in range(1, 3001) for month in range(1, 13)]
    days = np.array([start.toordinal() - date(1970, 1, 1).toordinal() for start in starts])
    months = np.arange(len(starts)) - 1969 * 12
    into_days, _ = cast_chunk(months.view("M8[M]"), np.dtype("M8[D]"), "error")
    np.testing.assert_array_equal(into_days.view("i8"), days)
    for day, month in ((days, months), (days - 1, months - 1)):
        result, _ = cast_chunk(day.view("M8[D]"), np.dtype("M8[M]"), "error")
        np.testing.assert_array_equal(result.view("i8"), month)


def test_structures_go_field_by_field() -> None:
    """Fields are matched by name, subarrays and nested structures included, and summed up."""
    origin = np.dtype([("a", "f8"), ("b", "i4", (2,)), ("c", [("d", "U2")])])
    target = np.dtype([("c", [("d", "S2")]), ("b", "i1", (2,)), ("a", "f4")])
    values = np.array([(0.1, [1, 2], ("x",)), (0.5, [3, 4], ("yz",))], origin)
    result, changed = cast_chunk(values, target, "error")
    assert changed == 1
    np.testing.assert_array_equal(result["a"], values["a"].astype("f4"))
    np.testing.assert_array_equal(result["b"], values["b"])
    np.testing.assert_array_equal(result["c"]["d"], [b"x", b"yz"])


def test_an_error_in_a_structure_names_the_field_and_the_record() -> None:
    """A value in a subarray is reported by its field and by the record it lies in."""
    values = np.array([([1, 2],), ([3, 400],)], [("b", "i4", (2,))])
    with pytest.raises(CastError, match=r"Field 'b': The value 400 .*-128 to 127") as caught:
        cast_chunk(values, np.dtype([("b", "i1", (2,))]), "error")
    assert caught.value.details["at"] == 1


def test_padding_of_a_structure_is_zero() -> None:
    """Bytes between fields do not carry the heap of the loader to other processes."""
    target = np.dtype([("a", "i1"), ("b", "i8")], align=True)
    result, _ = cast_chunk(np.ones(9, [("a", "i1"), ("b", "i4")]), target, "error")
    assert not result.view(np.uint8).reshape(9, 16)[:, 1:8].any()


def test_strided_values_cast() -> None:
    """A chunk need not be contiguous."""
    values = np.array([b"a", b"\xe9", b"c", b"d"])[::2]
    assert cast_chunk(values, np.dtype("U1"), "error")[0].tolist() == ["a", "c"]


@pytest.mark.parametrize(
    ("origin", "target", "why"),
    [
        ("S4", "f4", "numbers go to numbers"),
        ("i4", "S4", "text to text"),
        ("i8", "m8[s]", "times to times"),
        ("M8[s]", "m8[s]", "times to times"),
        ("M8[s]", "M8", "unit"),
        ("m8[Y]", "m8[D]", "month"),
        ("U4", "S", "length"),
        ("V4", "V8", "numbers"),
        ("V4", "i4", "numbers"),
        ("i4", "O", "fixed size"),
        ("i4", "(2,)i4", "shape of its own"),
        ("i4,i4", "i4", "only one"),
        ([("a", "i4")], [("b", "i4")], "same names"),
        ([("a", "i4", (2,))], [("a", "i4", (3,))], r"\(2,\), not \(3,\)"),
        ([("a", "S4")], [("a", "i4")], "field 'a'"),
    ],
)
def test_what_can_never_work_is_refused(origin: Any, target: Any, why: str) -> None:
    """check_cast refuses a pair of dtypes with the reason, before any value is read."""
    with pytest.raises(SpecMismatch, match=why):
        check_cast(np.dtype(origin), np.dtype(target))


@pytest.mark.parametrize(
    ("origin", "target"),
    [
        ("f8", "i1"),
        ("c16", "?"),
        ("U4", "S2"),
        ("M8[D]", "M8[Y]"),
        ("V4", "V4"),
        ("m8[s]", "m8[ns]"),
    ],
)
def test_what_may_work_is_let_pass(origin: str, target: str) -> None:
    """check_cast leaves to the values what depends on them."""
    check_cast(np.dtype(origin), np.dtype(target))


# ---- infinity, on request --------------------------------------------------------------------


@pytest.mark.parametrize("target", ["f2", "f4", "c8"])
def test_inf_is_what_astype_makes(target: str) -> None:
    """``overflow="inf"`` is numpy's own cast to a float: same values, and each counted."""
    values = np.array([1.0, -1e300, 65504.0, 1e300, np.inf, np.nan, 1e-300])
    result, changed = cast_chunk(values, np.dtype(target), "inf")
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(result, values.astype(target))
    assert changed == 3


@pytest.mark.parametrize("target", ["i4", "u8", "?", "S3", "M8[ns]", "f4,i1"])
def test_what_has_no_infinity_has_no_inf(target: str) -> None:
    """Integers, text, times and structures with one of them refuse ``overflow="inf"``."""
    origin = {"S3": "S9", "M8[ns]": "M8[D]", "f4,i1": "f8,i4"}.get(target, "f8")
    check_cast(np.dtype(origin), np.dtype(target), "clip")
    with pytest.raises(SpecMismatch, match="needs a type that has infinity"):
        check_cast(np.dtype(origin), np.dtype(target), "inf")


def test_inf_is_fine_where_nothing_can_be_beyond() -> None:
    """A field that is not cast, or is widened, needs no infinity."""
    check_cast(np.dtype("f8,i4,S3"), np.dtype("f4,i8,S5"), "inf")


def test_inf_drops_no_imaginary_part() -> None:
    """It is about size, and a complex number off the real axis is no large one."""
    with pytest.raises(CastError, match="not real"):
        cast_chunk(np.array([1 + 2j]), np.dtype("f4"), "inf")


def test_an_overflow_error_says_how_many() -> None:
    """The first one, how many there are of how many, and the farthest from 0."""
    values = np.array([1.0, 7e4, -1e9, 8e4])
    with pytest.raises(CastError, match=r"70000\.0 does not fit float16") as caught:
        cast_chunk(values, np.dtype("f2"), "error")
    assert "nor do 2 more of the 4 values" in str(caught.value)
    assert "farthest from 0 is -1000000000.0" in str(caught.value)
    assert "overflow='clip'" in str(caught.value)
    assert "'inf'" in str(caught.value)
    details = caught.value.details
    assert (details["at"], details["count"], details["of"]) == (1, 3, 4)
    with pytest.raises(CastError) as whole:
        cast_chunk(values, np.dtype("i1"), "error")
    assert "'inf'" not in str(whole.value)
