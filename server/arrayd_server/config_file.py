"""The file of options: TOML, ``name = value``, read so that an error can say where it is."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """An option cannot be used: one line that names it, its origin and the allowed form."""


@dataclass(frozen=True, slots=True)
class Given:
    """The text of an option, and how its owner would recognise it."""

    text: str
    origin: str


def read(path: Path, known: Sequence[str]) -> dict[str, Given | ConfigError]:
    """Return what a file sets; an error in place of what it cannot set.

    Parameters
    ----------
    path
        Of the file.
    known
        The options that it may set.

    Raises
    ------
    ConfigError
        There is no such file, or it is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"config {path}: {error.strerror}.") from None
    except ValueError as error:  # TOML's and UTF-8's alike
        raise ConfigError(f"config {path}: not a TOML file: {error}.") from None
    return {
        key: _entry(f"config {path}{_line(text, key)}", key, value, known)
        for key, value in content.items()
    }


def text_of(value: Any) -> str | None:
    """Return what would be typed for a value of argparse or TOML; None: nothing could."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (str, int, float)) else None


def _entry(place: str, key: str, value: Any, known: Sequence[str]) -> Given | ConfigError:
    if key not in known:
        near = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"options are {', '.join(known)}."
        return ConfigError(f"{place}: unknown option {key}; {hint}")
    text = text_of(value)
    if text is None:
        return ConfigError(f"{place}: {key}: write a string, a number, true or false.")
    return Given(text, f"{place}: {key} = {text}")


def _line(text: str, key: str) -> str:
    """Return where in a TOML file a key is set: ``, line 3``."""
    name = rf"[\"']?{re.escape(key)}[\"']?"
    found = re.search(rf"^[ \t]*({name}[ \t]*[.=]|\[+[ \t]*{name})", text, re.MULTILINE)
    return f", line {text.count(chr(10), 0, found.start()) + 1}" if found else ""
