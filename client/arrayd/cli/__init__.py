"""The command line: ``arrayd COMMAND …``.

Each command is a module of its name (``-`` as ``_``) with ``add_parser(subparsers)`` and
``run(args) -> int``; only the one that is asked for is imported.

Exit codes: 0 ok · 1 a request failed · 2 usage · 3 no daemon · 4 no room · 130 Ctrl-C ·
143 SIGTERM during `collect` or `pack`.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from arrayd.cli.common import Parser, UsageError, complain, exit_code
from arrayd.errors import ArraydError
from arrayd.wire.protocol import PACKAGE_VERSION

COMMANDS = (
    *("serve", "status", "top", "get", "info", "evict", "who", "kick", "drain", "stop", "clean"),
    *("doctor", "health", "config", "install-service", "completion", "schema"),
    *("collect", "pack", "report", "list", "plan", "receipt", "demo"),
)

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    Parameters
    ----------
    argv
        Its words, without the program's name; None: those of this process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names that are no UTF-8 are printed as `ls` does
            stream.reconfigure(errors="surrogateescape")
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except SystemExit as end:  # --help and --version have printed
        return int(end.code or 0)
    except BrokenPipeError:
        _give_up_output()
        return 0
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (ArraydError, UsageError, OSError) as error:
        complain(error)
        return exit_code(error)
    return code


def _run(argv: Sequence[str]) -> int:
    args = _parse(argv)
    code: int = _module(args.command).run(args)
    return code


# Not list(…): once the command is imported, that name is the module arrayd.cli.list here.
def _parse(argv: Sequence[str]) -> argparse.Namespace:
    if [*argv[:1]] == ["serve"]:  # all that follows is for the daemon, --help too
        return argparse.Namespace(command="serve", arguments=argv[1:])
    names = [*argv[:1]] if {*argv[:1]} & {*COMMANDS} else COMMANDS
    return build_parser(names).parse_args(argv, argparse.Namespace(words=[*argv]))


def build_parser(names: Sequence[str] = COMMANDS) -> Parser:
    """Return the parser of the commands `names`, whose modules are imported."""
    parser = Parser(
        prog="arrayd",
        description="One copy of your big NumPy arrays per machine, shared by every process.",
        epilog="`arrayd COMMAND --help` tells more about one.",
    )
    parser.add_argument("--version", action="version", version=f"arrayd {PACKAGE_VERSION}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in names:
        _module(name).add_parser(subparsers)
    return parser


def _module(name: str) -> Any:
    return importlib.import_module(f"arrayd.cli.{name.replace('-', '_')}")


def _give_up_output() -> None:
    """Let the interpreter's last flush succeed: the reader of our output is gone (``| head``)."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
