"""The daemon's options: every name, default and meaning, in one table, `Config`.

An option is taken from its flag, else from ``ARRAYD_<OPTION>``, else from the TOML
file, else it is its default. A default is a text like any other: what the table
shows can be written. ``python -m arrayd_server.config`` prints the README's table.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import resource
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, Self

from arrayd.common import endpoints
from arrayd.common.bytesize import format_bytes, parse_bytes
from arrayd_server.core import bounds
from arrayd_server.core.bounds import Bound
from arrayd_server.kernel import memory_limits

LEAST_LOADER_MEMORY = 128 << 20
"""Bytes with which a loader can do anything at all: Python, numpy and h5py take 60 MiB."""


class ConfigError(ValueError):
    """An option cannot be used: one line that names it, its origin and the allowed form."""


# How the text of an option becomes its value. A ValueError says what may be written.


def _endpoint(text: str) -> str:
    url = f"ipc://{endpoints.private_socket()}" if text == endpoints.PRIVATE else text
    scheme, _, path = url.partition("://")
    if path and scheme != "ipc":
        raise ValueError("arrayd listens on no network; write ipc:///absolute/path or private")
    if not path.startswith("/") or not path.strip("/"):
        raise ValueError("write ipc:///absolute/path or private")
    endpoint, most = endpoints.normalize(path), endpoints.SOCKET_PATH_BYTES
    if endpoints.path_bytes(endpoint) > most:
        raise ValueError(f"the path is longer than the {most} bytes of a Unix socket")
    return endpoint


class Budget(int):
    """Bytes to keep in shared memory, and what sets this limit."""

    bound: Bound = bounds.GIVEN


def _budget(text: str) -> Budget:
    if not text.endswith("%"):
        return Budget(_positive(_bytes(text)))
    try:
        percent = float(text[:-1])
    except ValueError:
        percent = math.nan
    if not 0 < percent <= 100:
        raise ValueError("write a percentage above 0% and up to 100%")
    capacity = memory_limits.capacity()
    budget = Budget(_positive(int(capacity.smallest * percent / 100)))
    budget.bound = bounds.share(capacity.tightest, text, format_bytes(capacity.smallest))
    return budget


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise ValueError(f"{error}, or a percentage") from None


def _positive(count: int) -> int:
    if count < 1:
        raise ValueError("write a number above 0")
    return count


def _count(auto: Callable[[], int]) -> Callable[[str], int]:
    """Return the parser of a whole number above 0, or ``auto`` for what `auto` finds."""

    def parse(text: str) -> int:
        if text == "auto":
            return auto()
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            raise ValueError("write a whole number above 0, or auto")
        return int(text)

    return parse


def _auto_workers() -> int:
    # Fresh pages soon limit a load, not CPUs; the other CPUs are for those who asked.
    return min(len(os.sched_getaffinity(0)), 8)


def _auto_clients() -> int:
    # The hard limit, for the daemon raises its own to it. A client costs its connection
    # and a pidfd; twice that, since one that reconnects is here twice for a moment.
    # 256 are the daemon's: segments, workers, log. Without a descriptor it can neither
    # make nor ask of a segment, so this errs on the small side.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 4096 if hard == resource.RLIM_INFINITY else max(8, min((hard - 256) // 4, 4096))


def _memory(text: str) -> int:
    if text == "auto":
        return _auto_memory()
    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None
    if size < LEAST_LOADER_MEMORY:
        raise ValueError("write 128M or more: a loader that reads nothing has 60M")
    return size


def _auto_memory() -> int:
    # What must fit is one HDF5 chunk, twice, or one line of text, five times: libraries advise
    # chunks up to 1 MiB, and 2 GiB leave room for those that nobody advised. An eighth of a
    # small machine, for several loaders may meet a bomb at a time; the kernel, should that be
    # too much still, kills a loader first (worker.py).
    capacity = memory_limits.capacity()
    memory = min(capacity.ram, capacity.cgroup or capacity.ram)
    return max(2 * LEAST_LOADER_MEMORY, min(memory // 8, 2 << 30))


def _seconds(minimum: float, form: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (minimum <= value < math.inf):
            raise ValueError(f"write seconds, {form}")
        return value

    return parse


def _switch(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return words[text.lower()]
    except KeyError:
        raise ValueError("write true or false") from None


def _level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError("write debug, info, warning or error")
    return text.upper()


def _file(text: str) -> Path | None:
    # Absolute, for the daemon works in /.
    return None if text == "-" else Path(text).expanduser().absolute()


@dataclass(frozen=True, slots=True)
class _Option:
    """One row of the table: how its text is read, and how it is described."""

    parse: Callable[[str], Any]
    default: str
    metavar: str
    help: str


def _option(parse: Callable[[str], Any], default: str, metavar: str, help: str) -> Any:
    return field(metadata={"option": _Option(parse, default, metavar, help)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The options of one run; see `load`. Times are in seconds, sizes in bytes."""

    config: Path | None = _option(  # noqa: RUF009  it is a dataclasses.field
        _file, "-", "FILE", "TOML file with the options below, `name = value`; `-`: none"
    )
    endpoint: str = _option(
        _endpoint,
        "private",
        "ipc://PATH",
        "socket to listen on; `private`: `$XDG_RUNTIME_DIR/arrayd/sock`, "
        "without that variable `/tmp/arrayd-<uid>/sock`",
    )
    budget: Budget = _option(  # noqa: RUF009  it is a dataclasses.field
        _budget,
        "50%",
        "SIZE",
        "bytes to keep in shared memory: `16M`, `4G`, `1.5T` (binary units), or a percentage "
        "of the smallest of RAM, /dev/shm and the tightest memory cgroup",
    )
    workers: int = _option(
        _count(_auto_workers), "auto", "N", "loader processes; `auto`: one per CPU, at most 8"
    )
    load_timeout: float = _option(
        _seconds(0.001, "above 0"),
        "3600",
        "SECONDS",
        "a look at a file, or the reading of it or of one part of a large one, that takes longer "
        "fails",
    )
    loader_memory: int = _option(
        _memory,
        "auto",
        "SIZE",
        "memory of a loader process besides the block: a file that needs more fails; `auto`: an "
        "eighth of RAM or of the tightest memory cgroup, from 256M to 2G",
    )
    keep_pages: float = _option(
        _seconds(0, "0 for never"),
        "5",
        "SECONDS",
        "keep the pages of a block that has gone so long for the next load, which is then faster, "
        "unless memory runs short; `0`: never",
    )
    idle_exit: float = _option(
        _seconds(0, "0 for never"),
        "0",
        "SECONDS",
        "exit after so long without a session or a mapped block; `0`: never",
    )
    private: bool = _option(
        _switch, "false", "", "one user's daemon, started by a client; `arrayd status` says so"
    )
    max_clients: int = _option(
        _count(_auto_clients),
        "auto",
        "N",
        "sessions at a time; `auto`: what the limit of open files allows, at most 4096",
    )
    log_level: str = _option(_level, "info", "LEVEL", "`debug`, `info`, `warning` or `error`")
    log_file: Path | None = _option(  # noqa: RUF009  it is a dataclasses.field
        _file, "-", "FILE", "log here, in two files of at most 1 MiB; `-`: standard error"
    )
    check: bool = _option(
        _switch, "false", "", "verify the registry's rules after every event (for tests)"
    )

    @classmethod
    def load(cls, argv: Sequence[str] = ()) -> Self:
        """Return the options of the command line `argv` (without the program), environment, file.

        Raises
        ------
        ConfigError
            An option is unknown or has a value that it cannot have.
        """
        flags = {name: _text(v) for name, v in vars(_parser().parse_args(argv)).items()}
        chosen = {
            name: _Given.flag(name, flags[name])
            or _Given.variable(name, os.environ.get(_variable(name)))
            for name in _TABLE
        }
        filed = _from_file(_value("config", chosen["config"]))
        return cls(
            **{name: _value(name, given or filed.get(name)) for name, given in chosen.items()}
        )


