"""``arrayd info``: what files hold, without loading them."""

from __future__ import annotations

import argparse
from typing import Any

import arrayd
from arrayd import ArraydError, Info
from arrayd.cli.common import (
    Subparsers,
    add_command,
    add_source_options,
    complain,
    dtype_words,
    exit_code,
    parse_seconds,
    print_json,
    source_options,
)
from arrayd.common.bytesize import format_bytes
from arrayd.errors import DaemonError, to_wire
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
    """Describe each source that can be read, and print the errors of the others."""
    options = source_options(args)
    results: list[tuple[str, Info | ArraydError]] = []
    with arrayd.connect(args.endpoint) as client:
        for source in args.sources:
            try:
                results.append((source, client.info(source, timeout=args.timeout, **options)))
            except ArraydError as error:
                results.append((source, error))
                if isinstance(error, DaemonError):  # it would be that of the others too
                    break
    infos = [result for _, result in results if isinstance(result, Info)]
    if args.json:
        print_json([_plain(source, result) for source, result in results])
    elif infos:
        print("\n".join(_words(info) for info in infos))
    errors = [result for _, result in results if isinstance(result, ArraydError)]
    for words in errors:
        complain(words)
    return exit_code(errors[0]) if errors else 0


def _words(info: Info) -> str:
    lines = [info.source, f"  {info.format}, {format_bytes(info.bytes)}"]
    if info.shape is not None and info.dtype is not None:
        unit = min([info.unit or 0, *info.shape[:1]])
        decoded = f", decoded {unit:,} rows at a time" if unit else ""
        lines += [f"  {info.shape} {dtype_words(info.dtype)}, order {info.order}{decoded}"]
    width = max((len(member.name) for member in info.members), default=0)
    lines += [f"  {member.name:<{width}}  {_member(member)}" for member in info.members]
    lines += [f"  from {file.path}, {_size(file)}" for file in info.files]
    return "\n".join(lines)


def _member(member: Member) -> str:
    problem = f"  ({member.problem})" if member.problem else ""
    return f"{member.shape} {dtype_words(member.dtype)}{problem}"


def _size(file: LinkedFile) -> str:
    return "not there" if file.bytes is None else format_bytes(file.bytes)


def _plain(source: str, info: Info | ArraydError) -> dict[str, Any]:
    if isinstance(info, ArraydError):
        return {"source": source, "error": to_wire(info)}
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
