"""The tables of `lifecycle`: nothing changes a stage or a state but by them."""

from __future__ import annotations

import ast
from enum import Enum
from itertools import chain
from pathlib import Path

import pytest

import arrayd_server
from arrayd_server.core import lifecycle
from arrayd_server.core.model import Job, Stage, State

SERVER = Path(arrayd_server.__file__).parent
README = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")


def changed(path: Path) -> set[str]:
    """Return the attributes that a module assigns to, by whatever statement."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)
    }


def test_only_the_tables_change_a_stage_or_a_state() -> None:
    """Every assignment to ``.stage`` or ``.state`` in the daemon is in `lifecycle`."""
    culprits = {path.name for path in SERVER.rglob("*.py") if {"stage", "state"} & changed(path)}
    assert culprits == {"lifecycle.py"}


@pytest.mark.parametrize("steps", [lifecycle.STAGES, lifecycle.STATES], ids=["stages", "states"])
def test_every_life_begins_and_ends(steps: lifecycle.Steps) -> None:
    """What can be entered can be left, and the end is in reach."""
    entered = set(chain.from_iterable(steps.values()))
    assert entered == set(steps)
    assert entered - {None} in (set(Stage), set(State))
    ending: set[Enum | None] = {None}
    for _ in steps:
        ending |= {old for old, news in steps.items() if ending & news.keys()}
    assert ending == entered


def test_a_step_that_is_in_no_table_raises() -> None:
    """From stage to stage, and into a life: an AssertionError that names the step."""
    job = Job(1, Stage.QUEUED, "source", 0.0)
    with pytest.raises(AssertionError, match=r"from Stage\.QUEUED to Stage\.SEALING"):
        lifecycle.set_stage(job, Stage.SEALING)
    assert job.stage is Stage.QUEUED
    with pytest.raises(AssertionError, match=r"from None to State\.UNLINKED"):
        lifecycle.check_step(None, State.UNLINKED)


def test_the_readme_shows_the_tables() -> None:
    """As `drawing` renders them."""
    assert f"```text\n{lifecycle.drawing()}\n```" in README
