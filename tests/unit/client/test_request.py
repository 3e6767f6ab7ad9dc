"""Requests of the same words: which are remembered, and that they mean what they meant before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from arrayd.errors import ArraydError, SourceNotFound, SpecMismatch
from arrayd.session import request
from arrayd.session.locking import VARIABLE, with_locking
from arrayd.session.request import FileRequest
from arrayd.source import Source

values = st.sampled_from(
    [None, 0, 1, True, False, 1.0, "f4", np.float32, np.dtype("f4"), "C", "error", b"x", (1, 2)]
)
keys = st.sampled_from(["dtype", "cast", "order", "skiprows", "comments", "member", "usecols"])


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "_known", {})


def meant(source: Any, options: dict[str, Any]) -> Any:
    """Return the source that a request asks for, or its error."""
    try:
        found = FileRequest.of(source, options).source
    except ArraydError as error:
        return type(error), error.message
    return found, {key: type(value) for key, value in found.options}


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(calls=st.lists(st.dictionaries(keys, values, max_size=3), min_size=2, max_size=6))
def test_what_is_remembered_is_what_would_be_found(
    tmp_path_factory: pytest.TempPathFactory, calls: list[dict[str, Any]]
) -> None:
    """Also for options that are equal to others of another type."""
    path = tmp_path_factory.getbasetemp() / "x.txt"
    path.touch()
    for options in calls * 2:
        found = meant(str(path), options)
        kept, request._known = request._known, {}
        assert found == meant(str(path), options)
        request._known = kept


def test_each_look_is_at_the_file_as_it_is(tmp_path: Path) -> None:
    """What is remembered is the meaning of the words, not the state of the file."""
    path = tmp_path / "x.npy"
    np.save(path, np.zeros(3))
    first = FileRequest.of(str(path), {})
    assert FileRequest.of(str(path), {}).source is first.source
    path.write_bytes(b"longer than before" * 100)
    assert FileRequest.of(str(path), {}) != first
    path.unlink()
    with pytest.raises(SourceNotFound):
        FileRequest.of(str(path), {})


def test_words_whose_meaning_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path, a colon, and what the environment says of locks are looked at anew."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.npy").touch()
        monkeypatch.chdir(tmp_path / name)
        assert FileRequest.of("x.npy", {}).source.path == str(tmp_path / name / "x.npy")
    (tmp_path / "f.npz").touch()
    assert FileRequest.of(f"{tmp_path}/f.npz:m", {}).source.member == "m"
    (tmp_path / "f.npz:m").touch()
    assert FileRequest.of(f"{tmp_path}/f.npz:m", {}).source.member is None
    path = tmp_path / "h.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000))
    assert FileRequest.of(str(path), {}).source.option == {}
    monkeypatch.setenv(VARIABLE, "FALSE")
    assert FileRequest.of(str(path), {}).source == with_locking(Source.of(path))
    assert FileRequest.of(str(path), {}).source.option == {"locking": False}


def test_errors_are_errors_again(tmp_path: Path) -> None:
    """Nothing is remembered of a wrong request; and no more than some thousands of right ones."""
    (tmp_path / "x.npy").touch()
    for _ in range(2):
        with pytest.raises(SpecMismatch):
            FileRequest.of(str(tmp_path / "x.npy"), {"order": "Z"})
        with pytest.raises(SpecMismatch):
            FileRequest.of(str(tmp_path / "x.npy"), {"rows": slice(0, 2, 0)})
    assert not request._known
    for number in range(request._SPELLINGS + 10):
        os.link(tmp_path / "x.npy", path := f"{tmp_path}/{number}.npy")
        FileRequest.of(path, {})
        os.unlink(path)
    assert 0 < len(request._known) <= request._SPELLINGS
