"""``arrayd evict``: free what nobody uses."""

from __future__ import annotations

import argparse

from arrayd.cli.common import Subparsers, add_command, print_json, running
from arrayd.common.bytesize import format_bytes
from arrayd.errors import NoSuchBlock


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "evict", "free the blocks of a source", json=True)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("source", nargs="?", help="as for `arrayd get`: all blocks of that file")
    which.add_argument("--block", metavar="N", help="number or segment name of one block")


def run(args: argparse.Namespace) -> int:
    """Evict, and print how much was freed; never start a daemon."""
    block = int(args.block) if args.block and args.block.isdecimal() else args.block
    with running(args.endpoint) as client:
        try:
            freed = client.evict(args.source, block=block)
        except NoSuchBlock as error:
            if block is None:
                raise
            words = f"No block {block} is in memory: `arrayd status` shows their numbers."
            raise NoSuchBlock(words) from error
    if args.json:
        print_json(freed)
    else:
        plural = "" if freed["blocks"] == 1 else "s"
        others = freed["arrays"] - freed["blocks"]
        more = f" of {freed['arrays']} arrays" if others else ""
        print(f"evicted {freed['blocks']} block{plural}{more}, {format_bytes(freed['bytes'])}")
    return 0
