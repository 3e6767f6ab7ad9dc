"""``arrayd report``: what fewer bits would cost, before anyone trains."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import arrayd
from arrayd import Client, Source
from arrayd.cli.bars import advance, bar
from arrayd.cli.common import (
    Subparsers,
    add_command,
    add_source_options,
    dtype_words,
    print_json,
    source_options,
)
from arrayd.datasets.report import FieldReports, smaller
from arrayd.datasets.slices import Sliced
from arrayd.wire.dtypes import descr

HELP = "tell what a cast to fewer bits would cost"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "report", HELP, json=True)
    parser.add_argument("source", metavar="FILE", help="or FILE:MEMBER, name:NAME")
    add_source_options(parser)


def run(args: argparse.Namespace) -> int:
    """Read the source once, in slices, and print the report of each cast."""
    options = source_options(args)
    cast = options.pop("cast", None)
    options.pop("overflow", None)  # the report tells what each choice would mean
    with arrayd.connect(args.endpoint) as client:
        one = Sliced.of(client, Source.of(args.source, **options))
        targets = smaller(one.dtype) if cast is None else [cast]
        reports = [FieldReports(one.dtype, target) for target in targets]
        _read(client, one, reports)
    if args.json:
        print_json(_plain(one, reports))
    else:
        print(f"{one.source}: {one.shape} {dtype_words(one.dtype)}")
        print("\n".join(map(str, reports)))
    return 0


def _read(client: Client, one: Sliced, reports: Sequence[FieldReports]) -> None:
    with bar() as progress:
        done = 0
        for _, rows in one.slices(client):
            for report in reports:
                report.add(rows)
            done += rows.nbytes
            del rows
            advance(progress, done, one.nbytes)


def _plain(one: Sliced, reports: Sequence[FieldReports]) -> dict[str, Any]:
    return {
        "source": str(one.source),
        "shape": one.shape,
        "dtype": descr(one.dtype),
        "reports": [
            {"target": descr(report.target), "fields": report.to_plain()} for report in reports
        ],
    }
