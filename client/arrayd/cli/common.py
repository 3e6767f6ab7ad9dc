"""What the commands share: the parser, the forms of dtypes and slices, errors and exit codes."""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import sys
from typing import Any, NoReturn, TypeAlias

import numpy as np

from arrayd.client import Client
from arrayd.errors import DaemonLost, NoDaemon, NoRoom
from arrayd.source import FORMATS, OVERFLOWS
from arrayd.system import daemon_probe, launch
from arrayd.wire import dtypes

Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"

_NO_OPTIONS = {
    *("what", "source", "sources", "dataset", "dtype", "cast", "overflow", "rows", "order"),
    *("format", "mode", "pin", "timeout", "progress", "return_errors"),
}
"""Keywords of `arrayd.get` that are no options of a format; most have flags of their own."""

_OUTSIDE_BRACKETS = re.compile(r",(?![^(\[]*[)\]])")


class UsageError(Exception):
    """The command line itself is wrong."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError`, which `main` prints."""
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def exit_code(error: Exception) -> int:
    """Return what a command that fails with `error` exits with."""
    if isinstance(error, UsageError):
        return 2
    if isinstance(error, (NoDaemon, DaemonLost)):
        return 3
    return 4 if isinstance(error, NoRoom) else 1


def complain(words: object) -> None:
    """Print in one line on standard error what is wrong."""
    print("arrayd:", " ".join(str(words).split()), file=sys.stderr)


def print_json(value: Any) -> None:
    """Print plain data as JSON."""
    print(json.dumps(value, indent=2, default=str))


def become(module: str, *arguments: str) -> NoReturn:
    """Replace this process by a program of the server's, which a client never imports."""
    sys.stdout.flush()
    # -P: the daemon must not import a numpy.py from the current directory.
    command = [sys.executable, "-P", "-m", module, *arguments]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


def running(endpoint: str | None) -> Client:
    """Connect to a daemon that runs: none is started, and none is waited for.

    Raises
    ------
    NoDaemon
        None does. (A client of an array waits for ten seconds, for it may be restarted.)
    """
    found = launch.find_endpoint(endpoint, start=False)
    if not daemon_probe.alive(found):
        raise NoDaemon(
            f"No arrayd daemon listens at {found}, or it does not admit you: `arrayd doctor` tells "
            "which. Start one: `arrayd serve`, `systemctl start arrayd`."
        )
    return Client(found, start=False)


# ---- options ---------------------------------------------------------------------------------


def add_command(subparsers: Subparsers, name: str, help: str, *, json: bool = False) -> Parser:
    """Add a command that talks to a daemon; return its parser."""
    parser = subparsers.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.add_argument(
        "--endpoint", metavar="ipc://PATH", help="the daemon's socket, or `private`"
    )
    if json:
        about = f"print JSON, for programs: see `arrayd schema {name}`"
        parser.add_argument("--json", action="store_true", help=about)
    return parser


def add_source_options(parser: Parser) -> None:
    """Add what says how a file is to be read: the options of `arrayd.Source.of`."""
    parser.add_argument(
        "--dtype",
        type=parse_dtype,
        help="the type in the file: f4, chr:S10,pos:i4 or [('x', 'f4'), …]",
    )
    parser.add_argument("--cast", type=parse_dtype, metavar="DTYPE", help="the type wanted")
    parser.add_argument(
        "--overflow", choices=OVERFLOWS, help="what to do with values beyond --cast"
    )
    parser.add_argument("--rows", type=parse_rows, metavar="A:B:C", help="a slice of axis 0")
    parser.add_argument("--dataset", metavar="NAME", help="HDF5 dataset or npz member")
    parser.add_argument("--order", choices=("C", "F"), help="memory layout of the block")
    add_format_options(parser, "-o")


def add_format_options(parser: Parser, flag: str = "--option") -> None:
    """Add ``--format``, and `flag` for the options of that format, where -o is the output."""
    parser.add_argument(
        "--format",
        metavar="NAME",
        help=f"{', '.join(FORMATS)}, or of a plug-in; default: by the suffix",
    )
    parser.add_argument(
        flag,
        dest="options",
        type=parse_option,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the format, such as skiprows=1, shape=(-1,3) or swmr=True; "
        "may be repeated",
    )


def source_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords that `add_source_options` asked for."""
    names = ("dtype", "cast", "overflow", "rows", "format", "dataset", "order")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return {**given, **dict(args.options)}


def parse_dtype(text: str) -> np.dtype[Any]:
    """Return the dtype that ``f4``, ``chr:S10,pos:i4`` or a literal list stands for.

    Raises
    ------
    argparse.ArgumentTypeError
        There is none.
    """
    try:
        if text.lstrip().startswith("["):
            return _dtype(ast.literal_eval(text.strip()))
        if ":" in text:
            return _dtype([_field(part) for part in _OUTSIDE_BRACKETS.split(text)])
        return _dtype(text)
    except (TypeError, ValueError, SyntaxError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no dtype ({error}); write f4, chr:S10,pos:i4 or [('x', 'f4')]"
        ) from None


def _dtype(value: Any) -> np.dtype[Any]:
    return dtypes.understood("dtype", value)


def _field(text: str) -> tuple[str, str]:
    name, _, kind = text.strip().partition(":")
    if not (name and kind):
        raise ValueError(f"{text!r} is no name:type")
    return name, kind


def parse_rows(text: str) -> slice:
    """Return the slice that ``a:b`` or ``a:b:c`` stands for; each part may be empty.

    Raises
    ------
    argparse.ArgumentTypeError
        There is none.
    """
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
        if not 2 <= len(parts) <= 3:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no slice; write 0:1000, 5: or ::10"
        ) from None
    return slice(*parts)


def parse_seconds(text: str) -> float:
    """Return a timeout in seconds.

    Raises
    ------
    argparse.ArgumentTypeError
        The text is none.
    """
    try:
        seconds = float(text)
        if seconds >= 0:  # NaN is not
            return seconds
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 on")


def parse_option(text: str) -> tuple[str, Any]:
    """Return key and value of ``key=value``: a Python literal, else the text itself.

    Raises
    ------
    argparse.ArgumentTypeError
        There is no key, or none of a format.
    """
    key, separator, value = text.partition("=")
    if not (key.isidentifier() and separator):
        raise argparse.ArgumentTypeError(f"{text!r} is no key=value")
    if key in _NO_OPTIONS:
        raise argparse.ArgumentTypeError(f"{key} is no option of a format; see --{key}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


# ---- output ----------------------------------------------------------------------------------


def dtype_words(dtype: np.dtype[Any]) -> str:
    """Return a dtype as it may be typed: ``float32``, ``chr:S10,pos:i4``."""
    if dtype.names is None:
        return str(dtype)
    fields = {name: dtype[name] for name in dtype.names}
    return ",".join(f"{name}:{_type_words(field)}" for name, field in fields.items())


def _type_words(dtype: np.dtype[Any]) -> str:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return f"{shape}{_type_words(base)}".replace(" ", "")
    plain = dtype.names is None and dtype.isbuiltin != 2  # 2: a package's type, such as bfloat16
    return dtype.str.lstrip("<|=") if plain else str(dtype)
