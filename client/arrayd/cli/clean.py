"""``arrayd clean``: remove from /dev/shm what daemons that were killed have left."""

from __future__ import annotations

import argparse

from arrayd.cli.common import Subparsers, become

HELP = "remove what nobody maps and no living daemon owns"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    subparsers.add_parser("clean", help=HELP, description=f"{HELP.capitalize()}.")


def run(args: argparse.Namespace) -> int:  # noqa: ARG001 - every command takes them
    """Hand over to the server's side, which knows locks and leases."""
    become("arrayd_server.clean")
