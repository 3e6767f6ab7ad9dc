"""No copy where a reference is meant: what libraries look at before they copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import arrayd
from tests.support.processes import save

pytestmark = pytest.mark.one_daemon

VALUES: dict[str, Any] = {
    "matrix": np.arange(600.0).reshape(30, 20),
    "Fortran": np.asfortranarray(np.arange(600.0).reshape(30, 20)),
    "bytes": np.arange(50, dtype="u1"),
    "0-d": np.float32(2.5),
    "records": np.ones(40, [("a", "u1"), ("b", ">f8", (2,))]),
    "text": np.array(["grün", "ß"]),
    "times": np.arange(10).astype("M8[s]"),
}


@pytest.mark.parametrize("mode", ["r", "c"])
def test_the_base_is_no_larger(client: arrayd.Client, tmp_path: Path, mode: str) -> None:
    """``base`` counts the block's own elements, of its dtype, and a part has a part as its base."""
    for name, values in VALUES.items():
        save(tmp_path / f"{name}.npy", values)
        x = client.get(tmp_path / f"{name}.npy", mode=mode)
        assert x.base is not None
        assert (x.base.dtype, x.base.size) == (x.dtype, x.size), name
        assert np.asarray(x).base is x, name
        part = x[1:3] if x.ndim else x[...]
        assert np.asarray(part).base is part, name
        if mode == "r":
            with pytest.raises(ValueError, match="WRITEABLE"):
                x.base.flags.writeable = True
    del x, part


def test_scipy_takes_the_pages_themselves(client: arrayd.Client) -> None:
    """A sparse matrix over three arrays, or over parts of them, lies in their blocks."""
    data, rows = client.put(np.ones(1000)), client.put(np.arange(1000, dtype="i4") % 10)
    ends = client.put(np.arange(0, 1001, 10, dtype="i4"))
    matrix = sparse.csr_matrix((data, rows, ends), shape=(100, 10))
    few = sparse.csr_matrix((data[:20], rows[:20], ends[:3]), shape=(2, 10))
    assert np.shares_memory(matrix.data, data)
    assert np.shares_memory(matrix.indices, rows)
    assert np.shares_memory(few.data, data)
    del data, rows, ends, matrix, few
