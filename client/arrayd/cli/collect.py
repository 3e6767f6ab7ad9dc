"""``arrayd collect``: many files into one HDF5 file."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
import warnings
from collections.abc import Iterator

import arrayd
from arrayd import PrecisionWarning
from arrayd.cli.bars import advance, bar, orderly_end
from arrayd.cli.common import Subparsers, add_command, add_format_options, complain, parse_dtype
from arrayd.common.bytesize import format_bytes
from arrayd.gather.hdf5 import COMPRESSIONS, LeftOutWarning, collect

HELP = "load many files in parallel and write them into one HDF5 file"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "collect", HELP)
    parser.add_argument("files", nargs="+", metavar="FILE", help="or FILE:MEMBER")
    parser.add_argument("-o", "--out", required=True, metavar="OUT.h5", help="replaced at the end")
    parser.add_argument(
        "--dtype", type=parse_dtype, help="the type in the files: f4, chr:S10,pos:i4 or a list"
    )
    parser.add_argument("--cast", type=parse_dtype, metavar="DTYPE", help="the type wanted")
    add_format_options(parser)
    parser.add_argument(
        "--compression", choices=(*COMPRESSIONS, "none"), default="none", help="default: none"
    )


def run(args: argparse.Namespace) -> int:
    """Collect, with a bar on a terminal, and print in one line what was written."""
    begin = time.monotonic()
    with orderly_end(), _warn_at_end(), arrayd.connect(args.endpoint) as client, bar() as progress:
        names = collect(
            client,
            args.files,
            args.out,
            compression=None if args.compression == "none" else args.compression,
            written=lambda done, total: advance(progress, done, total),
            dtype=args.dtype,
            cast=args.cast,
            format=args.format,
            **dict(args.options),
        )
    seconds = time.monotonic() - begin
    plural = "" if len(names) == 1 else "s"
    size = format_bytes(os.path.getsize(args.out))
    print(f"{args.out}: {len(names)} dataset{plural}, {size}, {seconds:.1f} s")
    return 0


@contextlib.contextmanager
def _warn_at_end() -> Iterator[None]:
    """Print each warning once, in a line, when all is written."""
    with warnings.catch_warnings(record=True) as caught:
        for category in (PrecisionWarning, LeftOutWarning):
            warnings.simplefilter("always", category)
        yield
    for words in dict.fromkeys(str(warning.message) for warning in caught):
        complain(words)
