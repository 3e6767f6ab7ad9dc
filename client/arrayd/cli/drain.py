"""``arrayd drain``: let a daemon come to rest, then stop it."""

from __future__ import annotations

import argparse
from time import sleep

import arrayd
from arrayd.cli.common import Subparsers, add_command, complain, running
from arrayd.cli.status import with_mappers
from arrayd.cli.stop import end
from arrayd.common.bytesize import format_bytes
from arrayd.common.users import user_name
from arrayd.results.status import DaemonStatus, Holder
from arrayd.results.status_table import printable

EVERY = 0.5
"""Seconds between two looks at who is left."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    help = "begin nothing new, wait until nobody holds anything, and stop; Ctrl-C takes it back"
    add_command(subparsers, "drain", help, json=True)


def run(args: argparse.Namespace) -> int:
    """Drain and stop, and tell meanwhile who is waited for; never start a daemon."""
    with running(args.endpoint) as client:
        pid = client.drain()
        try:
            _wait(client)
        except KeyboardInterrupt:
            complain(f"taken back: pid {pid} serves as before")
            raise
        end(client, client.status().pid, json=args.json)
    return 0


def _wait(client: arrayd.Client) -> None:
    """Return when nobody holds or maps anything, and nothing is under way."""
    told = ""
    while words := _busy(status := with_mappers(client.status())):
        if not status.draining:  # it was started anew
            client.drain()
        if words != told:
            complain(f"draining, waits for {words}")
            told = words
        sleep(EVERY)


def _busy(status: DaemonStatus) -> str:
    """Return what is to be waited for; an empty text: nothing."""
    jobs = len(status.jobs) + status.jobs_more
    parts = [f"{format_bytes(status.held)} in use"] if status.held else []
    parts += [f"{jobs} load{'s' * (jobs > 1)} under way"] if jobs else []
    parts += [f"{len(status.streams)} streams"] if status.streams else []
    people = [one for block in status.blocks for one in (*block.holders, *block.waiters)]
    mapped = sorted({pid for block in status.blocks for pid in block.mapped_by})
    words = [_named(people)] if people else []
    words += [f"mapped by {', '.join(map(str, mapped[:3]))}"] if mapped else []
    return ", ".join(parts) + (f": {'; '.join(words)}" if parts and words else "")


def _named(people: list[Holder]) -> str:
    """Return up to three processes, those that have been there longest, and how many more."""
    first = {one.pid: one for one in sorted(people, key=lambda one: -one.since)}
    words = [f"{one.pid} {printable(one.program)} {user_name(one.uid)}" for one in first.values()]
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")
