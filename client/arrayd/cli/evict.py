"""``arrayd evict``: free what nobody uses."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from arrayd.cli.common import Subparsers, add_command, complain, exit_code, print_json, running
from arrayd.client import Client
from arrayd.common.bytesize import format_bytes
from arrayd.errors import ArraydError, DaemonError, NoSuchBlock, to_wire


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "evict", "free the blocks of sources", json=True)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "sources",
        nargs="*",
        default=[],
        metavar="SOURCE",
        help="as for `arrayd get`: all blocks of that file",
    )
    which.add_argument("--block", metavar="N", help="number or segment name of one block")


def run(args: argparse.Namespace) -> int:
    """Evict, print how much was freed, and what could not be; never start a daemon."""
    freed, errors = Counter({"blocks": 0, "bytes": 0, "arrays": 0}), dict[str, ArraydError]()
    with running(args.endpoint) as client:
        if args.block is not None:
            freed.update(_freed(client, args.block))
        for source in args.sources:
            try:
                freed.update(client.evict(source))
            except DaemonError:
                raise
            except ArraydError as error:
                errors[source] = error
    if freed["blocks"]:  # one block may be that of many small files: it goes with the first
        errors = {one: error for one, error in errors.items() if not isinstance(error, NoSuchBlock)}
    if args.json:
        failed = [{"source": one, "error": to_wire(error)} for one, error in errors.items()]
        print_json({**freed, **({"errors": failed} if failed else {})})
    elif freed["blocks"]:
        print(_words(freed))
    for words in dict.fromkeys(map(str, errors.values())):
        complain(words)
    return exit_code(next(iter(errors.values()))) if errors else 0


def _freed(client: Client, words: str) -> dict[str, int]:
    try:
        return client.evict(block=int(words) if words.isdecimal() else words)
    except NoSuchBlock as error:
        raise NoSuchBlock(
            f"No block {words} is in memory: `arrayd status` shows their numbers."
        ) from error


def _words(freed: dict[str, Any]) -> str:
    plural = "" if freed["blocks"] == 1 else "s"
    more = f" of {freed['arrays']} arrays" if freed["arrays"] > freed["blocks"] else ""
    return f"evicted {freed['blocks']} block{plural}{more}, {format_bytes(freed['bytes'])}"
