"""`Client`: what a user sees of it."""

from __future__ import annotations

import re
from pathlib import Path

import arrayd
from arrayd import api

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
