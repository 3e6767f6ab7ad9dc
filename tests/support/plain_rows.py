"""What the tests of the compiled parser of text share: the parser, compiled from today's source."""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import HealthCheck, settings

from arrayd_server.loaders.text import build_plain_rows, plain_rows
from tests.support.text_files import Array

MANY = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return the parser, compiled from today's source."""
    made = tmp_path_factory.mktemp("compiled") / build_plain_rows.LIBRARY.name
    problem = build_plain_rows.compile_library(made)
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
