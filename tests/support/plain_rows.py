"""What the tests of the compiled parser of text share: the parser, compiled from today's source."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from arrayd.common import compiling
from arrayd_server.loaders.text import plain_rows
from tests.support.text_files import Array

MANY = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return the parser, compiled from today's source."""
    source = Path(plain_rows.__file__).with_name("plain_rows.c")
    made = tmp_path_factory.mktemp("compiled") / plain_rows.LIBRARY.name
    problem = compiling.compile_library(source, made)
    if problem.startswith("there is no C compiler"):
        pytest.skip(problem)
    assert problem == ""
    found = plain_rows.loaded(made)
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def compiled(functions: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use it, whether or not the package was installed with one."""
    monkeypatch.setattr(plain_rows, "library", lambda: functions)


def equal(got: Array, want: Array) -> None:
    """Assert equality to the bit, signs of zeros and padding included."""
    assert (got.shape, got.dtype, got.tobytes()) == (want.shape, want.dtype, want.tobytes())
