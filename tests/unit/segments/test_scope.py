"""Names that nobody can guess, and what others may have made under those that anybody can."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from arrayd.errors import DaemonError
from arrayd_server.segments.scope import Scope
from tests.support.people import BOB


def test_names_cannot_be_guessed(tmp_path: Path) -> None:
    """Who knows scope, run and number does not know the name; all versions take it for one."""
    scope, other = Scope(f"ipc://{tmp_path}/sock"), Scope(f"ipc://{tmp_path}/sock")
    other.run = scope.run
    names = [scope.name(number) for number in (1, 2, 10**9)]
    assert names == [scope.name(number) for number in (1, 2, 10**9)]
    assert len({*names, *map(other.name, (1, 2, 10**9))}) == 6
    for number, name in zip((1, 2, 10**9), names, strict=True):
        assert name.startswith(f"{scope.family}{scope.run}-{number}")
        assert re.fullmatch(r"arrayd-[0-9a-f]{10}-[0-9a-f]{8}-[0-9]+", name)  # as of version 0.1
        assert len(name) == len(f"{scope.prefix}-{number}") + 12


@pytest.mark.parametrize(("make", "kind"), [(os.mkdir, "directory"), (Path.touch, "file")])
def test_somebody_else_has_made_our_directory(
    tmp_path: Path, make: Callable[[Path], None], kind: str
) -> None:
    """The daemon does not start; it is told whose it is, and what to do about it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it becomes another user")
    scope = Scope(f"ipc://{tmp_path}/sock")
    place = Path(scope.directory)
    make(place)
    try:
        os.chown(place, BOB, BOB)
        with pytest.raises(DaemonError, match=f"a {kind} of user {BOB} .*rm -rf {place}"):
            scope.__enter__()
        assert place.stat().st_uid == BOB
    finally:
        os.rmdir(place) if kind == "directory" else os.unlink(place)
