"""What a request means, where neither a core nor a socket is needed to tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from arrayd.errors import DaemonError
from arrayd.source import Source
from arrayd_server import origin, requests
from arrayd_server.core.records import Wanted


class Shelf:
    """One that has a block of `/there.npy` alone."""

    def find(self, alias: object) -> str | None:
        """Return it."""
        return "block" if alias == origin.alias(_source("/there.npy"), None) else None


def _source(path: str) -> Any:
    return Source.from_wire({"path": path})


def _daemon(jobs: int) -> Any:
    registry = SimpleNamespace(shelf=Shelf(), jobs=SimpleNamespace(table=range(jobs)))
    return SimpleNamespace(registry=registry)


@pytest.mark.parametrize(
    ("path", "jobs", "refused"),
    [
        ("/new.npy", requests.MAX_JOBS - 1, False),
        ("/new.npy", requests.MAX_JOBS, True),
        ("/there.npy", requests.MAX_JOBS, False),
    ],
)
def test_one_load_too_many(path: str, jobs: int, refused: bool) -> None:
    """With so many under way no more are begun; what is in memory is to be had all the same."""
    wanted = requests._wanted(_daemon(jobs), {"source": {"path": path}, "stat": None})
    assert isinstance(wanted, DaemonError if refused else Wanted)


def test_nonsense_is_told_first() -> None:
    """A source that is none is an error of its own, however many loads there are."""
    wanted = requests._wanted(_daemon(requests.MAX_JOBS), {"source": {"path": 7}, "stat": None})
    assert "no source" in str(wanted)
