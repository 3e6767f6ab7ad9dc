"""The matrix of deaths: `matrix.py` says what is proven of each case."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arrayd.common import failpoints
from tests.faults.matrix import Outcome, Worlds
from tests.faults.routes import Case, cases

WORLDS = 2
"""Worlds that live at the same time: most of a case is a process that starts."""


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> dict[str, Outcome]:
    """Let the chosen cases happen, and the worlds end; return what became of each."""
    mine = [item for item in request.session.items if item.path == request.path]
    chosen = [one.callspec.params["case"] for one in mine if hasattr(one, "callspec")]
    shares = [chosen[start::WORLDS] for start in range(WORLDS)]
    outcomes: dict[str, Outcome] = {}
    with (
        tempfile.TemporaryDirectory(prefix="ad", dir="/tmp") as name,
        ThreadPoolExecutor(WORLDS) as pool,
    ):
        folders = [Path(name) / str(number) for number in range(WORLDS)]
        for part in pool.map(_happen, folders, shares):
            outcomes |= part
    return outcomes


def _happen(folder: Path, share: list[Case]) -> dict[str, Outcome]:
    folder.mkdir()
    worlds, end = Worlds(folder), Outcome()
    outcomes = {str(case): worlds.run(case) for case in share}
    worlds.close(end)
    if share:  # what the end brings to light, the last case is told
        outcomes[str(share[-1])].violations += end.violations
    return outcomes


@pytest.mark.parametrize("case", [c for c in cases() if not c.by_hand], ids=str)
def test_nothing_is_lost_or_wrong(case: Case, outcomes: dict[str, Outcome]) -> None:
    """The user meets right values or an error of arrayd, and nothing of the fault is left."""
    assert outcomes[str(case)].violations == []


def test_every_point_is_in_the_matrix() -> None:
    """No failpoint is without a case, and no two cases are the same."""
    assert {case.point for case in cases()} == failpoints.POINTS.keys()
    assert len({str(case) for case in cases()}) == len(cases())
