"""``arrayd who``: who holds, or waits for, a file."""

from __future__ import annotations

import argparse
import os
import sys

from arrayd.cli.common import Subparsers, add_command, print_json, running
from arrayd.cli.status import with_mappers
from arrayd.results.status_table import printable, terminal_width
from arrayd.source import Source


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "who", "tell who holds, or waits for, a file", json=True)
    parser.add_argument("source", metavar="FILE", help="or FILE:MEMBER, name:NAME")


def run(args: argparse.Namespace) -> int:
    """Print a line for each process; never start a daemon."""
    with running(args.endpoint) as client:
        uses = with_mappers(client.who(args.source))
    if args.json:
        print_json(uses.to_json())
        return 0
    print("\n".join(uses.lines(terminal_width())))
    if not uses.blocks and not uses.jobs and (path := _missing(args.source)):
        print(f"(there is no file {path})", file=sys.stderr)
    return 0


def _missing(source: str) -> str:
    """Return the path that a source means, if there is nothing; ``""``: there is, or it is a name.

    What a mistyped name meets is the same as what a file that nobody uses meets.
    """
    paths = [meant.path for meant in Source.meanings(source)]
    absent = [path for path in paths if path and not os.path.lexists(path)]
    return printable(absent[0]) if len(absent) == len(paths) else ""
