"""Casts to and from the small numbers of ml_dtypes lose nothing without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import arrayd
from arrayd.common.casts.cast import cast_chunk, check_cast
from arrayd.errors import CastError, SpecMismatch

NAMES = [
    name
    for name, kind in vars(ml_dtypes).items()
    if isinstance(kind, type) and issubclass(kind, np.generic) and "complex" not in name
]


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the dtype of a name."""
    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return dtype


@pytest.mark.filterwarnings("ignore:invalid value")  # some patterns are signalling NaNs
@pytest.mark.parametrize("name", NAMES)
def test_all_its_values_go_there_and_back(name: str) -> None:
    """Each bit pattern has its value in float64, and comes back from it; NaN as NaN."""
    dtype = dtype_of(name)
    patterns = np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype)
    numbers, lost = cast_chunk(patterns, np.dtype("f8"), "error")
    np.testing.assert_array_equal(numbers, patterns.astype("f8"))
    back, changed = cast_chunk(numbers, dtype, "error")
    np.testing.assert_array_equal(back.astype("f8"), numbers)
    assert (lost, changed) == (0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_beyond_is_an_error_or_the_nearest(name: str) -> None:
    """Neither infinity, nor NaN, nor the largest value, unless that is asked for."""
    dtype = dtype_of(name)
    limits: Any = (ml_dtypes.iinfo if "int" in name else ml_dtypes.finfo)(dtype)
    values = np.array([1.0 if float(limits.max) > 0 else 0.0, 1e39, -1e39])
    with pytest.raises(CastError, match=r"1e\+39 does not fit") as caught:
        cast_chunk(values, dtype, "error")
    assert caught.value.details["at"] == 1
    clipped, changed = cast_chunk(values, dtype, "clip")
    expected = [values[0], float(limits.max), float(limits.min)]
    np.testing.assert_array_equal(clipped.astype("f8"), expected)
    assert changed == 2


@pytest.mark.parametrize("name", NAMES)
def test_inf_is_for_types_that_have_it(name: str) -> None:
    """``overflow="inf"`` gives infinity, or is refused where the type has none."""
    dtype = dtype_of(name)
    with np.errstate(invalid="ignore"):
        infinite = "int" not in name and np.isinf(np.array(np.inf).astype(dtype).astype("f8"))
    if not infinite:
        with pytest.raises(SpecMismatch, match="needs a type that has infinity"):
            check_cast(np.dtype("f8"), dtype, "inf")
        return
    check_cast(np.dtype("f8"), dtype, "inf")
    result, changed = cast_chunk(np.array([1.0, 1e39, -1e39]), dtype, "inf")
    np.testing.assert_array_equal(result.astype("f8"), [1.0, np.inf, -np.inf])
    assert changed == 2


def test_rounding_is_counted() -> None:
    """Values that lose digits, from floats and from integers; NaN needs a counterpart."""
    bfloat16 = dtype_of("bfloat16")
    result, changed = cast_chunk(np.array([0.5, 1 / 3, np.nan, np.inf]), bfloat16, "error")
    np.testing.assert_array_equal(result.astype("f8"), [0.5, 0.333984375, np.nan, np.inf])
    assert changed == 1
    assert cast_chunk(np.array([2**53 + 1, 256, 257]), bfloat16, "error")[1] == 2
    assert cast_chunk(np.array([1.5, -1.0]), dtype_of("int4"), "error")[1] == 1
    for name in ("int4", "float4_e2m1fn"):
        with pytest.raises(CastError, match="nan has no counterpart"):
            cast_chunk(np.array([np.nan]), dtype_of(name), "clip")


def test_complex_ones_name_the_way() -> None:
    """They have no cast here, and the error is typed."""
    if hasattr(ml_dtypes, "complex32"):
        with pytest.raises(SpecMismatch, match=r"astype"):
            check_cast(np.dtype("c8"), dtype_of("complex32"))


def test_training_sets(client: arrayd.Client, tmp_path: Path) -> None:
    """float32 in a file, bfloat16 in the block; and the way back; fields of a structure too."""
    values = np.linspace(-3, 3, 1000, dtype="f4")
    np.save(tmp_path / "x.npy", values)
    with pytest.warns(arrayd.PrecisionWarning):
        small = client.get(tmp_path / "x.npy", cast="bfloat16")
    np.testing.assert_array_equal(small, values.astype(ml_dtypes.bfloat16))
    small.tofile(tmp_path / "w.bin")
    back = client.get(tmp_path / "w.bin", dtype="bfloat16", shape=-1, cast="f4")
    np.testing.assert_array_equal(back, np.asarray(small).astype("f4"))
    fields = np.zeros(3, [("a", "f4"), ("b", "i8")])
    np.save(tmp_path / "s.npy", fields)
    assert client.get(tmp_path / "s.npy", cast=[("a", "bfloat16"), ("b", "int4")]).dtype["b"] == (
        ml_dtypes.int4
    )
