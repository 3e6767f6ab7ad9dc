"""``arrayd health``: one line, and exit code 0 if all is well; for monitoring and containers."""

from __future__ import annotations

import argparse
import time

import arrayd
from arrayd.cli.common import Subparsers, add_command, print_json
from arrayd.errors import ArraydError, LoadTimeout
from arrayd.system import daemon_probe, launch

TIMEOUT = 5.0
"""Seconds in which a daemon that is well answers."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    help = "exit with 0 if the daemon answers in 5 s and its rules hold, else with 1"
    add_command(subparsers, "health", help, json=True)


def run(args: argparse.Namespace) -> int:
    """Ask; whatever is wrong is one line and exit code 1. Never start a daemon."""
    began = time.monotonic()
    words, healthy, pid = _asked(args.endpoint)
    milliseconds = 1000 * (time.monotonic() - began)
    if args.json:
        print_json({"healthy": healthy, "words": words, "pid": pid, "milliseconds": milliseconds})
    else:
        print(f"{words}, {milliseconds:.0f} ms" if healthy else f"unhealthy: {words}")
    return 0 if healthy else 1


def _asked(endpoint: str | None) -> tuple[str, bool, int | None]:
    """Return what is to say, whether all is well, and the daemon's pid if it has answered."""
    try:
        found = launch.find_endpoint(endpoint, start=False)
        if not daemon_probe.alive(found):
            return f"nobody listens at {found}, or admits you", False, None
        with arrayd.connect(found, start=False) as client:
            answer = client.health(TIMEOUT)
    except LoadTimeout:
        return f"no answer in {TIMEOUT:.0f} s", False, None
    except ArraydError as error:
        return " ".join(str(error).split()), False, None
    pid, broken, count = answer["pid"], answer["broken"], answer["blocks"]
    if broken:
        return f"pid {pid}: {broken} (a bug in arrayd)", False, pid
    return f"healthy: pid {pid}, {count} block{'' if count == 1 else 's'}", True, pid
