"""The report of a cast counts what a plain loop counts, and says what it means."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrayd.common.casts.cast import cast_chunk
from arrayd.common.casts.small_floats import limits_of
from arrayd.datasets import cast_counts
from arrayd.datasets.report import CastReport, FieldReports, smaller
from arrayd.errors import CastError, SpecMismatch

FLOATS = ("f8", "f4", "f2")
TARGETS = ("f4", "f2", "i4", "u1", "i8", "bfloat16", "float8_e4m3fn", "int4")


def kind_of(name: str) -> np.dtype[Any]:
    """Return the dtype of a name, those of ml_dtypes included."""
    return np.dtype(getattr(ml_dtypes, name, name))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([*FLOATS, "i8", "u2", ">f4"]),
    st.sampled_from(TARGETS),
    st.lists(
        st.floats(width=16)
        | st.sampled_from([0.0, 1e-7, 6e-8, 1e-45, 1e300, -7e4, 65519.0, 65520.0, math.nan]),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 5),
)
def test_counts_are_those_of_a_loop(
    origin: str, target: str, numbers: list[float], chunk: int
) -> None:
    """Each count and limit, value by value, by the cast itself; chunks and parts do not matter."""
    kind = np.dtype(origin)
    if kind.kind != "f":
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        whole = [int(n) if math.isfinite(n) else 0 for n in numbers]
        values = np.array([min(max(n, int(low)), int(high)) for n in whole], kind)
    else:
        with np.errstate(over="ignore"):
            values = np.array(numbers, kind)
    wanted = kind_of(target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cast_counts, "CHUNK", chunk)
        report = CastReport.of([values[:3], values[3:]], wanted)
    assert report.count == len(values)
    loop = _loop(values, wanted)
    found = {name: getattr(report, name) or 0 for name in loop}
    assert found == pytest.approx(loop, rel=1e-12, nan_ok=True)


def _loop(values: np.ndarray[Any, Any], target: np.dtype[Any]) -> dict[str, Any]:
    """Count value by value."""
    counts: dict[str, Any] = dict.fromkeys(
        ("nan", "infinite", "overflow", "underflow", "subnormal", "changed", "unheld"), 0
    )
    sizes = [abs(n) for n in map(float, values) if n and math.isfinite(n)]
    counts |= {"max_abs": 0.0, "max_rel": 0.0, "least": min(sizes, default=0)}
    is_float = cast_counts.is_float(target)
    tiny = float(limits_of(target).smallest_normal) if is_float else 0.0
    for one in values:
        single = np.array([one], values.dtype)
        number = float(one)
        counts["nan"] += math.isnan(number)
        counts["infinite"] += math.isinf(number)
        try:
            result, changed = cast_chunk(single, target, "error")
        except CastError:
            counts["unheld" if math.isnan(number) else "overflow"] += 1
            counts["changed"] += 1
            continue
        counts["changed"] += changed
        after = float(result[0])
        if not math.isfinite(number):
            continue
        error = abs(after - number)
        if values.dtype.kind in "iu":  # exactly, beyond 2**53 too
            error = abs((int(after) if is_float else int(result[0])) - int(one))
        counts["max_abs"] = max(counts["max_abs"], float(error))
        gone = is_float and after == 0 != number
        counts["underflow"] += gone
        small = is_float and 0 < abs(after) < tiny
        counts["subnormal"] += small
        if number and not gone and not small:
            counts["max_rel"] = max(counts["max_rel"], error / abs(number))
    return counts


@pytest.mark.parametrize(
    "layout",
    [
        lambda a: a,
        np.asfortranarray,
        lambda a: a[::2, 1::3],
        lambda a: a.T[3:, ::-1],
        lambda a: np.broadcast_to(a[0], (5, *a[0].shape)),
        lambda a: a[:0],
        lambda a: a[3, 4],
    ],
)
def test_any_layout(monkeypatch: pytest.MonkeyPatch, layout: Callable[..., Any]) -> None:
    """Strided, transposed, broadcast, empty and 0-d arrays: each value counts once."""
    monkeypatch.setattr(cast_counts, "CHUNK", 7)
    array = layout(np.arange(30.0 * 40).reshape(30, 40) / 3)
    report = CastReport.of([array], "f4")
    assert report.count == array.size
    assert report.changed == np.count_nonzero(array.astype("f4") != array)
    if array.size:
        assert (report.minimum, report.maximum) == (array.min(), array.max())


def test_parts_are_merged() -> None:
    """Reports of parts, merged, are the report of the whole; of another cast they are not."""
    values = np.random.default_rng(1).normal(0, 1e4, 1000)
    whole, first = CastReport.of([values], "f2"), CastReport.of([values[:300]], "f2")
    first.merge(CastReport.of([values[300:]], "f2"))
    assert first == whole
    with pytest.raises(SpecMismatch, match="are two"):
        first.merge(CastReport.of([values], "f4"))
    with pytest.raises(SpecMismatch, match="not float32"):
        first.add(np.zeros(3, "f4"))
    with pytest.raises(SpecMismatch, match="at least one array"):
        CastReport.of([], "f4")


def test_plain_data_is_json() -> None:
    """A report goes through JSON and comes back equal, bfloat16 and infinities included."""
    for target in ("bfloat16", "f2", "i2"):
        report = CastReport.of([np.array([1e39, -1 / 3, np.inf, 1e-9])], target)
        plain = json.loads(json.dumps(report.to_plain(), allow_nan=False))
        assert CastReport.from_plain(plain) == report
        assert plain["verdict"] == report.verdict


# ---- what it means ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "target", "scale"),
    [
        ([1e5, 1.0], "f2", 2.0**-2),
        ([65504.0 * 8, 0], "f2", 2.0**-4),
        ([1e-6, 1e-9], "f2", 2.0**34),
        ([1e-9, 6e4], "f2", None),
        ([0.1, 0.5], "f2", None),
        ([1e5], "i2", None),
        ([1e300, 1e-300], "f4", None),
        ([1.0, 1e300], "f2", None),
        ([2.0**-23, 2.0**16], "f2", None),
        ([2.0**-22, 2.0**16], "f2", 2.0**-2),
        ([2.0**-22, 2.0**16], "bfloat16", None),
        ([1e280, 1e300], "f4", 2.0**-870),
    ],
)
def test_the_scale_cures(values: list[float], target: str, scale: float | None) -> None:
    """Multiplied by it nothing overflows, exactly; None where it is of no use."""
    report = CastReport.of([np.array(values)], target)
    assert report.scale == scale
    if scale is not None:
        better = CastReport.of([np.array(values) * scale], target)
        assert better.overflow == 0
        assert better.underflow + better.subnormal <= max(1, report.underflow + report.subnormal)


@pytest.mark.parametrize(
    ("values", "target", "said"),
    [
        (np.arange(9.0), "f2", "^Lossless: float16 holds every value exactly"),
        (np.arange(300), "u1", "REFUSED unless you choose: 44 values are beyond uint8.*'clip'"),
        (np.array([1e5, 0.1]), "f2", r"1 value is beyond float16.*multiply by 2\*\*-2.*'inf'"),
        (
            np.array([1, 1e300]),
            "f2",
            r"1 value is beyond float16. overflow='clip' .*; or overflow='inf'; or a wider type\. "
            r"No power of 2 to multiply by first fits all: the smallest \(1\) would become 0\.",
        ),
        (np.array([np.nan, 1]), "i4", "REFUSED: 1 value is NaN, which int32 lacks"),
        (
            np.array([1e-9, 1e-7, 1]),
            "f2",
            "Close to 0: 1 become 0, 1 keep fewer bits",
        ),
        (np.array([0.1, 0.5]), "f2", "50 % of the values are rounded.*3 digits stay right"),
        (np.array([0.1, 1.75]), "i4", "100 % of the values lose their fraction, of at most 0.75"),
        (np.array([]), "f2", "No values"),
        (np.array(["abc", "a"]), "U2", "1 value is beyond <U2"),
    ],
)
def test_verdicts(values: Any, target: str, said: str) -> None:
    """In words: lossless, refused and why, lost near 0, rounded and to how many digits."""
    report = CastReport.of([values], target)
    assert re.search(said, report.verdict), report.verdict
    assert "'inf'" not in report.verdict or target in ("f2", "f4")


def test_the_table() -> None:
    """One glance: sizes, range, shares; 1 in 10,000 is neither 0 % nor 100 %."""
    values = np.ones(100_000)
    values[0], values[1] = 7e4, 1e-9
    text = str(CastReport.of([values], "float16"))
    assert text.splitlines()[0] == "float64 -> float16, 100,000 values"
    for words in (
        "781.2 KiB -> 195.3 KiB",
        "1e-09 to 70000; nearest to 0: 1e-09",
        "99,998 (> 99.9 %)",
        "1 (0.001 %)",
        "=> REFUSED unless",
    ):
        assert words in text


def test_what_becomes_0_has_lost_all() -> None:
    """The largest relative error is 1 then, though no other value has changed."""
    text = str(CastReport.of([np.array([1e-9, 1])], "f2"))
    assert re.search(r"largest error +1e-09, relative 1$", text, re.MULTILINE)
    assert "relative 0.0001" in str(CastReport.of([np.array([0.1234, 1])], "f2"))


@pytest.mark.parametrize(
    ("overflow", "said"),
    [
        ("clip", "=> 2 values were beyond float16: they became the nearest that fits."),
        ("inf", "=> 2 values were beyond float16: they became infinity."),
    ],
)
def test_what_was_chosen(overflow: str, said: str) -> None:
    """After a cast with `overflow=` it says what was done, and offers no choice."""
    values = np.array([1e9, -1e9, 1])
    reports = FieldReports(values.dtype, np.dtype("f2"))
    reports.add(values)
    text = reports.words(overflow)
    assert said in text
    assert "REFUSED" not in text
    assert "first" not in text
    assert "REFUSED" in str(reports)


# ---- fields ----------------------------------------------------------------------------------


def test_fields_have_a_report_each() -> None:
    """Nested fields and subarrays too; and through JSON."""
    origin = np.dtype([("x", "f8", (2,)), ("in", [("n", "i8"), ("s", "S4")])])
    target = np.dtype([("in", [("s", "S2"), ("n", "i1")]), ("x", "f4")])
    values = np.array([([0.1, 1], (300, b"abcd")), ([2, 3], (4, b"ab"))], origin)
    with pytest.raises(SpecMismatch):
        FieldReports(origin, target)  # another shape of x
    target = np.dtype([("in", [("s", "S2"), ("n", "i1")]), ("x", "f4", (2,))])
    reports = FieldReports(origin, target)
    reports.add(values)
    assert list(reports.fields) == ["x", "in.n", "in.s"]
    assert [one.count for one in reports.fields.values()] == [4, 2, 2]
    assert [one.changed for one in reports.fields.values()] == [1, 1, 1]
    other = FieldReports(origin, target)
    other.take_plain(json.loads(json.dumps(reports.to_plain())))
    assert [one.count for one in other.fields.values()] == [4, 2, 2]
    assert "field in.n\nint64 -> int8, 2 values" in str(other)
    with pytest.raises(SpecMismatch, match="not float64"):
        reports.add(np.zeros(3))


def test_complex_numbers_are_two_each() -> None:
    """Their bytes are not; and of the cast to real numbers there is no report."""
    report = CastReport.of([np.array([1e39 + 0.1j], ">c16")], "c8")
    assert (report.count, report.overflow, report.changed) == (2, 1, 2)
    assert (report.bytes_before, report.bytes_after) == (16, 8)
    with pytest.raises(SpecMismatch, match=r"array\.real"):
        CastReport(np.dtype("c8"), np.dtype("f4"))


def test_what_is_smaller() -> None:
    """Types of fewer bits, the widest first."""
    assert [str(kind) for kind in smaller(np.dtype("f8"))] == ["float32", "float16", "bfloat16"]
    assert [str(kind) for kind in smaller(np.dtype("i4"))] == ["int16", "int8"]
    with pytest.raises(SpecMismatch, match="cast="):
        smaller(np.dtype("U3"))
