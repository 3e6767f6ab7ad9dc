"""What the tests of `attach.c` share: both ways, compiled from today's source and in Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from arrayd.common import compiling
from arrayd.system import attach


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> attach.Functions:
    """Return `attach.c`, compiled from today's source."""
    made = tmp_path_factory.mktemp("compiled") / Path(attach.LIBRARY).name
    problem = compiling.compile_library(Path(attach.__file__).with_name("attach.c"), made)
    if problem.startswith("there is no C compiler"):
        pytest.skip(problem)
    assert problem == ""
    found = attach.loaded(str(made))
    assert found is not None
    return found


@pytest.fixture(params=["compiled", "step by step"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Go each of the two ways."""
    by_c = request.param == "compiled"
    monkeypatch.setattr(attach, "functions", request.getfixturevalue("compiled") if by_c else None)
    return str(request.param)
