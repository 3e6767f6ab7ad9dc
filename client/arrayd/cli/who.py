"""``arrayd who``: who holds, or waits for, a file."""

from __future__ import annotations

import argparse

from arrayd.cli.common import Subparsers, add_command, print_json, running
from arrayd.cli.status import with_mappers
from arrayd.results.status_table import terminal_width


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
    else:
        print("\n".join(uses.lines(terminal_width())))
    return 0
