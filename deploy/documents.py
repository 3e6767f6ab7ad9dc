"""Write the files of deploy/ that say what the code says: ``python -m deploy.documents``.

They are made of the command line's own parser and of the table of the daemon's options, and kept
in the repository, so that a package is built without this. A test compares them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import shtab

from arrayd import cli
from arrayd.cli.common import Parser
from arrayd.cli.completion import SHELLS
from arrayd_server.config import TABLE, flag
from arrayd_server.events import catalogue
from arrayd_server.option_text import toml_file
from deploy import manual

HERE = Path(__file__).resolve().parent

_FILES = {"FILE", "SOURCE", "[FIELD=]SOURCE", "LIST", "OUT.h5", "OUT.npy", "FILE.npy"}
"""What stands for a file in the usage of a command, to be completed as such."""

_FOLDERS = {"DIR", "DIRS"}

_MADE = """\
# Made by `python -m deploy.documents` of arrayd's own parser, with shtab (Apache-2.0,
# https://github.com/tqdm/shtab). Not to be changed by hand.
"""


def full_parser() -> Parser:
    """Return the parser of all commands, with the daemon's options at ``arrayd serve``."""
    parser = cli.build_parser()
    serve = commands(parser)["serve"]
    for name, option in TABLE.items():
        words = f"{option.help} (default: `{option.default}`)".replace("%", "%%")
        if option.is_switch:
            serve.add_argument(flag(name), action=argparse.BooleanOptionalAction, help=words)
        else:
            serve.add_argument(flag(name), metavar=option.metavar, help=words)
    return parser


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's commands; {}: it has none."""
    for action in manual.actions(parser):
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def completion(shell: str) -> str:
    """Return the program by which `shell` completes a command line of arrayd."""
    parser = full_parser()
    _prepare(parser, shell)
    lines = shtab.complete(parser, shell).splitlines()
    first = [lines.pop(0)] if lines[0].startswith("#compdef") else []
    while lines[0].startswith("#") or not lines[0]:  # how to install what is installed
        lines.pop(0)
    return "\n".join([*first, _MADE, *(line.rstrip() for line in lines)]) + "\n"


def _prepare(parser: argparse.ArgumentParser, shell: str) -> None:
    """Tell shtab what stands for a file, and keep its mistake with a colon from zsh."""
    for action in manual.actions(parser):
        known = {*_FILES, *_FOLDERS}.intersection([action.metavar])
        if known:
            action.complete = shtab.FILE if known & _FILES else shtab.DIRECTORY  # type: ignore[attr-defined]
        if shell == "zsh" and isinstance(action.metavar, str):
            action.metavar = action.metavar.replace(":", r"\:")
    for below in commands(parser).values():
        _prepare(below, shell)


def documents() -> Iterator[tuple[Path, str]]:
    """Yield each file of deploy/ that is made, and its text."""
    yield HERE / "arrayd.toml", toml_file()
    yield HERE / "system" / "arrayd.catalog", catalogue()
    yield HERE / "man" / "arrayd.1", manual.arrayd(full_parser())
    yield HERE / "man" / "arrayd.toml.5", manual.arrayd_toml()
    for shell in SHELLS:
        yield HERE / "completions" / f"arrayd.{shell}", completion(shell)


if __name__ == "__main__":
    for path, text in documents():
        path.write_text(text)
