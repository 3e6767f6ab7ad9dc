"""``arrayd plan``: how a dataset would be delivered, in how much memory, and what is read."""

from __future__ import annotations

import argparse

import arrayd
from arrayd.cli.common import Subparsers, add_command, add_source_options, source_options
from arrayd.datasets.opening import dataset


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "plan", "tell how a dataset would be delivered to a training")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="[FIELD=]SOURCE",
        help="as for arrayd.dataset: x=train.h5:/x y=train.h5:/y, 'shards/*.npy', samples.txt",
    )
    parser.add_argument(
        "--budget", metavar="SIZE", help="memory for it; default: 80%% of the daemon's budget"
    )
    parser.add_argument(
        "--measure", action="store_true", help="read some rows, and tell how long an epoch takes"
    )
    parser.add_argument("--batch-size", type=int, default=256, metavar="ROWS", help="default: 256")
    add_source_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the dataset, and its plan."""
    options = source_options(args)
    with arrayd.connect(args.endpoint) as client:
        found = dataset(
            named(args.sources), budget=args.budget, client=client, progress=True, **options
        )
        print(found)
        print(found.plan(args.batch_size, measure=args.measure))
    return 0


def named(words: list[str]) -> str | list[str] | dict[str, str]:
    """Return the sources of a command line: by field if each has a name, else of one field."""
    pairs = [word.partition("=") for word in words]
    if all(equals and name.isidentifier() for name, equals, _ in pairs):
        return {name: where for name, _, where in pairs}
    return words[0] if len(words) == 1 else words
