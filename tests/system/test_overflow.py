"""Values beyond the dtype asked for: refused, clipped or infinite, as the caller says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import arrayd
from tests.support.processes import raised, save

pytestmark = pytest.mark.one_daemon


def test_overflow(client: arrayd.Client, tmp_path: Path) -> None:
    """What does not fit is an error that names the place, or clipped on request."""
    values = save(tmp_path / "x.npy", np.array([[1, 2], [300, -4]]))
    error, _ = raised(lambda: client.get(tmp_path / "x.npy", cast="u1"))
    assert isinstance(error, arrayd.CastError)
    assert "[1, 0]" in str(error)
    assert "300" in str(error)
    with pytest.warns(arrayd.PrecisionWarning, match="2 of 4"):
        got = client.get(tmp_path / "x.npy", cast="u1", overflow="clip")
    np.testing.assert_array_equal(got, np.clip(values, 0, 255))
    del got


def test_overflow_may_be_infinity(client: arrayd.Client, tmp_path: Path) -> None:
    """``overflow="inf"`` is numpy's cast, and a block of its own; integers have no infinity."""
    save(tmp_path / "x.npy", np.array([1.0, 7e4, -1e9]))
    error, _ = raised(lambda: client.get(tmp_path / "x.npy", cast="f2"))
    assert "nor does 1 more of the 3 values" in str(error)
    with pytest.warns(arrayd.PrecisionWarning, match="2 of 3"):
        clipped = client.get(tmp_path / "x.npy", cast="f2", overflow="clip")
    with pytest.warns(arrayd.PrecisionWarning, match="2 of 3"):
        got = client.get(tmp_path / "x.npy", cast="f2", overflow="inf")
    assert got.tolist() == [1.0, np.inf, -np.inf]
    assert clipped.tolist() == [1.0, 65504.0, -65504.0]
    error, _ = raised(lambda: client.get(tmp_path / "x.npy", cast="i2", overflow="inf"))
    assert isinstance(error, arrayd.SpecMismatch)
    assert "int16 has none" in str(error)
    del got, clipped
