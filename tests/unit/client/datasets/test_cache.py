"""What is kept between runs is there as a whole or not at all, and what fails is a typed error."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from arrayd.datasets import cache
from arrayd.datasets.dataset import Dataset
from arrayd.datasets.planning import ValueTerms
from arrayd.datasets.scan import scan
from arrayd.errors import AccessDenied, ArraydError, NoRoom
from arrayd.samples.selection import Rows
from tests.support.scans import ALONE, place, shards

__all__ = ["place"]

FAILURES = pytest.mark.parametrize(
    ("number", "error"), [(28, NoRoom), (13, AccessDenied), (30, AccessDenied), (5, ArraydError)]
)


def failing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have each renaming fail with this errno."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)


@pytest.mark.parametrize(
    "rows", [Rows(9)[2:7], Rows.of(np.array([1, 4, 8]), 9), Rows.of(np.array([], np.uint64), 9)]
)
def test_ids_are_saved_once(rows: Rows) -> None:
    """They are a .npy under the name of their digest; nothing else is left."""
    path = cache.save_ids(rows)
    assert path == cache.ids_path(rows.digest().hex())
    assert np.load(path).tolist() == rows.ids(0, len(rows)).tolist()
    made = os.stat(path)
    assert cache.save_ids(rows) == path
    assert os.stat(path).st_ino == made.st_ino
    name = os.path.basename(path)
    assert sorted(os.listdir(cache.folder())) == [name, name + cache.USED]


@FAILURES
def test_ids_that_cannot_be_saved(
    monkeypatch: pytest.MonkeyPatch, number: int, error: type[ArraydError]
) -> None:
    """The error says why, and names the variable for another folder; no part is left."""
    failing(monkeypatch, number)
    with pytest.raises(error, match=f"another folder in {cache.VARIABLE}") as raised:
        cache.save_ids(Rows(9)[2:7])
    assert type(raised.value) is error
    assert os.listdir(cache.folder()) == []


@FAILURES
def test_a_manifest_that_cannot_be_saved(
    monkeypatch: pytest.MonkeyPatch, number: int, error: type[ArraydError]
) -> None:
    """Neither by a scan nor, after the cache was cleaned, by a dataset that is pickled."""
    shards(2)
    manifest = scan(ALONE, "s1.npy")
    for path in Path(cache.folder()).iterdir():
        path.unlink()
    failing(monkeypatch, number)
    dataset = Dataset(manifest, Rows(2), ValueTerms({}, "error", None, None), ALONE)
    for save in (lambda: scan(ALONE, "s1.npy"), lambda: pickle.dumps(dataset)):
        with pytest.raises(error, match=f"another folder in {cache.VARIABLE}") as raised:
            save()
        assert type(raised.value) is error
        assert os.listdir(cache.folder()) == []