_TABLE: dict[str, _Option] = {f.name: f.metadata["option"] for f in fields(Config)}


@dataclass(frozen=True, slots=True)
class _Given:
    """The text of an option, and how its owner would recognise it."""

    text: str
    origin: str

    @classmethod
    def flag(cls, name: str, text: str | None) -> Self | None:
        return None if text is None else cls(text, f"{_flag(name)} {text}")

    @classmethod
    def variable(cls, name: str, text: str | None) -> Self | None:
        # Empty is unset, as shells have it.
        return cls(text, f"{_variable(name)}={text}") if text else None


def _value(name: str, given: _Given | None) -> Any:
    option = _TABLE[name]
    given = given or _Given(option.default, f"default of {_flag(name)}: {option.default}")
    try:
        return option.parse(given.text)
    except ValueError as error:
        raise ConfigError(f"{given.origin}: {error}.") from None


def _from_file(path: Path | None) -> dict[str, _Given]:
    """Return what the TOML file at `path` sets."""
    if path is None:
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config {path}: {error.strerror}.") from None
    except ValueError as error:  # TOML's and UTF-8's alike
        raise ConfigError(f"config {path}: not a TOML file: {error}.") from None
    return {key: _Given(*_read(path, key, value)) for key, value in content.items()}


def _read(path: Path, key: str, value: Any) -> tuple[str, str]:
    """Return text and origin of one ``key = value`` of the file."""
    known = [name for name in _TABLE if name != "config"]  # a file names no other file
    if key not in known:
        near = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"options are {', '.join(known)}."
        raise ConfigError(f"config {path}: unknown option {key}; {hint}")
    text = _text(value)
    if text is None:
        raise ConfigError(f"config {path}: {key}: write a string, a number, true or false.")
    return text, f"config {path}: {key} = {text}"


def _text(value: Any) -> str | None:
    """Return what would be typed for a value of argparse or TOML; None: nothing could."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (str, int, float)) else None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return f"ARRAYD_{name.upper()}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="arrayd serve", description="Run the arrayd daemon.", allow_abbrev=False)
    for name, option in _TABLE.items():
        shown = f"{option.help} (default: {option.default})".replace("%", "%%").replace("`", "")
        if option.parse is _switch:
            parser.add_argument(_flag(name), action=argparse.BooleanOptionalAction, help=shown)
        else:
            parser.add_argument(_flag(name), metavar=option.metavar, help=shown)
    return parser


def markdown_table() -> str:
    """Return the options as the README shows them."""
    return "\n".join(_rows()) + "\n"


def _rows() -> Iterator[str]:
    yield "| flag | environment | default | meaning |"
    yield "|---|---|---|---|"
    for name, option in _TABLE.items():
        usage = f"{_flag(name)} {option.metavar}".rstrip()
        yield f"| `{usage}` | `{_variable(name)}` | `{option.default}` | {option.help} |"


if __name__ == "__main__":
    sys.stdout.write(markdown_table())
