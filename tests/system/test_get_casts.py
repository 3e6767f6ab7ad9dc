"""``cast=``: values that it changes are warned of, in words that are true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import arrayd
from tests.support.daemons import Daemon
from tests.support.processes import save
from tests.support.shared_daemon import counters

pytestmark = pytest.mark.one_daemon


def test_cast_warns_whoever_asks(client: arrayd.Client, daemon: Daemon, tmp_path: Path) -> None:
    """A lossy cast warns at the load, on a hit of another session and of this one, at the call."""
    wanted = save(tmp_path / "x.npy", np.array([0.1, 0.5, 0.3])).astype("f4")
    with arrayd.connect(daemon.endpoint) as other:
        for session in (client, other, client):
            with pytest.warns(arrayd.PrecisionWarning, match="2 of 3 values") as seen:
                got = session.get(tmp_path / "x.npy", cast="f4")
            assert [w.filename for w in seen] == [__file__]
            np.testing.assert_array_equal(got, wanted)
        del got
    assert counters(client)["loads"] == 1


def test_a_cast_warns_in_true_words(client: arrayd.Client, tmp_path: Path) -> None:
    """All values of a record count, and a type that has bits enough is not said to lack them."""
    fields = [("name", "S8"), ("x", "f8"), ("y", "f8", (3,)), ("n", "i4")]
    records = np.zeros(5, np.dtype(fields))
    records["x"] = records["y"] = 0.1
    save(tmp_path / "r.npy", records)
    save(tmp_path / "x.npy", np.array([0.1, 2, 3]))
    target = [("name", "S8"), ("x", "f2"), ("y", "f2", (3,)), ("n", "i4")]
    said = "type with fields name, x, y, n cannot hold all values as they are: 20 of 30 values"
    with pytest.warns(arrayd.PrecisionWarning, match=said):
        client.get(tmp_path / "r.npy", cast=target)
    said = "int8 holds whole numbers from -128 to 127 only: 1 of 3 values"
    with pytest.warns(arrayd.PrecisionWarning, match=said):
        client.get(tmp_path / "x.npy", cast="i1")


def test_an_exact_cast_is_silent(client: arrayd.Client, tmp_path: Path) -> None:
    """A cast that loses nothing says nothing."""
    save(tmp_path / "x.npy", np.array([1, -2, 300]))
    got = client.get(tmp_path / "x.npy", cast="i2")
    assert got.dtype == np.int16
    assert got.tolist() == [1, -2, 300]
    del got
