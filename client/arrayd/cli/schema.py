"""``arrayd schema``: what the JSON of a command means."""

from __future__ import annotations

import argparse

from arrayd.cli import schemas
from arrayd.cli.common import Subparsers, print_json


def add_parser(subparsers: Subparsers) -> None:
    """Add the command; it needs no daemon."""
    help = "print the JSON Schema of what a command prints with --json"
    parser = subparsers.add_parser("schema", help=help, description=f"{help.capitalize()}.")
    parser.add_argument("of", choices=schemas.COMMANDS, metavar="COMMAND", help="which command")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    print_json(schemas.schema(args.of))
    return 0
