"""``arrayd clean``: remove from /dev/shm what daemons that were killed have left."""

from __future__ import annotations

import argparse

from arrayd.cli.common import Subparsers, become
from arrayd.system import launch

HELP = "remove what nobody maps and no living daemon owns"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser("clean", help=HELP, description=f"{HELP.capitalize()}.")
    parser.add_argument(
        "--endpoint",
        metavar="ipc://PATH",
        help="clean up after this daemon alone; default: after all of this user's",
    )


def run(args: argparse.Namespace) -> int:
    """Become the server's program for this, which knows locks and leases."""
    only = [] if args.endpoint is None else [launch.normalize(args.endpoint)]
    become("arrayd_server.segments.clean", *only)
