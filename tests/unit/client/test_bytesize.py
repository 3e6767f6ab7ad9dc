"""Sizes as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrayd.common.bytesize import format_apart, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("512", 512),
        ("512 B", 512),
        ("16M", 16 << 20),
        ("16m", 16 << 20),
        ("4G", 4 << 30),
        ("1.5T", 3 << 39),
        ("41.2 GiB", int(41.2 * 2**30)),
        ("0.1K", 102),
    ],
)
def test_a_size_is_in_binary_units(text: str, count: int) -> None:
    """Each accepted form is parsed to its number of bytes, rounded down."""
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "G", "4GB", "-1", "1e9", "4 G 2", "٣G", "nan", "4Gi"])
def test_what_is_ambiguous_or_no_size_is_refused(text: str) -> None:
    """``GB``, which may be decimal or binary, is refused, and so is all that has no digits."""
    with pytest.raises(ValueError, match="16M, 4G"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (int(41.2 * 2**30), "41.2 GiB"),
        (2**80, "1048576.0 EiB"),
    ],
)
def test_a_size_is_printed_in_the_largest_unit_it_fills(count: int, text: str) -> None:
    """One decimal; never 1024.0 of a unit while there is a larger one."""
    assert format_bytes(count) == text


def test_different_sizes_look_different() -> None:
    """They have as many decimals as that takes, and are in bytes where three are too few."""
    assert format_apart(2**30, 2**30 + 2**27) == ["1.0 GiB", "1.1 GiB"]
    assert format_apart(2**20, 2**20 + 2**14) == ["1.00 MiB", "1.02 MiB"]
    assert format_apart(2**20, 2**20 + 1) == ["1,048,576 B", "1,048,577 B"]
    assert format_apart(2**20, 2**20) == ["1.0 MiB", "1.0 MiB"]


@given(st.integers(0, 2**69))
def test_a_printed_size_reads_back_within_its_precision(count: int) -> None:
    """Printing rounds to one decimal of a unit that the size fills, so by 5 % at most."""
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.05, abs=0)
