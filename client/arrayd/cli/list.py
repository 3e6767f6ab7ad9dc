"""``arrayd list``: write the list of the files below a folder, one sample each."""

from __future__ import annotations

import argparse

from arrayd.cli.common import Subparsers
from arrayd.datasets.folder_files import write_list

HELP = "write the list of the files below a folder, for a dataset of one sample per file"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command; it needs no daemon."""
    parser = subparsers.add_parser("list", help=HELP, description=f"{HELP.capitalize()}.")
    parser.add_argument("folder", metavar="DIR", help="hidden files in it do not count")
    parser.add_argument("-o", "--out", required=True, metavar="LIST", help="replaced at the end")
    parser.add_argument(
        "--label-from",
        choices=("parent",),
        help="parent: add a column `label` with the name of each file's folder",
    )
    parser.add_argument(
        "--pattern", default="**/*", help="which paths below DIR; default: **/*, which is all"
    )
    parser.add_argument(
        "--suffix",
        dest="suffixes",
        action="append",
        metavar=".EXT",
        help="which files; may be repeated. Default: all",
    )


def run(args: argparse.Namespace) -> int:
    """Write the list, and print how many files it names."""
    count = write_list(args.folder, args.out, args.label_from, args.pattern, args.suffixes)
    print(f"{args.out}: {count} file{'' if count == 1 else 's'}")
    return 0
