"""``arrayd info``: what files hold, without loading them."""

from __future__ import annotations

import argparse
from typing import Any

import arrayd
from arrayd import Info
from arrayd.cli.common import (
    Subparsers,
    add_command,
    add_source_options,
    dtype_words,
    parse_seconds,
    print_json,
    source_options,
)
from arrayd.common.bytesize import format_bytes
from arrayd.results.info import LinkedFile, Member
from arrayd.wire.dtypes import descr


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "info", "tell what files hold, without loading", json=True)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="as for `arrayd get`")
    add_source_options(parser)
    parser.add_argument(
        "--timeout",
        type=parse_seconds,
        metavar="SECONDS",
        help="give up after so long, for each file",
    )


def run(args: argparse.Namespace) -> int:
    """Describe each source."""
    options = source_options(args)
    with arrayd.connect(args.endpoint) as client:
        infos = [client.info(source, timeout=args.timeout, **options) for source in args.sources]
    if args.json:
        print_json([_plain(info) for info in infos])
    else:
        print("\n".join(_words(info) for info in infos))
    return 0


def _words(info: Info) -> str:
    lines = [info.source, f"  {info.format}, {format_bytes(info.bytes)}"]
    if info.shape is not None and info.dtype is not None:
        unit = f", decoded {min(info.unit, info.shape[0]):,} rows at a time" if info.unit else ""
        lines += [f"  {info.shape} {dtype_words(info.dtype)}, order {info.order}{unit}"]
    width = max((len(member.name) for member in info.members), default=0)
    lines += [f"  {member.name:<{width}}  {_member(member)}" for member in info.members]
    lines += [f"  from {file.path}, {_size(file)}" for file in info.files]
    return "\n".join(lines)


def _member(member: Member) -> str:
    problem = f"  ({member.problem})" if member.problem else ""
    return f"{member.shape} {dtype_words(member.dtype)}{problem}"


def _size(file: LinkedFile) -> str:
    return "not there" if file.bytes is None else format_bytes(file.bytes)


def _plain(info: Info) -> dict[str, Any]:
    return {
        "source": info.source,
        "format": info.format,
        "bytes": info.bytes,
        "shape": info.shape,
        "dtype": None if info.dtype is None else descr(info.dtype),
        "order": info.order,
        "unit": info.unit,
        "members": [
            {"name": m.name, "shape": m.shape, "dtype": descr(m.dtype), "problem": m.problem}
            for m in info.members
        ],
        "files": [{"path": file.path, "bytes": file.bytes} for file in info.files],
    }
