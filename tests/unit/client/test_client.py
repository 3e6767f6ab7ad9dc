"""`Client`: what a user sees of it."""

from __future__ import annotations

import re
import time
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import arrayd
from arrayd import api
from arrayd.errors import NoRoom
from arrayd.session import local
from arrayd.session.request import FileRequest

README = Path(__file__).resolve().parents[3] / "README.md"


def test_the_public_names_are_documented() -> None:
    """A client has the functions of `arrayd`, and what the README says it has besides."""
    text = README.read_text(encoding="utf-8")
    (said,) = re.findall(
        r"All these functions are also\nmethods of an `arrayd\.Client`.*?\n\n", text, re.DOTALL
    )
    besides = {name.partition("(")[0] for name in re.findall(r"`(\w+(?:\(\))?)`", said)}
    functions = {name for name in arrayd.__all__ if callable(getattr(api, name, None))}
    functions = {name for name in functions if getattr(api, name).__module__ == api.__name__}
    public = {name for name in dir(arrayd.Client) if not name.startswith("_")}
    assert public == functions - {"connect"} | besides


def test_a_timeout_counts_from_the_beginning(
    monkeypatch: pytest.MonkeyPatch, short_directory: Path
) -> None:
    """What the look at each file takes is a part of it."""
    ends: list[Any] = []
    answers = [NoRoom("none") for _ in range(3)]

    def known(*call: Any) -> object:
        ends.extend([call[-1], time.monotonic() + 5])
        return FileRequest.of(call[2], {})

    def fetched(_: object, requests: Iterator[Any], terms: Any) -> list[NoRoom]:
        looked = len(list(requests))
        ends.append(terms.deadline)
        return answers[:looked]

    monkeypatch.setattr(local, "known", known)
    monkeypatch.setattr(arrayd.Client, "_fetched", fetched)
    with arrayd.connect(f"ipc://{short_directory}/none", start=False) as client:
        got = client.get_many(["name:a", "name:b"], timeout=5, return_errors=True)
    first, first_look, second, _, asked = ends
    assert got == answers[:2]
    assert first == second == asked <= first_look


@pytest.mark.parametrize(
    "name", ["connect", "create", "evict", "get", "get_many", "prefetch", "put"]
)
def test_hints_of_types_are_found(name: str) -> None:
    """Programs that read them, to check or to document calls, find what they name."""
    assert "return" in typing.get_type_hints(getattr(arrayd, name))
