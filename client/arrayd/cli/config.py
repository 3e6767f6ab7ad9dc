"""``arrayd config check``: say what is wrong with a file of the daemon's options."""

from __future__ import annotations

import argparse
import os

from arrayd.cli.common import Subparsers, become

SYSTEM_FILE = "/etc/arrayd/arrayd.toml"
"""Of the daemon for the machine."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    help = "check a file of the daemon's options"
    parser = subparsers.add_parser("config", help=help, description=f"{help.capitalize()}.")
    what = parser.add_subparsers(dest="what", metavar="check", required=True)
    check = what.add_parser("check", help="say of each error its line, its key and the remedy")
    check.add_argument(
        "file", metavar="FILE", nargs="?", help=f"default: $ARRAYD_CONFIG, else {SYSTEM_FILE}"
    )


def run(args: argparse.Namespace) -> int:
    """Become the server's program for this, which knows the options."""
    path = args.file or os.environ.get("ARRAYD_CONFIG") or SYSTEM_FILE
    become("arrayd_server.config_check", os.path.abspath(os.path.expanduser(path)))
