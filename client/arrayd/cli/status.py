"""``arrayd status``: who holds what."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import TypeVar

from arrayd.cli.common import Subparsers, add_command, print_json, running
from arrayd.results.status import Elsewhere
from arrayd.results.status_table import Status
from arrayd.results.uses import Uses
from arrayd.system import launch, other_daemons
from arrayd.system.segment_mappers import mappers

_Told = TypeVar("_Told", Status, Uses)


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    add_command(subparsers, "status", "show the arrays in memory, and who holds them", json=True)


def run(args: argparse.Namespace) -> int:
    """Print the status of the daemon; never start one."""
    with running(args.endpoint) as client:
        status = with_others(with_mappers(client.status()))
    if args.json:
        print_json(status.to_json())
    else:
        print(status)
    return 0


def with_others(status: Status) -> Status:
    """Return a status that tells of the other daemons of the machine as well."""
    sums = other_daemons.segments_besides(status.scope).items()
    elsewhere = [Elsewhere(uid, count, size) for uid, (count, size) in sums]
    private = launch.private_endpoint()
    runs = status.uid != os.geteuid() and launch.serves(private)
    return replace(
        status,
        elsewhere=tuple(sorted(elsewhere, key=lambda one: -one.size)),
        private_daemon=private if runs else "",
    )


def with_mappers(told: _Told) -> _Told:
    """Return a status that names who maps blocks that nobody holds, as far as /proc shows it."""
    found = mappers({block.segment for block in told.blocks if block.state == "stray"})
    blocks = (
        replace(block, mapped_by=found[block.segment]) if found.get(block.segment) else block
        for block in told.blocks
    )
    return replace(told, blocks=tuple(blocks)) if found else told
