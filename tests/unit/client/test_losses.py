"""``put``: what numpy would silently change or drop is an error that names a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import arrayd
from arrayd import SpecMismatch
from arrayd.common.arguments import array
from tests.support.processes import raised


@dataclass
class Named:
    """A type of another package: it has a name."""

    name: str


@dataclass
class Column:
    """An array of another package: a Series, a DataArray, a Tensor."""

    values: np.ndarray[Any, Any]
    dtype: Any
    attrs: dict[str, Any] = field(default_factory=dict)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """Return the values."""
        return np.asarray(self.values, dtype)


@dataclass
class Table:
    """A DataFrame."""

    columns: dict[str, np.ndarray[Any, Any]]

    @property
    def dtypes(self) -> list[Any]:
        """Return the types of the columns."""
        return [column.dtype for column in self.columns.values()]

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield names and columns."""
        yield from self.columns.items()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """Return all columns as one type."""
        return np.asarray(np.column_stack(list(self.columns.values())), dtype)


BIG = 2**53 + 1
MASKED = np.ma.masked_array([1, 2], [False, True])

LOST = {
    "nullable integers": (Column(np.array([BIG, np.nan]), Named("Int64")), "Int64"),
    "categories": (Column(np.array([1, 2]), Named("category")), "category"),
    "a tensor's type": (Column(np.array([1.0]), "torch.bfloat16"), "torch.bfloat16"),
    "attributes": (Column(np.ones(2), np.dtype("f8"), {"units": "m"}), "units"),
    "a table's integers": (Table({"a": np.array([BIG, 1]), "b": np.ones(2)}), str(BIG)),
    "a table's negative ones": (Table({"a": np.array([-BIG, 1]), "b": np.ones(2)}), str(-BIG)),
    "a table's unsigned ones": (
        Table({"a": np.array([2**64 - 1], "u8"), "b": np.ones(1)}),
        str(2**64 - 1),
    ),
    "too large and negative": ([2**63 + 1, -1], str(2**63 + 1)),
    "large beside a fraction": ([[1.5, 2], [3, BIG]], str(BIG)),
    "large numpy scalars": ([np.int64(BIG), np.uint64(1)], str(BIG)),
    "complex": ([BIG, 1j], str(BIG)),
    "text and numbers": ([1, "a"], "<U"),
    "text and fractions": ([1.5, "a"], "<U"),
    "text and truth": (["a", True], "<U"),
    "text and bytes": ([b"a", "b"], "<U"),
    "arrays of text and numbers": ([np.array(["a"]), np.array([1.5])], "<U"),
    "a NUL at the end": ([b"ab\0", b"c"], "NUL"),
    "a mask of records": (
        np.ma.masked_array([(1, 2)], [(False, True)], dtype="i4,i4"),
        "mask",
    ),
    "a mask in a list": ([MASKED, np.ma.array([3, 4])], "mask"),
    "times of two units": ([np.datetime64("9999", "Y"), np.datetime64(1, "ns")], "times"),
}


@pytest.mark.parametrize("what", LOST)
@pytest.mark.filterwarnings("ignore::UserWarning")  # numpy's own, where it has one
def test_what_would_be_lost(what: str) -> None:
    """The error names what is lost and what to give instead."""
    values, word = LOST[what]
    error, _ = raised(lambda: array(values))
    assert isinstance(error, SpecMismatch)
    assert word in str(error)
    assert "give" in str(error).lower()


KEPT = {
    "nullable without a gap": Column(np.array([1, BIG]), Named("Int64")),
    "a tensor": Column(np.ones(2, "f4"), "torch.float32"),
    "truth of arrow": Column(np.array([True]), Named("bool[pyarrow]")),
    "attributes that are none": Column(np.ones(2), np.dtype("f8")),
    "a table": Table({"a": np.array([2**53, 2**60]), "b": np.ones(2)}),
    "mixed": [1, 2.5, True],
    "large integers": [2**63 - 1, -1],
    "unsigned": [2**64 - 1, 2**63],
    "exact large": [2.0**60, 2**60],
    "text": ["a", "bcd"],
    "bytes": [b"a\0b", b"c"],
    "ragged text arrays": [np.array(["a"]), np.array(["bcd"])],
    "times": [np.datetime64("2020", "Y"), np.datetime64("NaT", "s")],
    "an unmasked array": np.ma.array([1.5, 2.5]),
    "no values": [],
    "a scalar": 1.5,
    "a range": range(3),
}


@pytest.mark.parametrize("what", KEPT)
def test_what_is_kept(what: str) -> None:
    """What numpy holds exactly is taken as numpy has it."""
    expected = np.asarray(KEPT[what])
    found = array(KEPT[what])
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "values",
    [[Decimal("0.1")], [Fraction(1, 3)], [datetime(2020, 1, 1)], [None, 1.5], {1, 2}],
    ids=["Decimal", "Fraction", "datetime", "None", "set"],
)
def test_python_objects(values: Any) -> None:
    """What is no number to numpy is a typed error."""
    error, _ = raised(lambda: array(values))
    assert isinstance(error, SpecMismatch)
    assert "Python objects" in str(error)


def test_put_says_it(client: arrayd.Client) -> None:
    """It is `put` that raises, and publishes nothing."""
    error, _ = raised(lambda: client.put([BIG, 0.5], name="rounded"))
    assert str(BIG) in str(error)
    assert not client.status().blocks
