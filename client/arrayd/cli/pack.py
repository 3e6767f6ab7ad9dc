"""``arrayd pack``: the rows of many files in one ``.npy``."""

from __future__ import annotations

import argparse
import os
import shlex
import time

import arrayd
from arrayd.cli.bars import advance, bar, orderly_end
from arrayd.cli.common import Subparsers, add_command, add_format_options, complain, parse_dtype
from arrayd.common.bytesize import format_bytes
from arrayd.datasets.pack import PART, pack
from arrayd.source import OVERFLOWS

HELP = "write the rows of many files into one .npy, in bounded memory"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "pack", HELP)
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="FILE, FILE:MEMBER, a pattern, or a list of files, each one row; in order",
    )
    parser.add_argument("-o", "--out", required=True, metavar="OUT.npy", help="replaced at the end")
    parser.add_argument("--cast", type=parse_dtype, metavar="DTYPE", help="the type wanted")
    parser.add_argument(
        "--overflow", choices=OVERFLOWS, default="error", help="values beyond --cast"
    )
    parser.add_argument(
        "--restart", action="store_true", help="begin anew, whatever an earlier run has left"
    )
    parser.add_argument("--dataset", metavar="NAME", help="HDF5 dataset or npz member, of all")
    parser.add_argument("--dtype", type=parse_dtype, help="the type in the files")
    add_format_options(parser)


def run(args: argparse.Namespace) -> int:
    """Pack, with a bar on a terminal; print what was written, and what a cast has done."""
    begin = time.monotonic()
    try:
        with orderly_end(), arrayd.connect(args.endpoint) as client, bar() as progress:
            done = pack(
                client,
                args.sources,
                args.out,
                cast=args.cast,
                overflow=args.overflow,
                restart=args.restart,
                written=lambda done, total: advance(progress, done, total),
                dataset=args.dataset,
                dtype=args.dtype,
                format=args.format,
                **dict(args.options),
            )
    except (KeyboardInterrupt, SystemExit):
        words = [word for word in args.words if word != "--restart"]
        complain(
            f"interrupted; what is packed stays in {args.out}{PART}. This goes on: "
            f"{shlex.join(['arrayd', *words])}"
        )
        raise
    if done.report is not None:
        print(done.report.words(args.overflow))
    size = format_bytes(os.path.getsize(done.path))
    print(
        f"{args.out}: {done.rows} rows of {done.sources} source{'s' * (done.sources > 1)}, {size}, "
        f"{time.monotonic() - begin:.1f} s"
    )
    return 0
