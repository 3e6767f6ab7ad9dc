"""The file of options: TOML, ``name = value``, read so that an error can say where it is."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """An option cannot be used: one line that names it, its origin and the allowed form."""


@dataclass(frozen=True, slots=True)
class Given:
    """The text of an option, and how its owner would recognise it.

    Parameters
    ----------
    parts
        Of a table, how its owner would recognise each of its entries.
    """

    text: str
    origin: str
    parts: Mapping[str, str] = field(default_factory=dict)


def read(
    path: Path, known: Sequence[str], tables: Container[str] = ()
) -> dict[str, Given | ConfigError]:
    """Return what a file sets; an error in place of what it cannot set.

    Parameters
    ----------
    path
        Of the file.
    known, tables
        The options that it may set, and those of them that may be tables of tables.

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
    found: dict[str, Given | ConfigError] = {}
    for key, value in content.items():
        if key in tables and isinstance(value, dict):
            found[key] = _table(path, text, key, value)
        else:
            found[key] = _entry(f"config {path}{_line(text, key)}", key, value, known)
    return found


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


def _table(path: Path, text: str, key: str, table: dict[str, Any]) -> Given | ConfigError:
    """Return a table of tables in one line, ``WHO: LIMIT=VALUE, …; WHO: …``."""
    parts, words = {}, []
    for name, entry in table.items():
        parts[name] = f"config {path}{_line(text, name, key) or _line(text, key)}: {key}"
        values = entry if isinstance(entry, dict) else {"": entry}
        texts = {limit: text_of(value) for limit, value in values.items()}
        said = [f"{limit}={value}" for limit, value in texts.items()]
        odd = not entry or None in texts.values() or "" in texts
        if odd or re.search("[;,:=]", "".join([name, *texts, *map(str, texts.values())])):
            form = f'write "{name}" = {{bytes = "80G", sessions = 200}}'
            return ConfigError(f"{parts[name]}: {name}: {form}.")
        words.append(f"{name}: {', '.join(said)}")
    place = f"config {path}{_line(text, key)}: {key}"
    return Given("; ".join(words) or "none", place, parts)


def _line(text: str, key: str, table: str = "") -> str:
    """Return where in a TOML file a key is set, or one of a table: ``, line 3``."""
    name = rf"[\"']?{re.escape(key)}[\"']?"
    begin = 0
    if table:
        name = rf"({re.escape(table)}[ \t]*\.[ \t]*)?{name}"
        header = re.search(rf"^[ \t]*\[*[ \t]*{re.escape(table)}\b", text, re.MULTILINE)
        begin = header.start() if header else 0
    pattern = re.compile(rf"^[ \t]*({name}[ \t]*[.=]|\[+[ \t]*{name})", re.MULTILINE)
    found = pattern.search(text, begin)
    return f", line {text.count(chr(10), 0, found.start()) + 1}" if found else ""
