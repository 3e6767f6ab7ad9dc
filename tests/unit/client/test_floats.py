"""`floats.c` makes of each float what numpy makes of it, and counts what numpy's way counts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from arrayd.common import compiling
from arrayd.common.casts import floats
from arrayd.common.casts.cast import cast_counted
from arrayd.errors import CastError

Array = np.ndarray[Any, Any]
Way = floats.Functions
PAIRS = [("f8", "f4"), ("f8", "f2"), ("f4", "f2")]


@pytest.fixture(scope="module", params=["", " -DCLONED="], ids=["this core's", "any core's"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Way:
    """Return the functions, compiled from today's source; with any core's instructions, too."""
    made = tmp_path_factory.mktemp("compiled") / floats.LIBRARY.name
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", os.environ.get("CC", "cc") + request.param)
        problem = compiling.compile_library(Path(floats.__file__).with_suffix(".c"), made)
    if problem.startswith("there is no C compiler"):
        pytest.skip(problem)
    assert problem == ""
    found = floats.loaded(made)
    assert len(found) == len(PAIRS)
    return found


def assert_the_same(values: Array, target: str, compiled: Way, overflow: str = "error") -> None:
    """Cast in both ways: one result to the bit (but for what a NaN has besides), one count."""
    said: list[Any] = []
    for way in (compiled, {}):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(floats, "functions", way)
            try:
                done = cast_counted(values, np.dtype(target), overflow)
            except CastError as error:
                said.append((str(error), error.details))
                continue
        nan = np.isnan(done.values)
        assert done.values.dtype == np.dtype(target)
        bits = np.where(nan, 0, np.ascontiguousarray(done.values).view(f"u{target[1:]}"))
        beyond = None if done.beyond is None else done.beyond.tolist()
        said.append((bits.tolist(), nan.tolist(), done.changed, beyond))
    assert said[0] == said[1]


def near(edges: Array) -> Array:
    """Return some numbers, those between them, and the nearest to those; of either sign."""
    middle = np.concatenate([edges, (edges[1:] + edges[:-1]) / 2])
    some = [middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)]
    return np.concatenate([*some, *(-one for one in some)])


@pytest.mark.parametrize("origin", ["f8", "f4"])
def test_every_float16_and_what_is_rounded_to_it(origin: str, compiled: Way) -> None:
    """Each of them, each tie between two, and what is next to a tie; NaN and infinity, too."""
    finite = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    some = near(finite)
    odd = [np.nan, -np.nan, np.inf, -np.inf, -0.0, 65519.996]
    values = np.concatenate([some[np.abs(some) < 65520], odd])
    assert_the_same(values.astype(origin), "f2", compiled)


def test_what_is_rounded_to_a_float32(compiled: Way) -> None:
    """Powers of two down to those below the smallest, the ties beside them, and any others."""
    powers = np.float64(2.0) ** np.arange(-160, 128)
    wild = np.random.default_rng(1).integers(0, 1 << 64, 1 << 16, np.uint64).view(np.float64)
    values = np.concatenate([near(powers), near(powers * (1 + 2**-23)), wild])
    largest = 3.402823e38
    assert_the_same(values[~((np.abs(values) > largest) & np.isfinite(values))], "f4", compiled)


@pytest.mark.parametrize("overflow", ["error", "clip", "inf"])
@pytest.mark.parametrize("pair", PAIRS)
def test_what_is_beyond(pair: tuple[str, str], overflow: str, compiled: Way) -> None:
    """The first value that becomes infinite, and the last that does not, anywhere in a chunk."""
    origin, target = np.dtype(pair[0]), np.dtype(pair[1])
    largest = origin.type(np.finfo(target).max)
    tie = largest + (largest - origin.type(np.nextafter(np.finfo(target).max, 0))) / 2
    for value in (largest, np.nextafter(tie, 0), tie, np.finfo(origin).max):
        for sign in (1, -1):
            values = np.full(1000, 0.1, origin)
            values[[3, 777]] = sign * value, np.inf
            assert_the_same(values, pair[1], compiled, overflow)


@given(st.data())
@settings(deadline=None)
def test_any_floats(compiled: Way, data: st.DataObject) -> None:
    """Any shape, order, strides and byte order; also as a field of records, at odd addresses."""
    pair = data.draw(st.sampled_from(PAIRS))
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)
    values = data.draw(hnp.arrays(data.draw(st.sampled_from("<>")) + pair[0], shapes))
    step = data.draw(st.sampled_from([1, -1, 2]))
    values = values.T if data.draw(st.booleans()) else values
    values = values[::step] if values.ndim else values
    if data.draw(st.booleans()):
        records = np.zeros(1, [("a", "u1"), ("b", values.dtype, values.shape)])
        records["b"][0] = values
        values = records["b"]
    assert_the_same(values, pair[1], compiled, data.draw(st.sampled_from(["clip", "inf"])))


def test_without_ieee_754(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a compiler is told to do faster is done right; where it cannot, numpy does it."""
    source, made = Path(floats.__file__).with_suffix(".c"), tmp_path / floats.LIBRARY.name
    plain = os.environ.get("CC", "cc")
    monkeypatch.setenv("CC", f"{plain} -ffast-math")
    problem = compiling.compile_library(source, made)
    if problem.startswith("there is no C compiler"):
        pytest.skip(problem)
    assert problem == ""
    assert_the_same(near(np.linspace(0, 2, 999)), "f2", floats.loaded(made))
    monkeypatch.setenv("CC", f"{plain} -D__FAST_MATH__")
    assert "as IEEE 754 has it" in compiling.compile_library(source, made)
