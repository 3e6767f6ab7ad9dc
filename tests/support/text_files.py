"""What the tests of the text format share: tiny blocks, a reader, numpy as the oracle."""

from __future__ import annotations

import bz2
import gzip
import lzma
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from arrayd.errors import (
    ArraydError,
    BadFile,
)
from arrayd.source import Source
from arrayd_server.loaders.base import LoadPlan
from arrayd_server.loaders.text import loader as text
from arrayd_server.loaders.text import plain_rows, row_scan

METHYLATION = Path(__file__).parents[3] / "shared" / "data" / "methylation"
RECORD = np.dtype([("chr", "S10"), ("pos", "<i4"), ("pct", "<f4"), ("c", "<i4"), ("t", "<i4")])
QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make many blocks, parts and pieces of small files, and let numpy read them all.

    `test_text_plain.py` is about the compiled parser, which may or may not be there.
    """
    monkeypatch.setattr(plain_rows, "library", lambda: None)
    monkeypatch.setattr(row_scan, "BLOCK_BYTES", 16)
    monkeypatch.setattr(text, "PART_BYTES", 40)
    monkeypatch.setattr(text, "PIECE_BYTES", 12)
    monkeypatch.setattr(text, "_STEP", 3)


def read(source: Source, plan: LoadPlan) -> Array:
    """Fill every part of `plan`, as the segment writer does."""
    storage = np.zeros(plan.storage_shape, plan.dtype)
    end = 0
    for part in plan.parts:
        assert part.start == end
        for chunk in text.fill(source, plan, part):
            storage[end : end + len(chunk)] = chunk
            end += len(chunk)
        assert part.stop == end
    assert not storage.size or end == len(storage)
    return storage.reshape(plan.shape) if plan.order == "C" else storage.T


def load(path: Path, **wish: Any) -> Array:
    """Load `path` through probe and fill."""
    source = Source.of(path, format="text", **wish)
    return read(source, text.probe(source))


def expected(path: Path, rows: slice | None = None, **options: Any) -> Array:
    """Return what `numpy.loadtxt` makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array: Array = np.loadtxt(path, **options)
    return array if rows is None else array[rows]


def outcome(function: Any, *args: Any, **options: Any) -> Any:
    """Return the array as comparable data, or that it failed for a reason of the file."""
    try:
        array = function(*args, **options)
    except (ArraydError, ValueError, TypeError, IndexError):
        return "failed"
    return array.shape, array.dtype, array.tobytes()


def loses(path: Path, dtype: Any = float, **options: Any) -> bool:
    """Say whether `numpy.loadtxt` changes a value of a text that it reads: cut, or made inf."""
    kept = {k: v for k, v in options.items() if k not in ("unpack", "ndmin")}
    texts = expected(path, dtype=object, ndmin=2, **kept).reshape(-1)
    whole = np.dtype(dtype)
    rows = expected(path, dtype=whole, ndmin=1 if whole.names else 2, **kept)
    values = rows.reshape(-1) if whole.names is None else _leaves(rows.tolist())
    limit = whole.itemsize // {"S": 1, "U": 4}.get(whole.kind, 1)
    if whole.kind in "SU":
        return any(len(text) > limit for text in texts)
    return any(
        "inf" not in text and np.isinf(value) for text, value in zip(texts, values, strict=True)
    )


def _leaves(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple, np.ndarray)):
        return [value]
    return [leaf for inner in value for leaf in _leaves(inner)]


def same(path: Path, **wish: Any) -> None:
    """Assert that we read exactly what numpy reads."""
    got, want = load(path, **wish), expected(path, **wish)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_array_equal(got, want)


def written(tmp_path: Path, content: str | bytes, name: str = "a.txt") -> Path:
    """Write `content` without translating line ends; by suffix also compressed."""
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    path = tmp_path / name
    with openers.get(path.suffix, open)(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path


TABLE = "".join(f"{i} {i * 0.5}  # row {i}\n" for i in range(40))


def bad_line(path: Path, **wish: Any) -> BadFile:
    """Return the error of reading `path`."""
    with pytest.raises(BadFile) as caught:
        load(path, **wish)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return caught.value
