"""``arrayd status``: who holds what."""

from __future__ import annotations

import argparse

import arrayd
from arrayd.cli.common import Subparsers, add_command, print_json


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    add_command(subparsers, "status", "show the arrays in memory, and who holds them", json=True)


def run(args: argparse.Namespace) -> int:
    """Print the status of the daemon; never start one."""
    with arrayd.connect(args.endpoint, start=False) as client:
        status = client.status()
    if args.json:
        print_json(status.to_json())
    else:
        print(status)
    return 0
