"""Patterns of files mean the same files in the same order, for a dataset and for a pack."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from arrayd.datasets.field_files import fields_of
from arrayd.datasets.patterns import expanded, is_pattern, matched
from arrayd.errors import SourceNotFound
from tests.support.scans import place

__all__ = ["place"]


@pytest.fixture
def parts(place: Path) -> list[str]:
    """Give the paths of files in natural order; between them lie folders."""
    made = [place / "a" / name for name in ("part2.npy", "part10.npy", "x:y.npy")]
    (place / "a" / "part3.npy").mkdir(parents=True)
    for path in made:
        np.save(path, np.zeros((2, 3)))
    return [str(path) for path in made]


@pytest.mark.parametrize("pattern", ["a/*", "**", "../*/a/**", "{place}/a/*.npy"])
def test_a_dataset_and_a_pack_have_the_same_rows(
    place: Path, parts: list[str], pattern: str
) -> None:
    """Files in the order in which people count, and no folders; also where a folder has a ``[``."""
    text = pattern.format(place=str(place).replace("[1]", "[[]1]"))
    (field,) = fields_of(text, None, {})
    assert list(field.paths) == expanded([text]) == parts


def test_a_member_follows_its_files(parts: list[str]) -> None:
    """The longest beginning that matches files is the pattern; an option takes its place."""
    assert matched("a/p*:/g/x:0") == (parts[:2], "/g/x:0")
    assert matched("a/x:*") == (parts[2:], None)
    assert expanded(["a/p*:g", Path("b*")]) == [*(f"{one}:g" for one in parts[:2]), Path("b*")]
    (field,) = fields_of("a/p*.npy:g", None, {})
    assert (field.source.path, field.source.member) == (parts[0], "g")
    with pytest.raises(SourceNotFound, match=r"a/p\*\.npy:g: no file matches this pattern"):
        fields_of("a/p*.npy:g", None, {"dataset": "h"})


def test_a_file_of_that_name_is_no_pattern(place: Path) -> None:
    """Names may have brackets; what looks like a pattern and is a file is that file."""
    assert is_pattern("s[1].npy:x")
    Path("s[1].npy").touch()
    assert not is_pattern("s[1].npy:x")
    assert not is_pattern("s1.npy")
    assert not is_pattern(Path("s*.npy"))


def test_a_link_that_leads_nowhere_is_not_left_out(place: Path) -> None:
    """Rows that are missing are never passed over in silence."""
    os.symlink("gone.npy", "s1.npy")
    assert matched("s*.npy") == ([f"{place}/s1.npy"], None)
