"""``arrayd stop``: end the daemon, and wait until it has ended."""

from __future__ import annotations

import argparse

import arrayd
from arrayd.cli.common import Subparsers, add_command, print_json, running
from arrayd.system import daemon_probe

TIMEOUT = 10.0
"""Seconds that the daemon has for freeing memory (40 to 80 ms per GiB)."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    add_command(subparsers, "stop", "stop the daemon; arrays in use stay readable", json=True)


def run(args: argparse.Namespace) -> int:
    """Stop the daemon; never start one for that."""
    with running(args.endpoint) as client:
        end(client, client.status().pid, json=args.json)
    return 0


def end(client: arrayd.Client, pid: int, *, json: bool) -> None:
    """Stop a daemon, whose process is `pid`, and print what came of it."""
    client.stop()
    client.close()
    ended = daemon_probe.wait_ended(pid, TIMEOUT)
    if json:
        print_json({"endpoint": client.endpoint, "pid": pid, "ended": ended})
        return
    state = "stopped" if ended else "is still giving memory back"
    print(f"arrayd at {client.endpoint}, pid {pid}: {state}")
