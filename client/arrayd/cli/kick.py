"""``arrayd kick``: end the sessions of a process that does not let go."""

from __future__ import annotations

import argparse

from arrayd.cli.common import Subparsers, add_command, print_json, running
from arrayd.common.users import user_name
from arrayd.results.status_table import printable


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    help = "end the sessions of a process: its holds end, its arrays stay readable"
    parser = add_command(subparsers, "kick", help, json=True)
    parser.add_argument("pid", type=_pid, metavar="PID", help="as `arrayd status` shows it")


def run(args: argparse.Namespace) -> int:
    """Kick, and print what has ended; never start a daemon."""
    with running(args.endpoint) as client:
        ended = client.kick(args.pid)
    if args.json:
        print_json(ended)
    else:
        who = f"{args.pid} {printable(ended['program'])} {user_name(ended['uid'])}"
        print(f"{who}: {_counted(ended, 'session')} and {_counted(ended, 'hold')} ended")
    return 0


def _pid(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no process id; `arrayd status` shows them")


def _counted(ended: dict[str, int], what: str) -> str:
    count = ended[f"{what}s"]
    return f"{count} {what}{'' if count == 1 else 's'}"
