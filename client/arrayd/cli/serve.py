"""``arrayd serve``: become the daemon."""

from __future__ import annotations

import argparse

from arrayd.cli.common import Subparsers, become


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the list; its options are the daemon's own."""
    subparsers.add_parser("serve", help="run the daemon, in the foreground", add_help=False)


def run(args: argparse.Namespace) -> int:
    """Replace this process by the daemon."""
    become("arrayd_server", *args.arguments)
